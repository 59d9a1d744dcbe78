"""Load a checkpoint: compare what its files hold with what the network needs, then stream it in."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from model.checkpoint.layout import ParameterSlice, checkpoint_layout
from model.checkpoint.lora import Adapter, Merging, changed_by
from model.checkpoint.quantization import Fp8Linear, Staging, empty_quantized
from model.checkpoint.safetensors_files import Chunk, StoredTensor, TensorPart, read_chunks, stored_tensors
from model.checkpoint.sharding import WHOLE, Shards, shard_layout, shard_of, split_config
from model.checkpoint.tensor_names import listed
from model.errors import CheckpointError
from model.events import LoadProgress
from model.network.configuration import ModelConfig, read_config
from model.network.sensenova import SenseNovaU1

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
    adapters: Sequence[Adapter] = (),
    shards: Shards = WHOLE,
) -> SenseNovaU1:
    """Build the network and fill it from `folder`, fusing, casting and placing each block of numbers as it is read.

    Beside the parameters themselves only a few blocks of 4 MiB are held, whatever type the files store, and of those
    that become eight-bit a few whole ones.

    Args:
        check_weights: look at every number and refuse NaN and infinity.
        quantized: towers, `gen` or `und`, whose projections are turned into eight bits as they arrive.
        adapters: LoRAs that are merged on the way.
        shares: the part of the network that is built, and read; `require_split` has allowed it.

    Raises:
        CheckpointError: the folder is no usable checkpoint. Missing, unexpected and misshapen tensors are listed
            together; so are tensors with NaN.
    """
    config = read_config(folder)
    tensors = stored_tensors(folder)
    compare(tensors, checkpoint_layout(config), folder)
    network = empty_network(config, device, dtype, quantized, shards)
    fill(network, folder, tensors, shard_layout(config, shards), adapters, check_weights, on_progress, shards)
    return network


@torch.inference_mode(False)
def change_adapters(
    network: SenseNovaU1, folder: Path, before: Sequence[Adapter], after: Sequence[Adapter], shards: Shards = WHOLE
) -> None:
    """Have a loaded network with other LoRAs: the matrices that any of them changes are read from the files anew.

    Raises:
        CheckpointError: the files cannot be read any more. The network is then not to be used until this succeeds.
    """
    layout = shard_layout(read_config(folder), shards)
    # Whole parameters: an eight-bit one is made anew from all its parts.
    touched = {layout[name].parameter for name in changed_by([*before, *after])}
    tensors = {name: tensor for name, tensor in stored_tensors(folder).items() if layout[name].parameter in touched}
    fill(network, folder, tensors, layout, after, shards=shards)


class Filling:
    """Puts numbers from a checkpoint's files where they belong in a network: merged, cast, or turned into eight bits.
    Made for several threads."""

    def __init__(
        self,
        network: SenseNovaU1,
        layout: Mapping[str, ParameterSlice],
        adapters: Sequence[Adapter],
        pieces: Mapping[str, TensorPart] | None = None,
    ) -> None:
        """The network has memory for what will be placed, and keeps it where it is.

        Args:
            pieces: what comes of each tensor, where it is not all of it.
        """
        self._layout = layout
        self._dtype = network.dtype
        self._device = network.device
        self._merging = Merging(adapters, network.device, pieces or {})
        self._parameters = {
            name: parameter.detach().flatten()
            for name, parameter in network.named_parameters()
            if not parameter.is_meta
        }
        eight_bit = {name: module for name, module in network.named_modules() if isinstance(module, Fp8Linear)}
        self._eight_bit = {f"{name}.weight": module for name, module in eight_bit.items()}

    def staging(self) -> Staging:
        """Where numbers wait that become eight-bit, of tensors that are read together."""
        return Staging(self._eight_bit, self._dtype)

    def place(self, chunk: Chunk, staging: Staging, *, non_blocking: bool = False) -> None:
        """Take in a block.

        Args:
            non_blocking: return when the current stream has been asked to copy the data, which must then stay as they
                are until it has.
        """
        place = self._layout[chunk.tensor.name]
        first = place.offset + chunk.first
        numbers = self._merging.merged(chunk.tensor.name, chunk.first, chunk.data)
        if place.parameter not in self._parameters:
            staging.place(place.parameter, first, numbers, non_blocking=non_blocking)
            return
        if numbers.dtype != self._dtype:  # the device casts faster than the host, and without a second copy there
            numbers = numbers.to(self._device, non_blocking=non_blocking)
        target = self._parameters[place.parameter][first : first + numbers.numel()]
        target.copy_(numbers, non_blocking=non_blocking)


def fill(
    network: SenseNovaU1,
    folder: Path,
    tensors: Mapping[str, StoredTensor],
    layout: Mapping[str, ParameterSlice],
    adapters: Sequence[Adapter],
    check_weights: bool = False,
    on_progress: Callable[[LoadProgress], None] | None = None,
    shards: Shards = WHOLE,
) -> None:
    """Stream tensors into a network that has memory for them; arguments and errors as for `load_checkpoint`."""
    pieces = {name: shard_of(tensor, layout[name], shards) for name, tensor in tensors.items()}
    filling = Filling(network, layout, adapters, pieces)
    staging = filling.staging()
    damaged: set[str] = set()

    def place(chunk: Chunk) -> None:
        if check_weights and not torch.isfinite(chunk.data).all():
            damaged.add(chunk.tensor.name)
        filling.place(chunk, staging)

    _read(pieces.values(), place, network.device, on_progress)
    staging.require_empty()
    require_undamaged(damaged, folder)


def require_finite(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Read tensors only to see whether they hold NaN or infinity, and raise CheckpointError if they do."""
    damaged: set[str] = set()

    def look(chunk: Chunk) -> None:
        if not torch.isfinite(chunk.data).all():
            damaged.add(chunk.tensor.name)

    _read(map(TensorPart.whole, tensors.values()), look, torch.device("cpu"), None)
    require_undamaged(damaged, folder)


