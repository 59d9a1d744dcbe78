"""Where pictures go: their names, and what happens when a name is taken or a write fails."""

import io
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from itertools import count as count_from
from pathlib import Path
from string import Formatter

from PIL import Image

from sensenova_cli.errors import OutputError, OutputWriteError
from sensenova_cli.outputs.png_metadata import PictureRecord, png_info
from sensenova_cli.system.atomic_files import check_writable, create_file, replace_file
from sensenova_cli.system.streams import discard_stdout, stdout_is_closed

DEFAULT_NAME = "{slug}-{seed}.png"
FIELDS = {"slug": "a", "seed": 42, "index": 0, "count": 1, "width": 2048, "height": 2048}
"""The fields of a name template, with examples."""
MAX_SLUG = 40


class PictureWriter:
    """Names and writes the pictures of one run. Built by `plan`, before the model loads.

    A picture never replaces one that the same run has written, and without `force` no file at all.
    """

    def __init__(self, template: str | None, *, force: bool, numbered: bool) -> None:
        self._template = template
        """Path with fields in braces; None stands for stdout."""
        self._force = force
        self._numbered = numbered
        """Whether a taken name gets -2, -3, … appended; else it is an error."""
        self._written: set[Path] = set()

    @classmethod
    def prepare(
        cls, output: str | None, *, force: bool = False, stdout_is_terminal: bool, count: int = 1
    ) -> "PictureWriter":
        """Decide on the names and make sure that files can be written there; missing folders are created.

        Args:
            output: None for `{slug}-{seed}.png` in the current folder; a folder (existing, or with a trailing
                slash) for that name in it; a PNG file, or a template of one with the fields slug, seed, index
                (from 0), count, width and height; `-` for PNG bytes on stdout. A file without seed and index
                gets `-{index}` appended to its name when several pictures are made.
            force: replace existing files.
            stdout_is_terminal: whether bytes on stdout would end up on a screen.
            count: how many pictures the run will make.

        Raises:
            OutputError: none of these forms, an existing file without `force`, a folder that cannot be written,
                or a stdout that is a terminal, is closed, or would get several pictures.
        """
        if output == "-":
            if stdout_is_terminal:
                raise OutputError(
                    "PNG bytes would garble the terminal", "redirect them (-o - > picture.png), or name a file"
                )
            if stdout_is_closed():
                raise OutputError("stdout is closed, so the picture would go nowhere", "name a file with -o")
            _require_single(count)
            return cls(None, force=force, numbered=False)
        template = _template(output)
        fields = _fields(template)
        if count > 1 and not fields & {"seed", "index"}:
            path = Path(template)
            template = str(path.with_name(f"{path.stem}-{{index}}{path.suffix}"))
        planned = cls(template, force=force, numbered=bool(fields))
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
            record: what to note in the file about how it was made; None for nothing.

        Returns:
            The file, relative where the output was given so; None when the bytes went to stdout.

        Raises:
            OutputWriteError: the write failed, and the message says where the picture was kept instead; or the
                picture was written, but not its record.
            OutputError: stdout would get several pictures.
            BrokenPipeError: whatever read stdout has gone.
        """
        png, problem = _encode(image, record)
        if self._template is None:
            _require_single(count)
            _write_stdout(png)
            _require_record("the picture on stdout", problem)
            return None
        width, height = image.size
        path = self._path(slug=slug(prompt), seed=seed, index=index, count=count, width=width, height=height)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            written = self._place(png, path)
        except OSError as error:
            raise OutputWriteError(
                f"{path} cannot be written: {error.strerror or error}; {_keep(png, path.stem)}",
                "make room or choose another place with -o",
            ) from error
        self._written.add(written.absolute())
        if written != path and not self._numbered and path.absolute() not in self._written:
            raise OutputWriteError(
                f"{path} was created by another program meanwhile and is left alone; the picture is in {written}",
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
        assert written is not None  # there is no end of candidates
        return written


def slug(prompt: str) -> str:
    """The first words of a prompt as part of a file name: letters and digits of any script joined by hyphens."""
    text = unicodedata.normalize("NFKC", prompt.replace("<image>", " ")).lower()
    # Marks (category M) are parts of letters in many scripts; without them words would fall apart.
    kept = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    words = kept.split()
    if not words:
        return "picture"
    short = words[0][:MAX_SLUG]
    for word in words[1:]:
        if len(short) + 1 + len(word) > MAX_SLUG:
            break
        short += f"-{word}"
    return short


def _template(output: str | None) -> str:
    if output is None:
        return DEFAULT_NAME
    if not output.strip():
        raise OutputError("the output name is empty", "leave -o out to write into the current folder")
    try:
        path = Path(output).expanduser()
        is_folder = path.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that is not known
        raise OutputError(f"the output name {output} is not possible: {error}", "choose another one with -o") from error
    if is_folder:
        return str(path).replace("{", "{{").replace("}", "}}") + f"/{DEFAULT_NAME}"
    if output.endswith(("/", os.sep)):
        return f"{path}/{DEFAULT_NAME}"
    if path.suffix.lower() != ".png":
        raise OutputError(
            f"pictures are written as PNG files, and {output} is no name ending in .png",
            f"name it {path.with_name((path.stem.strip('.') or 'picture') + '.png')}, or write {output}/ for a folder",
        )
    return str(path)


def _fields(template: str) -> set[str]:
    names = ", ".join(f"{{{name}}}" for name in FIELDS)
    try:
        fields = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        unknown = fields - FIELDS.keys()
        if not unknown:
            template.format(**FIELDS)
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise OutputError(
            f"the output name {template} is no valid template: {error}",
            f"the fields are {names}; write {{{{ and }}}} for plain braces",
        ) from error
    if unknown:
        raise OutputError(
            f"the output name {template} has an unknown field {{{min(unknown)}}}",
            f"the fields are {names}; write {{{{ and }}}} for plain braces",
        )
    return fields


def _fixed_folder(template: str) -> Path:
    """The part of the template's folder that is the same for all pictures."""
    fixed = Path()
    for part in Path(template).parent.parts:
        if _fields(part):
            break
        fixed /= part.format()
    return fixed


