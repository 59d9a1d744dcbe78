"""Names of picture files: templates, endings that choose the format, and words of prompts."""

import os
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import NamedTuple

from PIL import features

from config.settings import OutputSettings, PictureFormat
from config.validation import join_or
from sensenova_cli.errors import OutputError
from sensenova_cli.outputs.picture_files import DEFAULT_QUALITY, FORMATS

DEFAULT_NAME = "{slug}-{seed}.png"
ANSWER_NAME = "{slug}-{seed}-{index}.png"
"""Name of a picture of an interleaved answer."""
FIELDS = {"slug": "a", "seed": 42, "index": 0, "count": 1, "width": 2048, "height": 2048}
"""The fields of a name template, with examples."""
MAX_SLUG = 40
SHOWN: dict[PictureFormat, str] = {"png": "PNG", "jpeg": "JPEG", "webp": "WebP"}
"""The formats' names in messages."""
DEFAULT_ENDINGS: dict[PictureFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True)
class PictureForm:
    """The form in which pictures are written.

    Attributes:
        format: format of files whose names have no ending, and of stdout. Otherwise the ending decides.
        quality: of JPEG and WebP files, 1 to 100.
        is_typed: whether the user typed the format, so that a name with another ending contradicts it.
        has_typed_quality: whether the user typed the quality, so that PNG files, which have none, need a notice.
    """

    format: PictureFormat = "png"
    quality: int = DEFAULT_QUALITY
    is_typed: bool = False
    has_typed_quality: bool = False

    @classmethod
    def of(cls, settings: OutputSettings, typed: Collection[str]) -> "PictureForm":
        """Return the form that settings ask for.

        Args:
            typed: names of the settings that the user typed.
        """
        return cls(settings.format, settings.quality, "format" in typed, "quality" in typed)


PNG_FORM = PictureForm()


class PicturePlace(NamedTuple):
    """The place of a run's pictures.

    Attributes:
        folder: the folder of all of them.
        is_deep: whether some are in subfolders of it, because a folder's name has fields.
        format: their format.
    """

    folder: Path
    is_deep: bool
    format: PictureFormat


def picture_place(output: str | None, form: PictureForm = PNG_FORM) -> PicturePlace:
    """Return the place of the pictures of an output, as for `PictureWriter.prepare`.

    Raises:
        OutputError: `output` is not a name of files, or contradicts `form`.
    """
    template = name_template(output, DEFAULT_NAME, form)
    folder = fixed_folder(template)
    is_deep = len(folder.parts) < len(Path(template).parent.parts)
    return PicturePlace(folder, is_deep, FORMATS[Path(template).suffix.lower()])


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


def name_template(output: str | None, default: str, form: PictureForm) -> str:
    """Return the template of the files' names that an output means, as for `PictureWriter.prepare`.

    Raises:
        OutputError: `output` is not a name of files, or contradicts `form`.
    """
    default = str(Path(default).with_suffix(DEFAULT_ENDINGS[form.format]))
    if output is None:
        require_supported(form.format)
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
    if is_folder or output.endswith(("/", os.sep)):
        require_supported(form.format)
    if is_folder:
        return str(path).replace("{", "{{").replace("}", "}}") + f"/{default}"
    if output.endswith(("/", os.sep)):
        return f"{path}/{default}"
    _require_format(path, output, form)
    return str(path)


def _require_format(path: Path, output: str, form: PictureForm) -> None:
    """Raise OutputError if a file's ending is not that of a format, or of another one than the user typed."""
    ending = path.suffix.lower()
    own = path.with_name((path.stem.strip(".") or "picture") + DEFAULT_ENDINGS[form.format])
    if ending not in FORMATS:
        raise OutputError(
            f"pictures are written as PNG, JPEG or WebP files, and {output} does not end in {join_or(list(FORMATS))}",
            f"name it {own}, or write {output}/ for a folder",
        )
    if form.is_typed and FORMATS[ending] != form.format:
        raise OutputError(
            f"`format={form.format}` and the name {output} contradict each other",
            f"name it {own}, or leave the format out",
        )
    require_supported(FORMATS[ending])


def require_supported(form: PictureFormat) -> None:
    """Raise OutputError if this installation cannot write a format."""
    if form == "webp" and not features.check("webp"):
        raise OutputError("this installation of Pillow cannot write WebP files", "use PNG or JPEG, or reinstall Pillow")


def template_fields(template: str) -> set[str]:
    """Return the fields in a template.

    Raises:
        OutputError: the template is damaged, or has a field that is not in `FIELDS`.
    """
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


def fixed_folder(template: str) -> Path:
    """Return the part of the template's folder that is the same for all pictures."""
    fixed = Path()
    for part in Path(template).parent.parts:
        if template_fields(part):
            break
        fixed /= part.format()
    return fixed
