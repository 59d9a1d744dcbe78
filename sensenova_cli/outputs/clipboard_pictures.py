"""Copies of pictures in the clipboard."""

from model import read_picture
from sensenova_cli.outputs.picture_files import encode_picture, readable_record, without_folders
from sensenova_cli.system.clipboard import can_copy_pictures, copy_png

NO_CLIPBOARD = "there is no clipboard: no desktop was found, and this terminal has none"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def copy_picture(content: bytes) -> bool:
    """Copy a picture file to the desktop's clipboard; return False if no program can do so.

    It is copied as PNG, which every program can paste. Its record names no folders, because what is pasted goes out.

    Raises:
        PictureError: the file is not a readable picture.
    """
    if not can_copy_pictures():
        return False
    image = read_picture(content)
    if not content.startswith(PNG_SIGNATURE):
        content = encode_picture(image, readable_record(content)).content
    return copy_png(without_folders(content))
