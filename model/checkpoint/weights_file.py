"""Single files with all weights of a model, which other programs made: find them, and describe them without PyTorch."""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from config.mentions import mention
from model.checkpoint.download import DownloadPlan, download_weights
from model.checkpoint.gguf_header import SIZES, is_gguf, official_name, read_gguf
from model.checkpoint.safetensors_header import read_header
from model.errors import CheckpointError

ENDINGS = (".gguf", ".safetensors")
HEAD = "language_model.lm_head.weight"
"""The official name of `lm_head`, which drawing does not need."""
KINDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8", "I8": "int8"}
"""Names of the number formats of safetensors files."""
KEPT = {"int8": "int8", "float8": "fp8"}
"""The value of `quantization` that keeps the numbers of such files as they are."""
LOW_BITS = ("Q2_K", "Q3_K", "Q4_K")
_ON_HUB = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/\s]+))?/(?P<file>[^\s@]+\.(?:gguf|safetensors))", re.ASCII
)


@dataclass(frozen=True)
class WeightsFacts:
    """Facts about weight files, from their headers.

    Attributes:
        kind: the format of the weights, such as `GGUF Q3_K_M`, `int8` or `bfloat16`: an eight-bit one if a weight has
            it, else that of most of the numbers.
        others: the other formats, if `kind` is an eight-bit one of safetensors files; the most frequent first.
        nbytes: size of the files.
        tensors: number of tensors.
        has_head: whether `lm_head` is there, without which a model draws and cannot write.
    """

    kind: str
    others: tuple[str, ...]
    nbytes: int
    tensors: int
    has_head: bool

    @property
    def formats(self) -> str:
        """All formats, such as `int8 and bfloat16`."""
        return " and ".join((self.kind, *self.others))

    def notice(self, *, quantized: bool) -> str | None:
        """Return a notice for the user who loads the files, or None.

        Args:
            quantized: whether the model's weights are quantized.
        """
        if self.kind in KEPT and not quantized:
            keeping = mention("quantization", KEPT[self.kind])
            return f"the weights are stored in eight bits, and are decoded: {keeping} keeps them"
        return self.note

    @property
    def note(self) -> str | None:
        """A notice for the user about the pictures; None without one."""
        name = self.kind.rpartition(" ")[2]
        if not name.startswith(LOW_BITS):
            return None
        return f"{name}: other pictures are to be expected than those of the original"


def find_weights_file(
    name: str,
    *,
    on_plan: Callable[[DownloadPlan], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return a file with weights. Download it first if it is on the Hub and not on this machine.

    Args:
        name: a file, or a Hub id with a file name: `owner/name/file.gguf` or `owner/name@revision/file.gguf`.
        on_plan, on_progress: as for `find_checkpoint`.

    Raises:
        CheckpointError: there is no such file, or it cannot be downloaded.
    """
    try:
        path = Path(name).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: the home of ~nobody
        raise CheckpointError(f"{name} cannot be read: {error}", "check its name and permissions") from error
    if is_file:
        return path.absolute()
    if is_folder:
        raise CheckpointError(f"{name} is a folder; `weights` is for one file", "use `model` for a checkpoint folder")
    on_hub = _ON_HUB.fullmatch(name)
    if on_hub is None or name.startswith((".", "~", "/")):
        raise CheckpointError(
            f"there is no file {name}", _similar(path) or "name a file, or one on the Hub like owner/name/file.gguf"
        )
    return download_weights(on_hub["name"], on_hub["revision"] or "main", on_hub["file"], on_plan, on_progress)


def local_weights_file(name: str) -> Path | None:
    """Return a file with weights if it is on this machine, as a file or in the Hub cache, else None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path.absolute()
        on_hub = _ON_HUB.fullmatch(name)
        if on_hub is None:
            return None
        cached = try_to_load_from_cache(on_hub["name"], on_hub["file"], revision=on_hub["revision"] or "main")
    except (OSError, RuntimeError, ValueError, HFValidationError):
        return None
    return Path(cached) if isinstance(cached, str) else None


def _similar(path: Path) -> str | None:
    """Return a hint for a missing file: a file with a similar name beside it."""
    if not path.parent.is_dir():
        return None
    names = [each.name for each in path.parent.iterdir() if each.suffix in ENDINGS]
    near = get_close_matches(path.name, names, n=1, cutoff=0.8)
    return f"did you mean {path.parent / near[0]}?" if near else None


def describe_weights(*files: Path) -> WeightsFacts:
    """Read the headers of files and describe them together.

    Raises:
        CheckpointError: a file cannot be read, is damaged, or is of another model.
    """
    counts: Counter[str] = Counter()
    names: list[str] = []
    for file in files:
        if is_gguf(file):
            for tensor in read_gguf(file).tensors:
                names.append(tensor.name)
                counts[f"GGUF {SIZES[tensor.number].name}"] += math.prod(tensor.shape)
        else:
            for entry in read_header(file):
                names.append(official_name(entry.name))
                if "scale" in entry.name.rpartition(".")[2]:  # they belong to weights in eight bits
                    continue
                counts[KINDS.get(entry.dtype, entry.dtype)] += math.prod(entry.shape)
    frequent = [kind for kind, _ in counts.most_common()] or ["empty"]
    packed = next((kind for kind in frequent if kind in KEPT), None)
    kind = packed or frequent[0]
    others = tuple(each for each in frequent if packed and each in KINDS.values() and each != packed)
    if len(files) == 1:
        kind = _kind_of_name(kind, files[0].name)
    return WeightsFacts(kind, others, sum(file.stat().st_size for file in files), len(names), HEAD in names)


def _kind_of_name(kind: str, file: str) -> str:
    """Return a kind as the file's name spells it: its mixtures have names like Q3_K_M."""
    short = kind.rpartition(" ")[2]
    named = re.search(rf"(?<![A-Z0-9]){re.escape(short)}_[A-Z]{{1,2}}(?![A-Z0-9])", file.upper())
    return kind.replace(short, named[0]) if named else kind
