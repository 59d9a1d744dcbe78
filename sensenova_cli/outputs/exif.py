"""EXIF with the description of a picture in UserComment, where other picture tools look for it in JPEG and WebP files.

UserComment starts with eight bytes that name its encoding: CIPA DC-008, section 4.6.6.
"""

import struct

from PIL import Image

EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
LONG, BYTES = 4, 7
"""Types of values in a directory."""
HEAD = b"Exif\0\0"
"""The bytes before the data in a JPEG file."""
MAX_IN_JPEG = 65533
"""Most bytes of the data in a JPEG file, with their head."""
UNICODE, ASCII, UNDEFINED = b"UNICODE\0", b"ASCII\0\0\0", bytes(8)


def exif_with_comment(text: str) -> bytes:
    """Return the EXIF data of a picture with a comment.

    The byte order is that of A1111's web UI, because some tools assume it. Pillow would store the comment as numbers.
    """
    comment = UNICODE + text.encode("utf-16-be")
    # Two directories with one entry each: tag, type, count, value or place. A directory begins with its length and ends
    # with the place of the next one, which is 0 for none.
    first = struct.pack(">HHHIII", 1, EXIF_IFD, LONG, 1, 26, 0)
    second = struct.pack(">HHHIII", 1, USER_COMMENT, BYTES, len(comment), 44, 0)
    return HEAD + b"MM\0*" + struct.pack(">I", 8) + first + second + comment


def comment_in_exif(image: Image.Image) -> str | None:
    """Return the comment in the EXIF data of an open picture; None if there is none, or the data are damaged."""
    try:
        exif = image.getexif()
        comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
    except Exception:  # damaged EXIF data, for which Pillow raises nearly any error
        return None
    if not isinstance(comment, bytes):
        return None
    encoding, content = comment[:8], comment[8:]
    if encoding == UNICODE:
        text = content.decode(_utf16(content, exif.endian or ">"), errors="replace")
    elif encoding in (ASCII, UNDEFINED):
        text = content.decode("utf-8", errors="replace")
    else:
        return None
    return text.strip("\0 ") or None


def _utf16(content: bytes, byte_order: str) -> str:
    """Return the encoding of a text: programs disagree whether the byte order of the EXIF data applies to it."""
    if content[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return "utf-16"
    high_first, low_first = content[::2].count(0), content[1::2].count(0)
    is_big = byte_order == ">" if high_first == low_first else high_first > low_first
    return "utf-16-be" if is_big else "utf-16-le"
