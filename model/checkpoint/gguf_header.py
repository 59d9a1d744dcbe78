"""Headers of GGUF files, read with limits and without PyTorch (docs/gguf.md in ggml-org/ggml describes the format).

A header has the file's properties, then the name, shape, format and place of each tensor. Sides of a tensor are listed
from the innermost one, so our shapes are theirs reversed.
"""

import math
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from model.errors import CheckpointError


@dataclass(frozen=True)
class BlockSize:
    """The size of a number format's blocks: its name, the numbers in a block, and the bytes of a block."""

    name: str
    numbers: int
    nbytes: int


SUPER_BLOCK = 256
"""Numbers in a K block."""
SIZES: dict[int, BlockSize] = {
    0: BlockSize("F32", 1, 4),
    1: BlockSize("F16", 1, 2),
    8: BlockSize("Q8_0", 32, 34),
    10: BlockSize("Q2_K", SUPER_BLOCK, 84),
    11: BlockSize("Q3_K", SUPER_BLOCK, 110),
    12: BlockSize("Q4_K", SUPER_BLOCK, 144),
    13: BlockSize("Q5_K", SUPER_BLOCK, 176),
    14: BlockSize("Q6_K", SUPER_BLOCK, 210),
    30: BlockSize("BF16", 1, 2),
}
"""The formats that are read, by their number in a file."""
OTHER_FORMATS: dict[int, str] = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
    28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
"""Names of other formats, for messages."""
MAGIC = b"GGUF"
VERSIONS = (2, 3)
LARGEST_HEADER = 100_000_000
"""Most bytes of a header, as for safetensors files."""
MOST_TENSORS, MOST_PROPERTIES, MOST_ENTRIES = 100_000, 10_000, 1_000_000
"""Most tensors and properties of a file, and entries of a list. A3B has 26,000 tensors; vocabularies are lists."""
LONGEST_TEXT = 1_000_000
MOST_SIDES = 8
LARGEST_ALIGNMENT = 2**20
TEXT, LIST = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of properties that are numbers, as `struct` names them."""
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Property with the shape of a tensor that was stored in another one, because its rows were not whole blocks."""
PREFIXES = ("model.diffusion_model.", "diffusion_model.")
"""Prefixes that other programs put before the official names."""
OUR_ROOTS = ("language_model.", "vision_model.", "fm_modules.")
TEXT_ONLY_ARCHITECTURE = "sensenova_u1"
"""The architecture of llama.cpp's files, which hold the understanding tower."""


class _DamagedError(ValueError):
    """A header that breaks a rule of the format."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file, which holds its data from byte `start` to byte `stop`.

    Attributes:
        name: the official name.
        shape: from the outermost side on.
        number: of its format, a key of `SIZES`.
    """

    name: str
    shape: tuple[int, ...]
    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file.

    Attributes:
        architecture: as the file names it; some files of this model have another model's.
        properties: texts and numbers, and short lists of numbers.
        tensors: with official names.
    """

    architecture: str
    properties: dict[str, Any] = field(repr=False)
    tensors: list[GgufTensor] = field(repr=False)


def is_gguf(file: Path) -> bool:
    """Return whether a file is in the GGUF format, by its first bytes. False if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(4) == MAGIC
    except OSError:
        return False


def read_gguf(file: Path) -> GgufHeader:
    """Read a file's header.

    Raises:
        CheckpointError: the file cannot be read, is truncated or damaged, has tensors in a format that is not read, or
            is of another model.
    """
    try:
        with file.open("rb") as stream:
            return _read(file, stream)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}", "check its permissions") from error
    except _DamagedError as error:
        raise CheckpointError(f"{file} is not a readable GGUF file: {error}", "fetch the file again") from error


