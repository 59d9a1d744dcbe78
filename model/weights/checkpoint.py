"""Load a checkpoint: compare what its files hold with what the network needs, then stream it in."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from model.errors import CheckpointError
from model.events import LoadProgress
from model.network.configuration import ModelConfig, read_config
from model.network.sensenova import SenseNovaU1
from model.weights.layout import Slot, checkpoint_layout
from model.weights.quantize import Staging, empty_quantized
from model.weights.shards import Block, StoredTensor, read_blocks, stored_tensors

NUMBERED = re.compile(r"(?<=layers\.|xperts\.)\d+")
"""A layer's or an expert's number in a tensor's name."""

REPORT_BYTES = 64 * 2**20
"""Progress is reported each time this much has been read."""


# The weights are plain tensors wherever this is called: the threads that fill them are not in the caller's mode.
@torch.inference_mode(False)
def load_checkpoint(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    check_weights: bool = False,
    on_progress: Callable[[LoadProgress], None] | None = None,
    quantized: Collection[str] = (),
) -> SenseNovaU1:
    """Build the network and fill it from `folder`, fusing, casting and placing each block of numbers as it is read.

    Beside the parameters themselves only a few blocks of 4 MiB are held, whatever type the files store.

    Args:
        check_weights: look at every number and refuse NaN and infinity.
        quantized: towers, `gen` or `und`, whose projections are turned into eight bits as they arrive.

    Raises:
        CheckpointError: the folder is no usable checkpoint. Missing, unexpected and misshapen tensors are listed
            together; so are tensors with NaN.
    """
    config = read_config(folder)
    tensors, slots = stored_tensors(folder), checkpoint_layout(config)
    compare(tensors, slots, folder)
    with torch.device("meta"):
        network = SenseNovaU1(config)
    staging = Staging(empty_quantized(network, quantized, device), dtype)
    allocate(network, device, dtype)
    parameters = {name: parameter.detach().flatten() for name, parameter in network.named_parameters()}
    total = sum(tensor.stop - tensor.start for tensor in tensors.values())
    done = reported = 0
    damaged: set[str] = set()

    def place(block: Block) -> None:
        slot = slots[block.tensor.name]
        first = slot.offset + block.first
        if check_weights and not torch.isfinite(block.data).all():
            damaged.add(block.tensor.name)
        if slot.parameter in parameters:
            parameters[slot.parameter][first : first + block.data.numel()].copy_(block.data)
        else:
            staging.place(slot.parameter, first, block.data)

    with closing(read_blocks(tensors.values(), place, pinned=device.type == "cuda")) as counts:
        for count in counts:
            done += count
            if on_progress and (done - reported >= REPORT_BYTES or done == total):
                reported = done
                on_progress(LoadProgress(done, total))
    if damaged:
        names = [name for name in slots if name in damaged]
        raise CheckpointError(
            f"{folder}: {len(names)} tensors hold NaN or infinity:\n{_listed(names)}",
            "fetch the checkpoint again",
        )
    return network


def empty_network(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> SenseNovaU1:
    """The network with memory for its weights, but no numbers in it yet."""
    with torch.device("meta"):
        network = SenseNovaU1(config)
    return allocate(network, device, dtype)


def allocate(network: SenseNovaU1, device: torch.device, dtype: torch.dtype) -> SenseNovaU1:
    """Give the parameters of a network on the meta device memory."""
    # Not `to_empty`: on the meta device it goes through code that imports sympy, a third of a second.
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            memory = torch.empty(parameter.shape, dtype=dtype, device=device)
            module.register_parameter(name, nn.Parameter(memory, requires_grad=False))
    return network.eval()


def compare(tensors: dict[str, StoredTensor], slots: dict[str, Slot], folder: Path) -> None:
    """Raise CheckpointError unless the files hold exactly the tensors that the configuration asks for."""
    missing = [name for name in slots if name not in tensors]
    unexpected = [name for name in tensors if name not in slots]
    misshapen = [
        f"{name}: is {list(tensors[name].shape)}, should be {list(slots[name].shape)}"
        for name in slots
        if name in tensors and tensors[name].shape != slots[name].shape
    ]
    if not (missing or unexpected or misshapen):
        return
    parts = [f"{folder}: the weights do not fit config.json"]
    for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if names:
            parts.append(f"{len(names)} {title}:\n{_listed(names)}")
    raise CheckpointError("\n".join(parts), "fetch the checkpoint again; config.json and weights must belong together")


def _listed(names: Iterable[str]) -> str:
    """All names, one line for those that differ only in layer and expert numbers: `layers.{0-4,7}.mlp…`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(NUMBERED.sub("*", name), []).append(name)
    lines = [members[0] if len(members) == 1 else _collapsed(pattern, members) for pattern, members in groups.items()]
    return "\n".join(f"  {line}" for line in lines)


def _collapsed(pattern: str, members: Sequence[str]) -> str:
    """One line for names of the same pattern: each `*` becomes the numbers that stand there."""
    columns = zip(*(NUMBERED.findall(name) for name in members), strict=True)
    for column in columns:
        pattern = pattern.replace("*", f"{{{_ranges(sorted({int(number) for number in column}))}}}", 1)
    return f"{pattern} ({len(members)})"


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] → '0-2,5'."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
