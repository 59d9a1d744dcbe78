"""Conversion of checkpoints: a copy with eight-bit weights, which loads as the original does with `quantization`.

The copy is made in `FOLDER.unfinished`, which gets its name when it is complete. A conversion that was interrupted
continues there: weight files that are done are compared with their sha256, and are not made again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock, Timeout

from config.errors import SenseNovaError
from config.json_files import read_json
from config.units import format_bytes
from model.checkpoint.conversion_record import (
    LOCK_FILE,
    RECORD_FILE,
    Record,
    SourceFile,
    read_record,
    require_usable_folder,
    unfinished_folder,
)
from model.checkpoint.download import CHECKPOINT_FILES
from model.checkpoint.file_names import INDEX_FILE, SINGLE_FILE
from model.checkpoint.layout import checkpoint_layout
from model.checkpoint.loader import meta_network, require_matching
from model.checkpoint.quantization import QUANTIZATIONS, quantized_layers
from model.checkpoint.shard_files import Conversion, ShardFile, sha256_of, split_into_files
from model.checkpoint.stored_tensor import StoredTensor
from model.checkpoint.tensor_files import stored_tensors
from model.errors import CheckpointError, RequestError
from model.network.configuration import CONFIG_FILE, ModelConfig, read_config

SHARD_BYTES = 4 * 2**30
"""Largest size of a weight file."""
VERIFICATION_FILE = "verification.json"
SMALL_FILE_BYTES = 64 * 2**20
"""Largest size of a file that is copied: a tokenizer has about ten megabytes."""

Progress = Callable[[str, int, int], None]
"""Called now and then with the name of the work, the bytes that are done, and all bytes of this work."""


@dataclass(frozen=True)
class Converted:
    """A finished conversion.

    Attributes:
        source_bytes, nbytes: size of the weight files of the source, and of the new ones.
        files: number of new weight files.
        kept_files: those among them that an interrupted conversion had finished.
    """

    folder: Path
    source_bytes: int
    nbytes: int
    files: int
    kept_files: int


def convert_checkpoint(
    source: Path,
    folder: Path,
    quantization: str,
    *,
    model: str = "",
    on_progress: Progress = lambda name, done, total: None,
    shard_bytes: int = SHARD_BYTES,
) -> Converted:
    """Write a copy of a checkpoint with eight-bit weights, or continue an interrupted conversion.

    Loading the copy gives the same weights as quantizing the original while it loads with `dtype=bfloat16`, bit for
    bit. The numbers of a run of rows are in memory at once, less than a gigabyte.

    Args:
        source: folder of the original checkpoint.
        quantization: a value of the setting other than `off`.
        model: what the user calls the source, for the record.

    Raises:
        RequestError: the folder exists, another program works on it, or the source is quantized already.
        CheckpointError: the source is not a usable checkpoint.
        SenseNovaError: the disk has no room, or the files cannot be written. Finished files are kept.
    """
    require_usable_folder(folder)
    config = read_config(source)
    tensors = stored_tensors(source)
    require_matching(tensors, checkpoint_layout(config), source)
    _require_original(tensors, source)
    files = _plan(config, tensors, quantization, shard_bytes)
    name = model if model and not Path(model).exists() else source.resolve().name  # a path says too much about its user
    plan = hashlib.sha256(b"".join(file.header for file in files)).hexdigest()
    work = unfinished_folder(folder)
    with _explained_errors(source, folder), _locked(work):
        record = _begin(work, Record(quantization, name, plan))
        _hash_source(source, tensors, record, work, on_progress)
        kept = _check_done(files, record, work, on_progress)
        _require_room(work, sum(file.nbytes for file in files if file.name not in kept))
        _write_files(files, kept, record, work, on_progress)
        _write_small_files(source, files, record, work)
        (work / LOCK_FILE).unlink(missing_ok=True)
        work.rename(folder)
    original = sum(file.stat().st_size for file in {tensor.file for tensor in tensors.values()})
    return Converted(folder, original, sum(file.nbytes for file in files), len(files), len(kept))


def _require_original(tensors: Mapping[str, StoredTensor], source: Path) -> None:
    formats = sorted({tensor.encoding.name for tensor in tensors.values() if tensor.encoding is not None})
    if formats:
        raise RequestError(
            f"the weights of {source} are quantized already ({', '.join(formats)}), and would be rounded a second time",
            "convert the original checkpoint",
        )


def _plan(
    config: ModelConfig, tensors: Mapping[str, StoredTensor], quantization: str, shard_bytes: int
) -> list[ShardFile]:
    """Return the weight files to write."""
    network = meta_network(config)
    names = {id(module): name for name, module in network.named_modules()}
    chosen = QUANTIZATIONS[quantization]
    quantized = {f"{names[id(layer)]}.weight" for _, _, layer, _ in quantized_layers(network, chosen)}
    conversions = [
        Conversion(tensors[name], chosen.format if target.parameter in quantized else "")
        for name, target in checkpoint_layout(config).items()
        if name in tensors
    ]
    return split_into_files(conversions, shard_bytes)


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Make the folder of unfinished work, and keep other processes out of it."""
    work.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    lock = FileLock(work / LOCK_FILE, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise RequestError(f"another process converts into {work}", "wait for it, or name another folder") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _explained_errors(source: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(str(error.filename)).is_relative_to(source):
            raise CheckpointError(
                f"{error.filename} cannot be read: {error.strerror}", "check the disk, or fetch the file again"
            ) from error
        raise SenseNovaError(
            f"{folder} cannot be written: {error.strerror or error}",
            "free some disk space, or make the folder writable: the same command then continues",
        ) from error


def _begin(work: Path, new: Record) -> Record:
    """Return the record of an earlier conversion into this folder, or write a new one."""
    if not (work / RECORD_FILE).exists():
        new.write(work)
        return new
    record = read_record(work)
    if (record.quantization, record.plan) != (new.quantization, new.plan):
        raise RequestError(
            f"{work} has an unfinished conversion of another kind: {record.quantization} of {record.model}",
            f"finish that one first, or remove it: rm -r {work}",
        )
    return record


def _hash_source(
    source: Path, tensors: Mapping[str, StoredTensor], record: Record, work: Path, on_progress: Progress
) -> None:
    """Add the sha256 of the source's files to the record. Files that have not changed are not read again."""
    files = [source / CONFIG_FILE, *sorted({tensor.file for tensor in tensors.values()})]
    states = {file: file.stat() for file in files}
    total = sum(state.st_size for state in states.values())
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        on_progress("reading", done, total)

    for file, state in states.items():
        known = record.source.get(file.name)
        if known is not None and (known.nbytes, known.modified) == (state.st_size, state.st_mtime_ns):
            count(state.st_size)
            continue
        sha256 = sha256_of(file, count)
        if known is not None and known.sha256 != sha256:
            raise RequestError(
                f"{file} has changed since the conversion into {work} began", f"begin again: rm -r {work}"
            )
        record.source[file.name] = SourceFile(state.st_size, state.st_mtime_ns, sha256)
        record.write(work)


def _check_done(files: list[ShardFile], record: Record, work: Path, on_progress: Progress) -> set[str]:
    """Return the names of the weight files that are whole. The others are removed."""
    found = [file for file in files if file.name in record.done and (work / file.name).is_file()]
    total = sum(file.nbytes for file in found)
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        on_progress("checking", min(done, total), total)

    kept = {file.name for file in found if sha256_of(work / file.name, count) == record.done[file.name]}
    record.done = {name: sha256 for name, sha256 in record.done.items() if name in kept}
    for path in work.glob("*.safetensors*"):
        if path.name not in kept:
            path.unlink()
    return kept


def _require_room(work: Path, needed: int) -> None:
    free = shutil.disk_usage(work).free
    if needed > free:
        raise SenseNovaError(
            f"{work} needs {format_bytes(needed)} more, and {format_bytes(free)} are free on its disk",
            "free some disk space: the same command then continues, or name a folder on another disk",
        )


def _write_files(files: list[ShardFile], kept: set[str], record: Record, work: Path, on_progress: Progress) -> None:
    missing = [file for file in files if file.name not in kept]
    total = sum(each.source.stop - each.source.start for file in missing for each in file.conversions)
    done = 0
    for file in missing:
        part = work / f"{file.name}.part"
        try:
            with part.open("wb") as stream:
                for nbytes in file.write(stream):
                    done += nbytes
                    on_progress("converting", done, total)
                stream.flush()
                os.fsync(stream.fileno())
            sha256 = sha256_of(part, lambda nbytes: None)
            part.rename(work / file.name)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)  # a full disk needs its room
        record.done[file.name] = sha256
        record.write(work)


def _write_small_files(source: Path, files: list[ShardFile], record: Record, work: Path) -> None:
    """Copy everything but the weights, and write the index."""
    own = {INDEX_FILE, SINGLE_FILE, RECORD_FILE}
    for path in sorted(source.iterdir()):
        is_small = any(fnmatch(path.name, each) for each in CHECKPOINT_FILES) and path.suffix != ".safetensors"
        if is_small and path.name not in own and path.is_file() and path.stat().st_size <= SMALL_FILE_BYTES:
            shutil.copyfile(path, work / path.name)
    weight_map = {name: file.name for file in files for name in file.tensor_names}
    total = sum(file.nbytes - len(file.header) for file in files)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (work / INDEX_FILE).write_text(json.dumps(index, indent=1), encoding="utf-8")
    _adapt_verification(work / VERIFICATION_FILE, record.quantization, record.done)


def _adapt_verification(file: Path, quantization: str, done: Mapping[str, str]) -> None:
    """Make the original's `verification.json` that of the copy. A damaged file stays as it is.

    It gets the checksums of the new weight files. Int8 keeps within the ordinary tolerance of pictures, but not within
    that of equal numbers. Float8 does not, so its copy has no pictures to compare.
    """
    try:
        content = read_json(file)
        if QUANTIZATIONS[quantization].format == "fp8":
            file.unlink()
            return
        if "checksums" in content:
            others = {name: sum for name, sum in content["checksums"].items() if not name.endswith(".safetensors")}
            content["checksums"] = {**others, **done}
        for picture in content["pictures"]:
            picture.pop("tolerance_in_dtype", None)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
