"""XMP, the XML in JPEG and WebP files for texts about a picture: a packet with our record, its reading and replacement.

Form of a packet: Adobe's XMP specification, part 1, sections 7.2 to 7.4. A packet comes from a stranger, so the reader
refuses declarations of entities, and collects no other text than the record.
"""

import struct
from xml.parsers.expat import ExpatError, ParserCreate
from xml.sax.saxutils import escape

NAMESPACE = "urn:sensenova:record:"
PROPERTY = "record"
JPEG_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
"""The bytes before the packet in a JPEG file."""
MAX_IN_JPEG = 65533 - len(JPEG_HEAD)
"""Most bytes of a packet in a JPEG file."""
_NAME = f"{NAMESPACE} {PROPERTY}"
"""The name of our property, as a parser with the separator " " spells it."""


def xmp_packet(record: str) -> bytes:
    """Return a packet with a record.

    Args:
        record: text without control characters.
    """
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:sensenova="{NAMESPACE}">'
        f"<sensenova:{PROPERTY}>{escape(record)}</sensenova:{PROPERTY}>"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def record_in_xmp(packet: bytes) -> str | None:
    """Return the record in a packet, also if another program has rewritten the packet; None if there is none.

    Raises:
        ValueError: the packet mentions our namespace, but is damaged or declares entities.
    """
    if NAMESPACE.encode() not in packet:
        return None
    found: list[str] = []
    open_elements: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        open_elements.append(name)
        if _NAME in attributes:  # some programs write short properties as attributes
            found.append(attributes[_NAME])

    def end(name: str) -> None:
        open_elements.pop()

    def text(part: str) -> None:
        if open_elements and open_elements[-1] == _NAME:
            found.append(part)

    def refuse(*declaration: object) -> None:
        raise ValueError("its XMP declares entities")

    parser = ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(packet.rstrip(b"\0"), True)
    except ExpatError as error:
        raise ValueError(f"its XMP is damaged: {error}") from error
    return "".join(found) or None


def jpeg_with_xmp(content: bytes, packet: bytes) -> bytes:
    """Return a JPEG file with another packet, without decoding its pixels.

    Args:
        content: an intact JPEG file that has a packet.
        packet: left out if it has more than `MAX_IN_JPEG` bytes.
    """
    kept = [content[:2]]
    place = 2
    segment = b""
    if len(packet) <= MAX_IN_JPEG:
        segment = struct.pack(">BBH", 0xFF, 0xE1, len(JPEG_HEAD) + len(packet) + 2) + JPEG_HEAD + packet
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker, length = struct.unpack_from(">xBH", content, place)
        if marker == 0xDA:  # the pixels follow
            break
        end = place + 2 + length
        if marker == 0xE1 and content.startswith(JPEG_HEAD, place + 4):
            kept.append(segment)
            segment = b""  # any other packet is left out
        else:
            kept.append(content[place:end])
        place = end
    return b"".join([*kept, content[place:]])


def webp_with_xmp(content: bytes, packet: bytes) -> bytes:
    """Return a WebP file with another packet, without decoding its pixels.

    Args:
        content: an intact WebP file that has a packet.
    """
    kept = [b"WEBP"]
    place = 12
    chunk = struct.pack("<4sI", b"XMP ", len(packet)) + packet + b"\0" * (len(packet) % 2)
    while place + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, place)
        end = place + 8 + length + length % 2
        if kind == b"XMP ":
            kept.append(chunk)
            chunk = b""  # any other packet is left out
        else:
            kept.append(content[place:end])
        place = end
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body
