"""Headers of safetensors files, and the files of a checkpoint folder, without PyTorch."""

import math
from dataclasses import dataclass
from pathlib import Path

from config.json_files import parse_json, read_json
from model.checkpoint.file_names import INDEX_FILE, SINGLE_FILE
from model.errors import CheckpointError

LARGEST_HEADER = 100_000_000
"""Most bytes of a header; the limit of the format's own library."""
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
    known = NUMBER_BYTES | PACKED_BYTES
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError("its header is incomplete")
            if length > LARGEST_HEADER:
                raise ValueError(f"its header has {length:,} bytes; {LARGEST_HEADER:,} are allowed")
            header = parse_json(stream.read(length))
        header.pop("__metadata__", None)
        base = 8 + length
        tensors = []
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            if entry["dtype"] not in known:
                raise CheckpointError(
                    f"{file}: tensor {name} is stored as {entry['dtype']}, which is not supported",
                    f"convert it to one of {', '.join(NUMBER_BYTES)}",
                )
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            if any(type(number) is not int or number < 0 for number in (start, stop, *shape)):
                raise ValueError(f"tensor {name[:100]} has numbers that are not whole or negative")
            if stop - start != math.prod(shape) * known[dtype]:
                raise ValueError(f"tensor {name} has {stop - start} bytes, which do not match shape {shape}")
            tensors.append(HeaderEntry(name, dtype, shape, base + start, base + stop))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}", "check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}", "fetch the file again") from error
    expected = max((tensor.stop for tensor in tensors), default=base)
    if size < expected:
        raise CheckpointError(
            f"{file} is truncated: {size:,} of {expected:,} bytes",
            "fetch the file again: its download was interrupted",
        )
    return tensors
