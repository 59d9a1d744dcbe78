"""Remove chunks of PNG files that Pillow would refuse, although the pixels do not need them.

Other programs write huge compressed texts, incomplete resolutions and wrong checksums. Their pictures stay readable.
"""

import struct
import zlib

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"))
"""Chunks that the pixels need. They are always kept: if one is damaged, the picture is damaged."""
SMALL_CHUNKS = frozenset((b"iCCP", b"sRGB", b"eXIf", b"tEXt", b"zTXt", b"iTXt"))
"""Other chunks that are read. They are left out if they are damaged or too long."""
MAX_SMALL_CHUNKS = 32 * 2**20
"""Most bytes of all of them together, after unpacking. Pillow refuses more than 64 MB of text."""
MAX_UNPACKED = 2**20
"""Most bytes of one compressed text or color profile after unpacking. Pillow refuses more."""


def essential_png(content: bytes) -> bytes:
    """Return a PNG file with only the chunks that are read.

    A file of another format is returned unchanged. If a chunk is incomplete, the rest of the file follows unchanged.
    """
    if not content.startswith(PNG_SIGNATURE):
        return content
    kept = [PNG_SIGNATURE]
    place, small = len(PNG_SIGNATURE), 0
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        if end > len(content):
            break
        if kind in PIXEL_CHUNKS:
            kept.append(content[place:end])
        elif kind in SMALL_CHUNKS and length < MAX_SMALL_CHUNKS:
            size = _unpacked_size(kind, content[place + 4 : end])
            if size is not None and small + size <= MAX_SMALL_CHUNKS:
                small += size
                kept.append(content[place:end])
        place = end
        if kind == b"IEND":
            return b"".join(kept)
    return b"".join([*kept, content[place:]])


def _unpacked_size(kind: bytes, chunk: bytes) -> int | None:
    """Return the bytes of a chunk (name, data, checksum) after unpacking; None if it is damaged or too long."""
    data, checksum = chunk[4:-4], struct.unpack(">I", chunk[-4:])[0]
    if zlib.crc32(chunk[:-4]) != checksum:
        return None
    packed: bytes | None = None
    if kind in (b"iCCP", b"zTXt"):
        packed = data.partition(b"\0")[2][1:]
    elif kind == b"iTXt":
        rest = data.partition(b"\0")[2]
        packed = rest[2:].partition(b"\0")[2].partition(b"\0")[2] if rest[:1] == b"\1" else None
    if packed is None:
        return len(data)
    unpacker = zlib.decompressobj()
    try:
        size = len(unpacker.decompress(packed, MAX_UNPACKED))
    except zlib.error:
        return None
    return size if unpacker.eof else None