def _read(
    pieces: Iterable[TensorPart],
    use: Callable[[Chunk], None],
    device: torch.device,
    on_progress: Callable[[LoadProgress], None] | None,
) -> None:
    pieces = list(pieces)
    total = sum(piece.nbytes for piece in pieces)
    done = reported = 0
    with closing(read_chunks(pieces, use, pinned=device.type == "cuda")) as counts:
        for count in counts:
            done += count
            if on_progress and (done - reported >= REPORT_BYTES or done == total):
                reported = done
                on_progress(LoadProgress(done, total))


def require_undamaged(damaged: Collection[str], folder: Path) -> None:
    """Raise CheckpointError if there are tensors with NaN or infinity."""
    if damaged:
        raise CheckpointError(
            f"{folder}: {len(damaged)} tensors hold NaN or infinity:\n{listed(sorted(damaged))}",
            "fetch the checkpoint again",
        )


def empty_network(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    quantized: Collection[str] = (),
    shards: Shards = WHOLE,
) -> SenseNovaU1:
    """The network of a configuration, or a part of it, with memory for its weights, but no numbers in it yet;
    `quantized` as for `load_checkpoint`."""
    network = network_without_memory(config, shards)
    empty_quantized(network, quantized, device)
    give_memory(network, device, dtype)
    return network


def network_without_memory(config: ModelConfig, shards: Shards = WHOLE) -> SenseNovaU1:
    """The network of a configuration, or a part of it, on PyTorch's meta device; its own configuration is that of the
    und tower's part."""
    with torch.device("meta"):
        network = SenseNovaU1(split_config(config, shards.und.count))
        if shards.gen.count != shards.und.count:
            drawing = SenseNovaU1(split_config(config, shards.gen.count))
            network.gen, network.fm_head = drawing.gen, drawing.fm_head
    return network.eval()


def give_memory(network: SenseNovaU1, device: torch.device, dtype: torch.dtype) -> None:
    """Give the parameters memory that have none."""
    # Not `to_empty`: on the meta device it goes through code that imports sympy, a third of a second.
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                memory = torch.empty(parameter.shape, dtype=dtype, device=device)
                module.register_parameter(name, nn.Parameter(memory, requires_grad=False))


def compare(tensors: dict[str, StoredTensor], layout: dict[str, ParameterSlice], folder: Path) -> None:
    """Raise CheckpointError unless the files hold exactly the tensors that the configuration asks for."""
    missing = [name for name in layout if name not in tensors]
    unexpected = [name for name in tensors if name not in layout]
    misshapen = [
        f"{name}: is {list(tensors[name].shape)}, should be {list(layout[name].shape)}"
        for name in layout
        if name in tensors and tensors[name].shape != layout[name].shape
    ]
    if not (missing or unexpected or misshapen):
        return
    parts = [f"{folder}: the weights do not fit config.json"]
    for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if names:
            parts.append(f"{len(names)} {title}:\n{listed(names)}")
    raise CheckpointError("\n".join(parts), "fetch the checkpoint again; config.json and weights must belong together")
