"""What a PNG says about how it was made: written into it, and read back by `info` and `--from`.

Two text chunks: `sensenova` holds a PictureRecord as JSON, from which the picture can be made again;
`parameters` holds the line that other picture tools show. Nothing in them differs between two identical runs.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal

from PIL.PngImagePlugin import PngImageFile, PngInfo
from pydantic import BaseModel, ConfigDict, ValidationError

from config.errors import SettingsError
from config.schema import ImageSettings, Quantization
from model.errors import PictureError
from model.pictures import open_picture
from sensenova_cli.streams import STDIN
from sensenova_cli.unicode import json_text, valid_unicode

KEYWORD = "sensenova"
FORMAT = 1
"""Raised when a record can no longer be understood by programs that know an older format only."""


class InputPicture(BaseModel):
    """A picture an edit started from.

    Attributes:
        path: where it lay: absolute, since a record outlives the current folder; `-` for standard input.
        sha256: checksum of the file, in hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path, data: bytes | None = None) -> "InputPicture":
        """Describe a file by its bytes, which are read from `path` unless given.

        Raises:
            OSError: the file cannot be read.
        """
        place = Path(path).expanduser()
        content = place.read_bytes() if data is None else data
        return cls(path=STDIN if path == STDIN else str(place.absolute()), sha256=checksum(content))


class PictureRecord(BaseModel):
    """Everything it takes to make a picture again.

    Attributes:
        settings: explicit size, the picture's own seed, one image.
        model: the folder, absolute, or the Hub id.
        quantization, lora, enforce_eager: at their defaults in pictures of versions that had none of them.
        inputs: the pictures an edit started from, in order.
        think_text: the think text it was drawn from, or None.
        version: of the program that made it.
    """

    model_config = ConfigDict(frozen=True)

    task: Literal["generate", "edit"]
    prompt: str
    settings: ImageSettings
    model: str
    dtype: str
    quantization: Quantization = "off"
    lora: str | None = None
    enforce_eager: bool = False
    inputs: tuple[InputPicture, ...] = ()
    think_text: str | None = None
    version: str


def checksum(content: bytes) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def png_info(record: PictureRecord) -> PngInfo:
    """The text chunks for `Image.save(..., pnginfo=...)`."""
    chunks = PngInfo()
    content = {"format": FORMAT, **record.model_dump(mode="json")}
    # Uncompressed: any viewer shows it, and a long think text passes Pillow's limit for inflated chunks.
    chunks.add_itxt(KEYWORD, json_text(content), zip=False)
    chunks.add_text("parameters", valid_unicode(_parameters(record)))
    return chunks


def read_record(source: str | Path | bytes, name: str | None = None) -> PictureRecord | None:
    """The record a picture carries, or None.

    Settings that this version does not know are an error, since the picture could not be made again; other
    unknown entries are left aside.

    Args:
        source, name: as for `model.pictures.read_picture`.

    Raises:
        PictureError: the file is missing, no picture or damaged, or its record is damaged or written by a
            newer version of the program.
    """
    with open_picture(source, name) as image:
        # Decodes the picture: some tools move text behind it, and a truncated file must not pass.
        text = image.text.get(KEYWORD) if isinstance(image, PngImageFile) else None
    if text is None:
        return None
    called = name if name is not None else "the picture" if isinstance(source, bytes) else str(source)
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise ValueError("no record of this program")
        if content["format"] > FORMAT:
            raise PictureError(
                f"{called} was made by a newer version of sensenova ({content.get('version', 'unknown')})",
                "update sensenova to read how it was made",
            )
        return PictureRecord.model_validate(content)
    except (ValueError, RecursionError, SettingsError) as error:
        raise PictureError(
            f"{called}: how it was made cannot be read ({_reason(error)})",
            "the picture itself may still be fine",
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, SettingsError):
        return error.what
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def _parameters(record: PictureRecord) -> str:
    """The prompt, then one line of `Key: value` pairs, in the form that A1111's web UI introduced."""
    settings = record.settings
    pairs = {
        "Steps": settings.num_steps,
        "Sampler": "Euler",
        "CFG scale": f"{settings.cfg_scale:g}",
        "Seed": settings.seed,
        "Size": settings.size,
        "Model": record.model.replace("\\", "/").rstrip("/").rpartition("/")[2].replace(",", " "),
        "Shift": f"{settings.timestep_shift:g}",
        "Version": f"sensenova {record.version}",
    }
    return f"{record.prompt}\n" + ", ".join(f"{key}: {value}" for key, value in pairs.items())
