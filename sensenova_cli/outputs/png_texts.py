"""Replacement of the texts in a PNG file, without decoding its pixels."""

import struct
import zlib
from collections.abc import Iterable

SIGNATURE_BYTES = 8


def with_texts(content: bytes, keywords: set[str], texts: Iterable[tuple[bytes, bytes, bool]]) -> bytes:
    """Return a PNG file with other texts.

    Args:
        content: an intact PNG file.
        keywords: the texts with these keywords are removed.
        texts: (chunk name, data, whether it follows the pixels), as in `PngInfo.chunks`. They follow the header.
    """
    place = SIGNATURE_BYTES
    kept = [content[:place]]
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        keyword = content[place + 8 : end - 4].partition(b"\0")[0].decode("latin-1")
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or keyword not in keywords:
            kept.append(content[place:end])
        if kind == b"IHDR":
            kept += [
                struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
                for name, data, *_ in texts
            ]
        place = end
    return b"".join(kept)
