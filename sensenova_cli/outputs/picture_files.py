"""Picture files with the record of how they were made: written, read, and without the user's folders.

The record, from which the picture can be made again, is JSON. The description is the text that other picture tools
show. Two identical runs write identical files.

| format | record | description |
| --- | --- | --- |
| PNG | text chunk `sensenova` | text chunk `parameters` |
| JPEG, WebP | XMP, property `record` of `urn:sensenova:record:` | EXIF, UserComment |
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo, iTXt

from config.settings import PictureFormat
from model import PictureError, open_picture
from sensenova_cli.outputs import exif, xmp
from sensenova_cli.outputs.picture_record import (
    PictureRecord,
    damaged_record,
    parameters_text,
    parse_record,
    record_text,
    without_folder_names,
)
from sensenova_cli.outputs.png_texts import with_texts
from sensenova_cli.system.unicode import valid_unicode

KEYWORD = "sensenova"
PARAMETERS = "parameters"
FORMATS: dict[str, PictureFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Ending of a file's name → its format."""
WITH_XMP = ("JPEG", "MPO", "WEBP")
"""Pillow's names of the other formats with records. MPO is JPEG with more pictures behind the first one."""
MAX_XMP = 32 * 2**20
"""Most bytes of XMP that are read, as for the texts of a PNG file."""
DEFAULT_QUALITY = 95
BEST_QUALITY = 100
"""The quality at which WebP files are lossless."""
FULL_COLOR_QUALITY = 90
"""The quality from which JPEG files store color for every pixel. Otherwise thin colored text would be blurred."""
MAX_WEBP_SIDE = 16_383
"""Most pixels of a side of a WebP file. JPEG files hold every picture that a model draws."""
LOSSLESS_EFFORT = 20
"""Effort from 0 to 100 of lossless compression. More takes much longer, and saves little."""


@dataclass(frozen=True)
class EncodedPicture:
    """A picture file in memory.

    Attributes:
        problem: the error that prevented the record, or None.
        missing: what the format has no room for, as part of a sentence; empty if the record is complete.
    """

    content: bytes
    problem: Exception | None = None
    missing: str = ""


def encode_picture(
    image: Image.Image, record: PictureRecord | None, form: PictureFormat = "png", quality: int = DEFAULT_QUALITY
) -> EncodedPicture:
    """Encode a picture with its record. If the record cannot be written, or has no room, the rest is complete.

    Args:
        image: RGB, 8 bits a channel.
        quality: from 0 to 100, for JPEG and WebP.

    Raises:
        OSError, ValueError: the format cannot hold the picture: WebP has up to `MAX_WEBP_SIDE` pixels a side.
    """
    texts: dict[str, Any] = {}
    problem, missing = None, ""
    try:
        if record is not None:
            texts, missing = _texts(record, form)
    except Exception as error:  # a fault in the record must not lose a picture that took long to make
        problem = error
    options = {} if form == "png" else {"quality": quality}
    if form == "jpeg":
        options["subsampling"] = "4:4:4" if quality >= FULL_COLOR_QUALITY else "4:2:0"  # type: ignore[assignment]
    elif form == "webp" and quality == BEST_QUALITY:
        options = {"lossless": True, "quality": LOSSLESS_EFFORT}
    buffer = io.BytesIO()
    image.save(buffer, form.upper(), **options, **texts)
    return EncodedPicture(buffer.getvalue(), problem, missing)


def png_info(record: PictureRecord) -> PngInfo:
    """Return the text chunks for `Image.save(..., pnginfo=...)`."""
    chunks = PngInfo()
    # The text is uncompressed, because every viewer can show it then, and Pillow limits the size of compressed text.
    chunks.add_itxt(KEYWORD, record_text(record), zip=False)
    chunks.add_text(PARAMETERS, valid_unicode(parameters_text(record)))
    return chunks


