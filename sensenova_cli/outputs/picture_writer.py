"""The writer of picture files: it chooses names, never overwrites unasked, and saves pictures if a write fails."""

import errno
import io
import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from itertools import count as count_from
from pathlib import Path
from string import Formatter

from PIL import Image

from sensenova_cli.errors import OutputError, OutputWriteError
from sensenova_cli.outputs.picture_files import png_info
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.system.atomic_files import check_writable, create_file, replace_file
from sensenova_cli.system.streams import discard_stdout, stdout_is_closed

DEFAULT_NAME = "{slug}-{seed}.png"
ANSWER_NAME = "{slug}-{seed}-{index}.png"
"""Name of a picture of an interleaved answer."""
FIELDS = {"slug": "a", "seed": 42, "index": 0, "count": 1, "width": 2048, "height": 2048}
"""The fields of a name template, with examples."""
MAX_SLUG = 40
STDOUT_NAMES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class PictureWriter:
    """Names and writes the pictures of one run. `prepare` makes a writer before the model is loaded.

    A picture never replaces another picture of the same run. Without `force` it replaces no file at all.
    """

    def __init__(self, template: str | None, *, force: bool, numbered: bool) -> None:
        self._template = template
        """Path with fields in braces; None for stdout."""
        self._force = force
        self._numbered = numbered
        """Whether -2, -3, … is appended to a name that is taken; otherwise that is an error."""
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
    ) -> "PictureWriter":
        """Choose the names, create missing folders, and check that files can be written there.

        Args:
            output: None for `default` in the current folder; a folder (existing, or with a trailing
                slash) for that name in it; a PNG file, or a template of one with the fields slug, seed, index
                (from 0), count, width and height; `-` for PNG bytes on stdout. If a run makes several pictures,
                `-{index}` is appended to a name without the fields seed and index. `/dev/null` writes nothing.
            force: replace existing files.
            stdout_is_terminal: whether bytes on stdout would appear on a screen.
            count: number of pictures that the run will make, or the largest number that it can make.
            default: template of a file's name where `output` names none.

        Raises:
            OutputError: `output` has none of these forms, the file exists and `force` is False, the folder cannot be
                written, or stdout is a terminal, is closed, or would get several pictures.
        """
        if output == "-":
            if stdout_is_terminal:
                raise OutputError(
                    "PNG bytes would garble the terminal", "redirect them (-o - > picture.png), or name a file with -o"
                )
            if stdout_is_closed():
                raise OutputError("stdout is closed, so the picture would go nowhere", "name a file with -o")
            _require_single(count)
            return cls(None, force=force, numbered=False)
        if output == os.devnull:
            return cls(os.devnull, force=True, numbered=False)
        if output in STDOUT_NAMES:
            raise OutputError(f"{output} is standard output", "write the PNG bytes to it with -o -")
        template = _template(output, default)
        fields = _fields(template)
        if count > 1 and not fields & {"seed", "index"}:
            path = Path(template)
            template = str(path.with_name(f"{path.stem}-{{index}}{path.suffix}"))
        planned = cls(template, force=force, numbered=bool(fields))
        _require_possible(planned._path(**{**FIELDS, "slug": "a" * MAX_SLUG}))
        if not fields:
            for index in range(count):
                _require_free(planned._path(index=index, count=count), force)
        _require_writable(_fixed_folder(template))
        return planned

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
        """Write one picture as PNG.

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
        png, problem = _encode(image, record)
        if self._template is None:
            _require_single(count)
            _write_stdout(png)
            _require_record("the picture on stdout", problem)
            return None
        if self._template == os.devnull:
            return Path(os.devnull)
        width, height = image.size
        path = self._path(slug=slug(prompt), seed=seed, index=index, count=count, width=width, height=height)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            written = self._place(png, path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise OutputWriteError(
                f"{path} cannot be written: {reason}; {_save_elsewhere(png, path.stem)}",
                "free some disk space, or choose another place with -o",
            ) from error
        self._written.add(written.absolute())
        if written != path and not self._numbered and path.absolute() not in self._written:
            raise OutputWriteError(
                f"another program created {path} in the meantime, so the picture was written to {written}",
                "use -f to replace existing files",
            )
        _require_record(str(written), problem)
        return written

    def _path(self, **fields: object) -> Path:
        assert self._template is not None
        return Path(self._template.format(**fields))

    def _place(self, png: bytes, path: Path) -> Path:
        if self._force and path.absolute() not in self._written:
            replace_file(path, png)
            return path
        written = create_file(_candidates(path), png)
        assert written is not None  # the candidates never end
        return written


def encode_png(image: Image.Image, record: PictureRecord | None) -> bytes:
    """Return a picture as a PNG file with its record; without one if the record cannot be written."""
    return _encode(image, record)[0]


def save_elsewhere(image: Image.Image, record: PictureRecord | None, prompt: str) -> str:
    """Save a picture in the system's temporary folder, because there is no other place for it.

    Returns:
        A sentence with the file's name, or about a failure.
    """
    return _save_elsewhere(encode_png(image, record), slug(prompt))


def slug(prompt: str) -> str:
    """Return the first words of a prompt for a file name: letters and digits of any script, joined by hyphens."""
    text = unicodedata.normalize("NFKC", prompt.replace("<image>", " ")).lower()
    # Marks (category M) are parts of letters in many scripts; words must not be split at them.
    letters = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    words = letters.split()
    if not words:
        return "picture"
    short = words[0][:MAX_SLUG]
    for word in words[1:]:
        if len(short) + 1 + len(word) > MAX_SLUG:
            break
        short += f"-{word}"
    return short


def _template(output: str | None, default: str) -> str:
    if output is None:
        return default
    if not output.strip():
        raise OutputError("the output name is empty", "omit -o to write into the current folder")
    if "\0" in output:
        raise OutputError(f"the output name {output!r} contains a NUL character", "choose another name with -o")
    try:
        path = Path(output).expanduser()
        is_folder = path.is_dir()
    except (OSError, RuntimeError) as error:  # the name is too long, or the user of ~user is unknown
        raise OutputError(
            f"the output name {output} is not possible: {error}", "choose another name with -o"
        ) from error
    if is_folder:
        return str(path).replace("{", "{{").replace("}", "}}") + f"/{default}"
    if output.endswith(("/", os.sep)):
        return f"{path}/{default}"
    if path.suffix.lower() != ".png":
        raise OutputError(
            f"pictures are written as PNG files, and {output} does not end in .png",
            f"name it {path.with_name((path.stem.strip('.') or 'picture') + '.png')}, or write {output}/ for a folder",
        )
    return str(path)


def _fields(template: str) -> set[str]:
    names = ", ".join(f"{{{name}}}" for name in FIELDS)
    try:
        parts = list(Formatter().parse(template))
        if any(re.search(r"\d{3}", spec or "") for _, _, spec, _ in parts):
            raise ValueError("a width has more than two digits")
        fields = {name for _, name, _, _ in parts if name is not None}
        unknown = fields - FIELDS.keys()
        if not unknown:
            template.format(**FIELDS)
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise OutputError(
            f"the output name {template} is not a valid template: {error}",
            f"the fields are {names}; write {{{{ and }}}} for plain braces",
        ) from error
    if unknown:
        raise OutputError(
            f"the output name {template} has an unknown field {{{min(unknown)}}}",
            f"the fields are {names}; write {{{{ and }}}} for plain braces",
        )
    return fields


def _fixed_folder(template: str) -> Path:
    """Return the part of the template's folder that is the same for all pictures."""
    fixed = Path()
    for part in Path(template).parent.parts:
        if _fields(part):
            break
        fixed /= part.format()
    return fixed


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


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for number in count_from(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _encode(image: Image.Image, record: PictureRecord | None) -> tuple[bytes, Exception | None]:
    """Return the picture as PNG, and the error that prevented its record, or None."""
    chunks, problem = None, None
    try:
        chunks = png_info(record) if record is not None else None
    except Exception as error:  # a fault in the record must not lose a picture that took long to make
        problem = error
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue(), problem


def _require_record(written: str, problem: Exception | None) -> None:
    if problem is not None:
        raise OutputWriteError(
            f"{written} is complete, but has no record of how it was made: {type(problem).__name__}: {problem}",
            "this is a fault of the program, please report it; `metadata=false` makes pictures without a record",
        ) from problem


def _write_stdout(png: bytes) -> None:
    try:
        sys.stdout.buffer.write(png)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # At exit Python would write the rest of its buffer, fail again, and print a traceback.
        discard_stdout()
        raise OutputWriteError(
            f"stdout cannot be written: {error.strerror or error}; {_save_elsewhere(png, 'picture')}",
            "free some disk space, or name a file with -o",
        ) from error


def _save_elsewhere(png: bytes, stem: str) -> str:
    """Save the picture in the system's temporary folder. Return a sentence with the file's name, or about a failure."""
    path: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f"{stem[:MAX_SLUG]}-", suffix=".png")
        path = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(png)
    except OSError as error:
        if path is not None:
            path.unlink(missing_ok=True)
        return f"the temporary folder cannot be written either ({error.strerror or error}), so the picture is lost"
    return f"the picture was saved in {path}"
