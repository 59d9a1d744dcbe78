"""The writer of picture files: it never overwrites unasked, and saves pictures elsewhere if a write fails."""

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from itertools import count as count_from
from pathlib import Path

from PIL import Image

from config.settings import PictureFormat
from sensenova_cli.errors import OutputError, OutputWriteError
from sensenova_cli.outputs.picture_files import FORMATS, EncodedPicture, encode_picture
from sensenova_cli.outputs.picture_names import (
    DEFAULT_ENDINGS,
    DEFAULT_NAME,
    FIELDS,
    MAX_SLUG,
    PNG_FORM,
    SHOWN,
    PictureForm,
    fixed_folder,
    name_template,
    require_supported,
    slug,
    template_fields,
)
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.system.atomic_files import check_writable, create_file, replace_file
from sensenova_cli.system.streams import discard_stdout, stdout_is_closed

STDOUT_NAMES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class PictureWriter:
    """Names and writes the pictures of one run. `prepare` makes a writer before the model is loaded.

    A picture never replaces another picture of the same run. Without `force` it replaces no file at all.
    """

    def __init__(
        self,
        template: str | None,
        *,
        force: bool,
        numbered: bool,
        form: PictureForm = PNG_FORM,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self._template = template
        """Path with fields in braces; None for stdout."""
        self._force = force
        self._numbered = numbered
        """Whether -2, -3, … is appended to a name that is taken; otherwise that is an error."""
        self._form = form
        self._note = note
        self._written: set[Path] = set()

    @classmethod
    def prepare(
        cls,
        output: str | None,
        *,
        force: bool = False,
        stdout_is_terminal: bool,
        count: int = 1,
        default: str = DEFAULT_NAME,
        existing: Collection[int] = (),
        form: PictureForm = PNG_FORM,
        note: Callable[[str], None] | None = None,
        writes: bool = True,
    ) -> "PictureWriter":
        """Choose the names, create missing folders, and check that files can be written there.

        Args:
            output: None for `default` in the current folder; a folder (existing, or with a trailing
                slash) for that name in it; a picture file, or a template of one with the fields slug, seed, index
                (from 0), count, width and height; `-` for the file on stdout. If a run makes several pictures,
                `-{index}` is appended to a name without the fields seed and index. `/dev/null` writes nothing.
            force: replace existing files.
            stdout_is_terminal: whether bytes on stdout would appear on a screen.
            count: number of pictures that the run will make, or the largest number that it can make.
            default: template of a file's name where `output` names none. Its ending is replaced by the form's.
            existing: numbers of pictures, from 0, that exist already and will not be written.
            form: format and quality of the files.
            note: called with a sentence about a part of a record that a file has no room for, and the like.
            writes: whether the pictures will be written. Otherwise only their names are chosen.

        Raises:
            OutputError: `output` has none of these forms, or contradicts `form`; the file exists and `force` is False;
                the folder cannot be written; or stdout is a terminal, is closed, or would get several pictures.
        """
        if output == "-":
            if stdout_is_terminal:
                raise OutputError(
                    f"{SHOWN[form.format]} bytes would garble the terminal",
                    f"redirect them (-o - > picture{DEFAULT_ENDINGS[form.format]}), or name a file with -o",
                )
            if stdout_is_closed():
                raise OutputError("stdout is closed, so the picture would go nowhere", "name a file with -o")
            _require_single(count)
            require_supported(form.format)
            _note_quality(form, form.format, note)
            return cls(None, force=force, numbered=False, form=form, note=note)
        if output == os.devnull:
            return cls(os.devnull, force=True, numbered=False)
        if output in STDOUT_NAMES:
            raise OutputError(f"{output} is standard output", "write the bytes to it with -o -")
        template = name_template(output, default, form)
        fields = template_fields(template)
        if count > 1 and not fields & {"seed", "index"}:
            path = Path(template)
            template = str(path.with_name(f"{path.stem}-{{index}}{path.suffix}"))
        planned = cls(template, force=force, numbered=bool(fields), form=form, note=note)
        _require_possible(planned._path(**{**FIELDS, "slug": "a" * MAX_SLUG}))
        if not fields:
            for index in set(range(count)).difference(existing):
                _require_free(planned._path(index=index, count=count), force)
        _note_quality(form, FORMATS[Path(template).suffix.lower()], note)
        if writes:
            _require_writable(fixed_folder(template))
        return planned

    def plan(self, *, prompt: str, seed: int, index: int, count: int, size: tuple[int, int]) -> Path | None:
        """Return the file that `write` would write now, without writing it; None for stdout."""
        if self._template is None or self._template == os.devnull:
            return None if self._template is None else Path(os.devnull)
        path = self._named(prompt, seed, index, count, size)
        if not (self._force and path.absolute() not in self._written):
            path = next(
                each for each in _candidates(path) if each.absolute() not in self._written and not os.path.lexists(each)
            )
        self._written.add(path.absolute())
        return path

    def write(
        self,
        image: Image.Image,
        *,
        prompt: str,
        seed: int,
        index: int,
        count: int,
        record: PictureRecord | None,
    ) -> Path | None:
        """Write one picture.

        Args:
            image: RGB, 8 bits a channel.
            index, count: this is picture `index` (from 0) of the `count` that the run makes.
            record: how the picture was made, to be stored in the file; None to store nothing.

        Returns:
            The file, relative if the output was given as a relative path; None if the bytes went to stdout.

        Raises:
            OutputWriteError: the write failed, and the message says where the picture was saved instead; or the
                picture was written without its record.
            OutputError: stdout would get several pictures.
            BrokenPipeError: the reader of stdout has ended.
        """
        if self._template is None:
            _require_single(count)
            encoded = self._encode_for_stdout(image, record)
            _write_stdout(encoded.content, DEFAULT_ENDINGS[self._form.format])
            self._require_record("the picture on stdout", encoded)
            return None
        if self._template == os.devnull:
            return Path(os.devnull)
        path = self._named(prompt, seed, index, count, image.size)
        encoded, problem = self._encode(image, record, path)
        if problem:
            path = path.with_suffix(".png")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The user has allowed to replace the file that was named, and no other one.
            written = self._place(encoded.content, path, force=self._force and not problem)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise OutputWriteError(
                f"{path} cannot be written: {reason}; {_save_elsewhere(encoded.content, path)}",
                "free some disk space, or choose another place with -o",
            ) from error
        self._written.add(written.absolute())
        if problem and self._note is not None:
            self._note(f"{problem}, so it was written to {written}")
        elif written != path and not self._numbered and path.absolute() not in self._written:
            raise OutputWriteError(
                f"another program created {path} in the meantime, so the picture was written to {written}",
                "use -f to replace existing files",
            )
        self._require_record(str(written), encoded)
        return written

    def _named(self, prompt: str, seed: int, index: int, count: int, size: tuple[int, int]) -> Path:
        width, height = size
        return self._path(slug=slug(prompt), seed=seed, index=index, count=count, width=width, height=height)

    def _path(self, **fields: object) -> Path:
        assert self._template is not None
        return Path(self._template.format(**fields))

    def _encode(self, image: Image.Image, record: PictureRecord | None, path: Path) -> tuple[EncodedPicture, str]:
        """Return the picture in the format of the file's ending; or as a PNG file, and why, if that format cannot hold
        it."""
        form = FORMATS[path.suffix.lower()]
        try:
            return encode_picture(image, record, form, self._form.quality), ""
        except (OSError, ValueError) as error:
            if form == "png":
                raise
            return encode_picture(image, record), _too_large(image, form, error)

    def _encode_for_stdout(self, image: Image.Image, record: PictureRecord | None) -> EncodedPicture:
        form = self._form.format
        try:
            return encode_picture(image, record, form, self._form.quality)
        except (OSError, ValueError) as error:
            saved = _save_elsewhere(encode_png(image, record), Path("picture.png"))
            raise OutputWriteError(f"{_too_large(image, form, error)}; {saved}", "use `format=png`") from error

    def _require_record(self, written: str, encoded: EncodedPicture) -> None:
        if encoded.problem is not None:
            raise OutputWriteError(
                f"{written} is complete, but has no record of how it was made: "
                f"{type(encoded.problem).__name__}: {encoded.problem}",
                "this is a fault of the program, please report it; `metadata=false` makes pictures without a record",
            ) from encoded.problem
        if encoded.missing and self._note is not None:
            self._note(
                f"{written} is complete, but without {encoded.missing}, for which a JPEG file has no room; PNG and "
                "WebP files have it"
            )

    def _place(self, content: bytes, path: Path, *, force: bool) -> Path:
        if force and path.absolute() not in self._written:
            replace_file(path, content)
            return path
        written = create_file(_candidates(path), content)
        assert written is not None  # the candidates never end
        return written


def encode_png(image: Image.Image, record: PictureRecord | None) -> bytes:
    """Return a picture as a PNG file with its record; without one if the record cannot be written."""
    return encode_picture(image, record).content


def save_elsewhere(image: Image.Image, record: PictureRecord | None, prompt: str) -> str:
    """Save a picture in the system's temporary folder, because there is no other place for it.

    Returns:
        A sentence with the file's name, or about a failure.
    """
    return _save_elsewhere(encode_png(image, record), Path(f"{slug(prompt)}.png"))


def _note_quality(form: PictureForm, written: PictureFormat, note: Callable[[str], None] | None) -> None:
    if form.has_typed_quality and written == "png" and note is not None:
        note("`quality` has no effect on PNG files, which keep every pixel")


def _require_single(count: int) -> None:
    if count > 1:
        raise OutputError(f"stdout cannot take {count} pictures", "make one picture, or name a folder or file with -o")


def _require_free(path: Path, force: bool) -> None:
    if path.is_dir():
        raise OutputError(f"{path} is a folder", f"write {path}/ to write the picture into it")
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path} exists already", "use -f to replace it, or choose another name")


