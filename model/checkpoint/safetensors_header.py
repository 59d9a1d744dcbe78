"""Headers of safetensors files, and the files of a checkpoint folder, without PyTorch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.json_files import parse_json, read_json
from model.checkpoint.file_names import INDEX_FILE, SINGLE_FILE
from model.errors import CheckpointError

LARGEST_HEADER = 100_000_000
"""Most bytes of a header; the limit of the format's own library."""
OTHER_FILE = "name a .safetensors file"
NUMBER_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""The dtypes of numbers that are stored as they are, and their bytes."""
PACKED_BYTES = {"I8": 1, "U8": 1, "F8_E4M3": 1}
"""The dtypes of quantized weights, whose scales and descriptions are other tensors (`scaled_tensors`)."""


@dataclass(frozen=True)
class HeaderEntry:
    """A tensor of a file, which holds its data from byte `start` to byte `stop`; `dtype` as the format names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def find_files(folder: Path) -> list[Path]:
    """Return the files that the index names, or the single file of a checkpoint without an index."""
    index = folder / INDEX_FILE
    if not index.exists():
        single = folder / SINGLE_FILE
        if single.exists():
            return [single]
        raise CheckpointError(
            f"{folder} has no weights: neither {INDEX_FILE} nor {SINGLE_FILE} exists",
            "fetch the checkpoint again, or name the folder that has the weights",
        )
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        if not all(isinstance(name, str) and _is_file_name(name) for name in names):
            raise TypeError("weight_map must hold names of files in the folder only")
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror}", "check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is damaged: it is not a JSON object with a weight_map of tensors and files in this folder",
            "fetch the file again",
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {len(names)} files, of which {len(missing)} are missing: {', '.join(missing)}",
            "fetch the missing files; an interrupted download continues where it stopped",
        )
    return [folder / name for name in names]


def _is_file_name(name: str) -> bool:
    """Return whether a name is that of a file in the same folder: an index from a stranger may name other places."""
    return 0 < len(name) <= 255 and name not in (".", "..") and {"/", "\\", "\0"}.isdisjoint(name)


def read_header(file: Path) -> list[HeaderEntry]:
    """Read a file's header: its length in 8 bytes, little-endian, and JSON (huggingface/safetensors, README).

    Raises:
        CheckpointError: the file is truncated or not in the safetensors format, or a tensor has an unsupported dtype.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size and stream.read(1) != b"{":  # an empty file may be the beginning of a download
                if file.suffix == ".gguf":  # it would have been read as one if its first bytes were those of GGUF
                    raise CheckpointError(f"{file} is not a GGUF file", "fetch the file again, or name another one")
                raise CheckpointError(f"{file} is not a safetensors file", OTHER_FILE)
            if size < 8 or length > size - 8:
                raise ValueError("its header is incomplete")
            if length > LARGEST_HEADER:
                raise ValueError(f"its header has {length:,} bytes; {LARGEST_HEADER:,} are allowed")
            header = _parsed(b"{" + stream.read(length - 1))
        header.pop("__metadata__", None)
        tensors = [_entry(name, content, 8 + length, file) for name, content in header.items()]
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}", "check its permissions") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}", "fetch the file again") from error
    expected = max((tensor.stop for tensor in tensors), default=8 + length)
    if size < expected:
        raise CheckpointError(
            f"{file} is truncated: {size:,} of {expected:,} bytes",
            "fetch the file again: its download was interrupted",
        )
    return tensors


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        header = parse_json(content)
    except ValueError as error:
        raise ValueError("its header is not JSON") from error
    assert isinstance(header, dict)  # it starts with a brace
    return header


def _entry(name: str, content: Any, base: int, file: Path) -> HeaderEntry:
    """Return a tensor's entry of a header, whose places count from byte `base` of the file.

    Raises:
        CheckpointError: the tensor has an unsupported dtype.
        ValueError: the entry is damaged.
    """
    fields = content if isinstance(content, dict) else {}
    dtype, shape, place = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    shown = name[:100]
    if not (isinstance(dtype, str) and isinstance(shape, list) and isinstance(place, list) and len(place) == 2):
        raise ValueError(f"its header lacks the type, the shape or the place of tensor {shown}")
    known = NUMBER_BYTES | PACKED_BYTES
    if dtype not in known:
        raise CheckpointError(
            f"{file}: tensor {name} is stored as {dtype}, which is not supported",
            f"convert it to one of {', '.join(NUMBER_BYTES)}",
        )
    start, stop = place
    if any(type(number) is not int or number < 0 for number in (start, stop, *shape)):
        raise ValueError(f"tensor {shown} has numbers that are not whole or negative")
    if stop - start != math.prod(shape) * known[dtype]:
        raise ValueError(f"tensor {shown} has {stop - start} bytes, which do not match shape {tuple(shape)}")
    return HeaderEntry(name, dtype, tuple(shape), base + start, base + stop)