def _require_single(count: int) -> None:
    if count > 1:
        raise OutputError(f"{count} pictures cannot share stdout", "make one picture, or name a folder or file with -o")


def _require_free(path: Path, force: bool) -> None:
    if path.is_dir():
        raise OutputError(f"{path} is a folder", f"write {path}/ to put the picture into it")
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path} exists already", "use -f to replace it, or choose another name")


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        blocking = next((part for part in (folder, *folder.parents) if part.is_file()), None)
        reason = f"{blocking} is a file" if blocking else error.strerror or error
        raise OutputError(
            f"nothing can be written into the folder {folder}: {reason}", "choose another place with -o"
        ) from error


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for number in count_from(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _encode(image: Image.Image, record: PictureRecord | None) -> tuple[bytes, Exception | None]:
    """The picture as PNG, and why its record is not in it where that is so."""
    chunks, problem = None, None
    try:
        chunks = png_info(record) if record is not None else None
    except Exception as error:  # the picture took long to make, and no slip in what is said about it may cost it
        problem = error
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue(), problem


def _require_record(written: str, problem: Exception | None) -> None:
    if problem is not None:
        raise OutputWriteError(
            f"{written} is whole, but does not say how it was made: {type(problem).__name__}: {problem}",
            "this is a fault of the program, please report it; `metadata=false` makes pictures without",
        ) from problem


def _write_stdout(png: bytes) -> None:
    try:
        sys.stdout.buffer.write(png)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in Python's buffer would fail once more, and noisily, when the program ends.
        discard_stdout()
        raise OutputWriteError(
            f"stdout cannot be written: {error.strerror or error}; {_keep(png, 'picture')}",
            "make room, or name a file with -o",
        ) from error


def _keep(png: bytes, stem: str) -> str:
    """Save what took long to make in the system's temporary folder, and say where it is."""
    path: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f"{stem[:MAX_SLUG]}-", suffix=".png")
        path = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(png)
    except OSError as error:
        if path is not None:
            path.unlink(missing_ok=True)
        return f"nor could the picture be kept in the temporary folder ({error.strerror or error})"
    return f"the picture is kept in {path}"