def _require_possible(path: Path) -> None:
    """Raise OutputError if no file can have this name."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(f"the output name {path} is too long", "choose a shorter name with -o") from error


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        blocking = next((part for part in (folder, *folder.parents) if part.is_file()), None)
        reason = f"{blocking} is a file" if blocking else error.strerror or error
        raise OutputError(
            f"no file can be written in the folder {folder}: {reason}", "choose another place with -o"
        ) from error


def _too_large(image: Image.Image, form: PictureFormat, error: Exception) -> str:
    return f"a {SHOWN[form]} file cannot hold this picture of {image.width}x{image.height} ({error})"


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for number in count_from(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _write_stdout(content: bytes, ending: str) -> None:
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # At exit Python would write the rest of its buffer, fail again, and print a traceback.
        discard_stdout()
        saved = _save_elsewhere(content, Path(f"picture{ending}"))
        raise OutputWriteError(
            f"stdout cannot be written: {error.strerror or error}; {saved}",
            "free some disk space, or name a file with -o",
        ) from error


def _save_elsewhere(content: bytes, name: Path) -> str:
    """Save the picture in the system's temporary folder. Return a sentence with the file's name, or about a failure."""
    path: Path | None = None
    try:
        handle, file_name = tempfile.mkstemp(prefix=f"{name.stem[:MAX_SLUG]}-", suffix=name.suffix)
        path = Path(file_name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    except OSError as error:
        if path is not None:
            path.unlink(missing_ok=True)
        return f"the temporary folder cannot be written either ({error.strerror or error}), so the picture is lost"
    return f"the picture was saved in {path}"