def official_name(name: str) -> str:
    """Return a tensor's name without another program's prefix."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


@dataclass(frozen=True)
class _Entry:
    """A tensor as the header describes it; `start` counts from the beginning of the data."""

    name: str
    shape: tuple[int, ...]
    number: int
    start: int


def _read(file: Path, stream: BinaryIO) -> GgufHeader:
    size = os.fstat(stream.fileno()).st_size
    header = _Header(stream, size)
    if header.bytes(4) != MAGIC:
        raise _DamagedError("it does not start with GGUF")
    version = header.number("I")
    if version not in VERSIONS:
        big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        what = "big-endian" if big_endian else f"of version {version}"
        raise CheckpointError(
            f"{file} is {what}; little-endian files of versions 2 and 3 are read", "take another file of this model"
        )
    tensor_count = header.count("Q", MOST_TENSORS, "tensors")
    properties = {}
    for _ in range(header.count("Q", MOST_PROPERTIES, "properties")):
        key = header.text()
        if key in properties:
            raise _DamagedError(f"the property {_shown(key)} is there twice")
        properties[key] = header.value()
    entries = [_read_entry(header) for _ in range(tensor_count)]
    architecture = str(properties.get("general.architecture", "unknown"))
    _require_this_model(file, architecture, [entry.name for entry in entries])
    alignment = properties.get("general.alignment", 32)
    is_power = isinstance(alignment, int) and 0 < alignment <= LARGEST_ALIGNMENT and alignment & (alignment - 1) == 0
    if not is_power:
        raise _DamagedError(f"its alignment is {_shown(alignment)}, which is not a power of two")
    base = -(-header.position // alignment) * alignment
    tensors = [_tensor(file, entry, base, alignment, properties) for entry in entries]
    _require_different(file, tensors)
    end = max((tensor.stop for tensor in tensors), default=base)
    if size < end:
        raise CheckpointError(
            f"{file} is truncated: {size:,} of {end:,} bytes", "fetch the file again: its download was interrupted"
        )
    return GgufHeader(architecture, properties, tensors)


def _read_entry(header: "_Header") -> _Entry:
    name = header.text()
    sides = header.count("I", MOST_SIDES, f"sides of {_shown(name)}")
    shape = tuple(header.number("Q") for _ in range(sides))[::-1]
    return _Entry(name, shape, header.number("I"), header.number("Q"))


def _tensor(file: Path, entry: _Entry, base: int, alignment: int, properties: dict[str, Any]) -> GgufTensor:
    shown = _shown(entry.name)
    stored = SIZES.get(entry.number)
    if stored is None:
        name = OTHER_FORMATS.get(entry.number, f"format {entry.number}")
        raise CheckpointError(
            f"{file}: tensor {shown} is stored as {name}, which is not read",
            f"take a file of {', '.join(sorted(each.name for each in SIZES.values()))}; Q8_0 and Q6_K are the best",
        )
    if not entry.shape or 0 in entry.shape or any(side > 2**40 for side in entry.shape):
        raise _DamagedError(f"tensor {shown} has the shape {list(entry.shape)}")
    if entry.shape[-1] % stored.numbers:
        raise _DamagedError(f"tensor {shown} has rows of {entry.shape[-1]} numbers in blocks of {stored.numbers}")
    if entry.start % alignment:
        raise _DamagedError(f"tensor {shown} starts at byte {entry.start:,}, which is not a multiple of {alignment}")
    shape = properties.get(ORIGINAL_SHAPE + entry.name, entry.shape)
    is_shape = isinstance(shape, list | tuple) and all(type(side) is int and side > 0 for side in shape)
    if not is_shape or math.prod(shape) != math.prod(entry.shape):
        raise _DamagedError(f"tensor {shown} cannot have the shape {_shown(shape)} and {list(entry.shape)}")
    start = base + entry.start
    stop = start + math.prod(entry.shape) // stored.numbers * stored.nbytes
    return GgufTensor(official_name(entry.name), tuple(shape), entry.number, start, stop)


def _require_different(file: Path, tensors: list[GgufTensor]) -> None:
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise CheckpointError(f"{file} has two tensors {_shown(tensor.name)}", "fetch the file again")
        names.add(tensor.name)


def _require_this_model(file: Path, architecture: str, names: list[str]) -> None:
    """Raise CheckpointError for a file of llama.cpp's text-only kind, or of another model."""
    if any(official_name(name).startswith(OUR_ROOTS) for name in names):
        return
    if architecture == TEXT_ONLY_ARCHITECTURE:
        raise CheckpointError(
            f"{file} holds the reading half of the model alone: it was made for llama.cpp",
            "take a file with `_mot_gen` tensors",
        )
    example = f", such as {_shown(names[0])}" if names else ""
    raise CheckpointError(
        f"{file} is of another model: its architecture is {_shown(architecture)}, and its tensors have other names "
        f"than those of SenseNova-U1{example}",
        "take a GGUF file of SenseNova-U1 with `_mot_gen` tensors",
    )


def _shown(value: object) -> str:
    """Return a stranger's text or number for a message: printable, and cut if it is long."""
    text = ascii(value)[1:-1] if isinstance(value, str) else ascii(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


class _Header:
    """The beginning of a file, read from front to back."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        self.position = 0

    def bytes(self, count: int) -> bytes:
        """Return the next bytes."""
        self._advance(count)
        data = self._stream.read(count)
        if len(data) != count:
            raise _DamagedError("its header is incomplete")
        return data

    def number(self, kind: str) -> Any:
        """Return the next number, of a type that `struct` knows."""
        return struct.unpack(f"<{kind}", self.bytes(struct.calcsize(kind)))[0]

    def count(self, kind: str, most: int, what: str) -> int:
        """Return the next number if it is a possible number of things."""
        value = int(self.number(kind))
        if value > most:
            raise _DamagedError(f"it has {value:,} {what}; {most:,} are allowed")
        return value

    def text(self) -> str:
        """Return the next text."""
        data = self.bytes(self.count("Q", LONGEST_TEXT, "bytes in a text"))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise _DamagedError("a text is not in UTF-8") from None

    def value(self) -> Any:
        """Return the next property. Long lists are skipped: None."""
        kind = self.number("I")
        if kind != LIST:
            return self._single(kind)
        kind = self.number("I")
        entries = self.count("Q", MOST_ENTRIES, "entries in a list")
        if kind in NUMBERS and entries > MOST_SIDES:
            self._skip(struct.calcsize(NUMBERS[kind]) * entries)
            return None
        if kind == TEXT:
            for _ in range(entries):
                self._skip(self.count("Q", LONGEST_TEXT, "bytes in a text"))
            return None
        return [self._single(kind) for _ in range(entries)]

    def _single(self, kind: int) -> Any:
        if kind == TEXT:
            return self.text()
        if kind not in NUMBERS:
            raise _DamagedError(f"a property has the unknown type {kind}")
        return self.number(NUMBERS[kind])

    def _skip(self, count: int) -> None:
        self._advance(count)
        self._stream.seek(count, os.SEEK_CUR)

    def _advance(self, count: int) -> None:
        self.position += count
        if self.position > self._size:
            raise _DamagedError("its header is incomplete")
        if self.position > LARGEST_HEADER:
            raise _DamagedError(f"its header is longer than {LARGEST_HEADER:,} bytes")
