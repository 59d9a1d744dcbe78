"""Picture files with the record of how they were made: written, read, and without the user's folders.

A PNG gets two text chunks: `sensenova` is a PictureRecord as JSON, from which the picture can be made again;
`parameters` is the text that other picture tools show. Two identical runs write identical files.
"""

from pathlib import Path

from PIL.PngImagePlugin import PngImageFile, PngInfo, iTXt

from model import PictureError, open_picture
from sensenova_cli.outputs.picture_record import (
    PictureRecord,
    parameters_text,
    parse_record,
    record_text,
    without_folder_names,
)
from sensenova_cli.outputs.png_texts import with_texts
from sensenova_cli.system.unicode import valid_unicode

KEYWORD = "sensenova"
PARAMETERS = "parameters"


def png_info(record: PictureRecord) -> PngInfo:
    """Return the text chunks for `Image.save(..., pnginfo=...)`."""
    chunks = PngInfo()
    # The text is uncompressed, because every viewer can show it then, and Pillow limits the size of compressed text.
    chunks.add_itxt(KEYWORD, record_text(record), zip=False)
    chunks.add_text(PARAMETERS, valid_unicode(parameters_text(record)))
    return chunks


def without_folders(content: bytes) -> bytes:
    """Return a PNG file whose record names model, LoRAs and input pictures without their folders.

    Other files are returned unchanged. For documents that the user sends to strangers.
    """
    try:
        record = read_record(content)
    except PictureError:
        record = None
    if record is None:
        return content
    bare = without_folder_names(record)
    if bare == record:
        return content
    return with_texts(content, {KEYWORD, PARAMETERS}, png_info(bare).chunks)


def read_record(source: str | Path | bytes, name: str | None = None) -> PictureRecord | None:
    """Return the record in a picture, or None if it has none.

    Args:
        source, name: as for `model.read_picture`.

    Raises:
        PictureError: the file is missing, damaged or not a picture, or its record is damaged or was written by a newer
            version of the program.
    """
    text = _read_text(source, name, KEYWORD)
    return None if text is None else parse_record(_repaired(text), _shown(source, name))


def read_parameters(source: str | Path | bytes, name: str | None = None) -> str | None:
    """Return the text in a picture in which A1111's web UI and similar programs describe it; None if it has none.

    Args:
        source, name: as for `model.read_picture`.

    Raises:
        PictureError: the file is missing, damaged or not a picture.
    """
    return _read_text(source, name, PARAMETERS)


def _shown(source: str | Path | bytes, name: str | None) -> str:
    return name if name is not None else "the picture" if isinstance(source, bytes) else str(source)


def _repaired(text: str) -> str:
    """Undo an error of some image libraries, which store UTF-8 in a chunk for Latin-1."""
    if isinstance(text, iTXt):
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _read_text(source: str | Path | bytes, name: str | None, keyword: str) -> str | None:
    """Return a text chunk of a PNG file."""
    with open_picture(source, name) as image:
        # Reading `text` decodes the picture: some tools store text after it, and a truncated file must be an error.
        return image.text.get(keyword) if isinstance(image, PngImageFile) else None
