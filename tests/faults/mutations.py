"""Damage to files: bytes at random, values of JSON, checksums of PNG."""

import json
import random
import struct
import zlib
from typing import Any

PIECES = (
    b"\0",
    b"\xff\xfe",
    b"\xff\xff\xff\xff",
    b"\x80\0\0\0",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 6000,
    b"1e999",
    b"-1",
    b"NaN",
    b"null",
    b"{}",
    b'"\\ud800"',
    b"\xed\xa0\x80",
    b"../",
    b"\x1b[2J",
    b"\r\n",
    b"= 1\n",
    b"[x]\n",
)
"""Bytes that parsers have to refuse."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**30,
    1e308,
    0.5,
    "",
    "x",
    "\0",
    "\ud800",
    "../../etc/passwd",
    "x" * 5000,
    [],
    [[]],
    {},
    {"": None},
    [1] * 3000,
)
"""Values that take the place of another one."""
PNG_START = b"\x89PNG\r\n\x1a\n"


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return the content with one to four changes."""
    if chance.random() < 0.6:
        try:
            parsed = json.loads(content)
        except ValueError:
            pass
        else:
            return json.dumps(with_other_value(parsed, chance)).encode()
    for _ in range(chance.randint(1, 4)):
        content = _changed(content, chance)
    if content.startswith(PNG_START) and chance.random() < 0.7:
        content = with_right_checksums(content)
    return content


def with_other_value(value: Any, chance: random.Random) -> Any:
    """Return JSON in which one value has another type or size, is missing, or has another name."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        rest = {key: each for key, each in value.items() if key != name}
        match chance.randrange(8):
            case 0:
                return rest
            case 1:
                return {**rest, chance.choice(("", "x", "\0", name + "x")): value[name]}
            case _:
                return {**value, name: with_other_value(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        match chance.randrange(6):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value + value
            case _:
                return [*value[:place], with_other_value(value[place], chance), *value[place + 1 :]]
    return chance.choice(VALUES)


def _changed(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    end = min(len(content), place + chance.choice((1, 2, 4, 16, 100)))
    match chance.randrange(7):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + content[end:]
        case 2:
            return content[:end] + content[place:end] + content[end:]
        case 3:
            return content[:place] + chance.choice(PIECES) + content[end:]
        case 4:
            return content[:place] + chance.choice(PIECES) + content[place:]
        case 5:
            return content[:place] + chance.randbytes(end - place) + content[end:]
        case _:
            other = chance.randrange(len(content) + 1)
            return content[:place] + content[other : other + end - place] + content[end:]


def with_right_checksums(content: bytes) -> bytes:
    """Return a PNG whose chunks have the checksums of their changed contents, so that readers look at these."""
    data, place = bytearray(content), len(PNG_START)
    while place + 12 <= len(data):
        length = struct.unpack_from(">I", data, place)[0]
        end = place + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)