def without_folders(content: bytes) -> bytes:
    """Return a picture file whose record names model, LoRAs and input pictures without their folders.

    Files without a record are returned unchanged. For documents that the user sends to strangers.
    """
    record = readable_record(content)
    if record is None:
        return content
    bare = without_folder_names(record)
    if bare == record:
        return content
    # In JPEG and WebP files EXIF stays: it has only the name of the model's folder.
    if content.startswith(b"RIFF"):
        return xmp.webp_with_xmp(content, xmp.xmp_packet(record_text(bare)))
    if content.startswith(b"\xff\xd8"):
        return xmp.jpeg_with_xmp(content, xmp.xmp_packet(record_text(bare)))
    return with_texts(content, {KEYWORD, PARAMETERS}, png_info(bare).chunks)


def read_record(source: str | Path | bytes, name: str | None = None, *, decode: bool = True) -> PictureRecord | None:
    """Return the record in a picture, or None if it has none.

    Args:
        source, name: as for `model.read_picture`.
        decode: whether to decode the picture, so that a truncated file is an error, and texts after the pixels are
            found. A picture of 2048x2048 takes a quarter of a second.

    Raises:
        PictureError: the file is missing, damaged or not a picture, or its record is damaged or was written by a newer
            version of the program.
    """
    shown_name = name if name is not None else "the picture" if isinstance(source, bytes) else str(source)
    with open_picture(source, name) as image:
        if isinstance(image, PngImageFile):
            text = _png_text(image, KEYWORD, decode)
        else:
            text = _xmp_record(image, shown_name, decode) if image.format in WITH_XMP else None
    return None if text is None else parse_record(text, shown_name)


def readable_record(content: bytes) -> PictureRecord | None:
    """Return the record in a picture file, or None if there is none that can be read. The picture may be intact."""
    try:
        return read_record(content)
    except PictureError:
        return None


def read_parameters(source: str | Path | bytes, name: str | None = None) -> str | None:
    """Return the text in a picture in which A1111's web UI and similar programs describe it; None if it has none.

    Args:
        source, name: as for `model.read_picture`.

    Raises:
        PictureError: the file is missing, damaged or not a picture.
    """
    with open_picture(source, name) as image:
        if isinstance(image, PngImageFile):
            return image.text.get(PARAMETERS)
        if image.format not in WITH_XMP:
            return None
        image.load()  # a truncated file must be an error
        text = exif.comment_in_exif(image)
        # Cameras and phones write other comments.
        return text if text is not None and "Steps: " in text else None


def _texts(record: PictureRecord, form: PictureFormat) -> tuple[dict[str, Any], str]:
    """Return Pillow's options that store a record, and what has no room, as part of a sentence."""
    if form == "png":
        return {"pnginfo": png_info(record)}, ""
    comment = exif.exif_with_comment(valid_unicode(parameters_text(record)))
    packet = xmp.xmp_packet(record_text(record))
    if form == "webp":
        return {"exif": comment, "xmp": packet}, ""
    texts, missing = {}, []
    if len(packet) > xmp.MAX_IN_JPEG and record.think_text is not None:
        # The model writes the think text again, so the record repeats the picture without it, too.
        packet = xmp.xmp_packet(record_text(record.model_copy(update={"think_text": None})))
        missing.append("the think text")
    if len(packet) <= xmp.MAX_IN_JPEG:
        texts["xmp"] = packet
    else:
        missing = ["the record of how it was made"]
    if len(comment) <= exif.MAX_IN_JPEG:
        texts["exif"] = comment
    else:
        missing.append("the description for other programs")
    return texts, " and ".join(missing)


def _png_text(image: PngImageFile, keyword: str, decode: bool) -> str | None:
    # Reading `text` decodes the picture: some tools store text after it, and a truncated file must be an error.
    text = image.text.get(keyword) if decode else image.info.get(keyword)
    if not isinstance(text, str) or isinstance(text, iTXt):
        return text
    try:  # undo an error of some image libraries, which store UTF-8 in a chunk for Latin-1
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _xmp_record(image: Image.Image, shown_name: str, decode: bool) -> str | None:
    if decode:
        image.load()  # a truncated file must be an error
    packet = image.info.get("xmp")
    if not isinstance(packet, bytes) or len(packet) > MAX_XMP:
        return None
    try:
        return xmp.record_in_xmp(packet)
    except ValueError as error:
        raise damaged_record(shown_name, str(error)) from error
