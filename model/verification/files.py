"""Checks of a checkpoint's files: is everything there, and is it what the Hub has?"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from config.errors import SenseNovaError
from config.recommended import read_recommended
from model.checkpoint.conversion_record import converted_checksums
from model.checkpoint.download import CHECKPOINT_FILES
from model.checkpoint.layout import checkpoint_layout
from model.checkpoint.loader import require_finite, require_matching
from model.checkpoint.stored_tensor import StoredTensor
from model.checkpoint.tensor_files import stored_tensors
from model.errors import CheckpointError
from model.inputs.tokenizer import Tokenizer
from model.network.configuration import CONFIG_FILE, ModelConfig, read_config

Progress = Callable[[str, int, int], None]
"""Called now and then with the name of the running check, the bytes read so far, and the bytes to read."""

_CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_READ_BYTES = 8 * 2**20


@dataclass(frozen=True)
class FileFinding:
    """The result of one check of the files."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    detail: str


def check_files(
    folder: Path,
    configuration: Mapping[str, bool | int | float | str] | None = None,
    checksums: Mapping[str, str] | None = None,
    on_progress: Progress = lambda name, done, total: None,
) -> Iterator[FileFinding]:
    """Check a checkpoint folder and yield a finding for each check. All files are read twice at most.

    The checks are: `configuration`; `tensors` (every tensor of the configuration is there with its shape and a known
    dtype, none too many, every file as long as its header says); `tokenizer`; `checksums` (files whose
    checksum is given, or known from the Hub or from the conversion that wrote them); `values` (no NaN, no infinity).

    Args:
        configuration: values that `config.json` should have, by dotted name.
        checksums: sha256 of files by name. The Hub's checksums are used as well.
    """
    config: ModelConfig | None = None
    tensors: dict[str, StoredTensor] | None = None
    try:
        config = read_config(folder)
        read_recommended(folder)
        _require_configuration(folder, configuration or {})
        yield FileFinding("configuration", "passed", _describe(config))
    except SenseNovaError as error:
        yield FileFinding("configuration", "failed", error.what)
    try:
        tensors = stored_tensors(folder)
        _require_exact_sizes(tensors)
        if config is None:
            yield FileFinding(
                "tensors", "skipped", f"{len(tensors)} tensors, but no configuration to compare them with"
            )
        else:
            require_matching(tensors, checkpoint_layout(config), folder)
            yield FileFinding("tensors", "passed", f"{len(tensors)} tensors: all names, shapes and dtypes are right")
    except SenseNovaError as error:
        yield FileFinding("tensors", "failed", error.what)
    try:
        yield FileFinding("tokenizer", "passed", f"{len(Tokenizer(folder)):,} tokens")
    except SenseNovaError as error:
        yield FileFinding("tokenizer", "failed", error.what)
    yield _check_checksums(folder, checksums or {}, on_progress)
    yield _check_values(folder, tensors, on_progress)


def _describe(config: ModelConfig) -> str:
    shape = config.transformer
    head = "convolutional" if config.flow.convolutional_head else "MLP"
    return f"{shape.layers} layers of width {shape.hidden_size}, {head} head"


def _require_configuration(folder: Path, expected: Mapping[str, bool | int | float | str]) -> None:
    """Raise CheckpointError if `config.json`, which `read_config` has accepted, does not have these values."""
    fields = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    wrong = []
    for name, value in expected.items():
        found: Any = fields
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found != value:
            wrong.append(f"{name} is {_shortened(json.dumps(found))}, and should be {json.dumps(value)}")
    if wrong:
        raise CheckpointError("\n".join(f"{CONFIG_FILE}: {each}" for each in wrong), "fetch the file again")


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"


def _require_exact_sizes(tensors: dict[str, StoredTensor]) -> None:
    """Raise CheckpointError if a file goes on after its last tensor. `stored_tensors` refuses one that is too short."""
    ends: dict[Path, int] = {}
    for tensor in tensors.values():
        ends[tensor.file] = max(ends.get(tensor.file, 0), tensor.stop)
    for file, end in ends.items():
        size = file.stat().st_size
        if size != end:
            raise CheckpointError(f"{file} has {size:,} bytes, and its header describes {end:,}", "fetch it again")


def _check_values(folder: Path, tensors: dict[str, StoredTensor] | None, on_progress: Progress) -> FileFinding:
    if tensors is None:
        return FileFinding("values", "skipped", "the weights cannot be read")
    try:
        require_finite(folder, tensors, lambda now: on_progress("values", now.done_bytes, now.total_bytes))
    except CheckpointError as error:
        return FileFinding("values", "failed", error.what)
    return FileFinding("values", "passed", f"no NaN and no infinity in {len(tensors)} tensors")


def _check_checksums(folder: Path, given: Mapping[str, str], on_progress: Progress) -> FileFinding:
    files = sorted(file for file in folder.iterdir() if any(fnmatch(file.name, each) for each in CHECKPOINT_FILES))
    from_hub = [(file, checksum) for file in files if (checksum := hub_checksum(file)) is not None]
    converted = converted_checksums(folder)
    made = [(file, converted[file.name]) for file in files if file.name in converted and file.name not in given]
    known = [*from_hub, *made, *((folder / name, checksum) for name, checksum in given.items())]
    if not known:
        return FileFinding("checksums", "skipped", "none are known: the files are not in the Hub cache")
    total, done, wrong = sum(file.stat().st_size for file, _ in known if file.is_file()), 0, []
    for file, expected in known:
        if file.exists() and not file.is_file():  # reading a pipe or a device would not end
            wrong.append(f"{file.name} is not a regular file")
            continue
        try:
            digest = _new_digest(file, expected)
            with file.open("rb") as stream:
                while data := stream.read(_READ_BYTES):
                    digest.update(data)
                    done += len(data)
                    on_progress("checksums", done, total)
        except OSError as error:
            wrong.append(f"{file.name} cannot be read: {error.strerror}")
            continue
        if digest.hexdigest() != expected:
            wrong.append(f"{file.name} has the checksum {digest.hexdigest()}, and should have {expected}")
    if wrong:
        return FileFinding("checksums", "failed", "\n".join(wrong))
    matching = {file for file, _ in known}
    others = "" if matching >= set(files) else "; the others have no known checksum"
    return FileFinding("checksums", "passed", f"{len(matching)} of {len(matching.union(files))} files match{others}")


def hub_checksum(file: Path) -> str | None:
    """Return the checksum that the Hub gave for a file when it was downloaded, or None if it is unknown.

    It is a sha256 (64 digits) for large files and the sha1 of a git blob (40 digits) for small ones. The Hub cache
    names its blobs by it. A download into a folder writes it to the second line of a file in
    `.cache/huggingface/download`.
    """
    if file.is_symlink():
        blob = file.resolve()
        return blob.name if blob.parent.name == "blobs" and _CHECKSUM.fullmatch(blob.name) else None
    note = file.parent / ".cache" / "huggingface" / "download" / f"{file.name}.metadata"
    try:
        lines = note.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return lines[1] if len(lines) > 1 and _CHECKSUM.fullmatch(lines[1]) else None


def _new_digest(file: Path, expected: str) -> "hashlib._Hash":
    """Return an empty checksum of the kind of `expected`."""
    return hashlib.sha256() if len(expected) == 64 else hashlib.sha1(b"blob %d\0" % file.stat().st_size)
