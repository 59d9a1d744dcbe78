"""Loading of checkpoints: compare the stored tensors with the configuration, then read them into a network."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from model.checkpoint.kept_weights import kept_scales, require_format
from model.checkpoint.layout import ParameterSlice, checkpoint_layout
from model.checkpoint.lora import Adapter, AdapterMerger, updated_tensors
from model.checkpoint.quantization import OFF, Quantization, QuantizedLayer, Staging, empty_quantized
from model.checkpoint.sharding import WHOLE, Shards, shard_layout, shard_of, split_config
from model.checkpoint.stored_tensor import Chunk, StoredTensor, TensorPart
from model.checkpoint.tensor_files import read_chunks, stored_tensors, total_bytes
from model.checkpoint.tensor_names import format_names
from model.checkpoint.weights_file import HEAD
from model.device_kinds import DeviceKind
from model.errors import CheckpointError
from model.events import LoadProgress
from model.network.configuration import ModelConfig, read_config
from model.network.missing_head import MissingHead
from model.network.sensenova import SenseNovaU1
from model.timings import READ, process_timings

DECODED_NUMBERS = 4 * 2**20
"""Numbers of an encoded tensor that are decoded at once, so that this takes about 100 MiB of the device."""
REPORT_BYTES = 64 * 2**20
"""Progress is reported after each 64 MiB."""


# Not in inference mode, even if the caller is: the threads that write the weights are not in that mode.
@torch.inference_mode(False)
def load_checkpoint(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    check_weights: bool = False,
    on_progress: Callable[[LoadProgress], None] | None = None,
    quantized: Quantization = OFF,
    adapters: Sequence[Adapter] = (),
    shards: Shards = WHOLE,
    before_reading: Callable[[SenseNovaU1], None] | None = None,
    weights: Path | None = None,
) -> SenseNovaU1:
    """Build a network and read its weights from `folder`. Fuse, cast and copy each chunk as it is read.

    Beside the parameters, only a few chunks of 4 MiB are in memory, and a few whole weights that are being quantized.

    Args:
        check_weights: refuse weights with NaN or infinity.
        quantized: the weights to quantize while they are read.
        adapters: LoRAs to merge while their tensors are read.
        shards: the rank's part of the network; `require_split` must allow it.
        before_reading: called with the network when it has memory for its weights.
        weights: a file with all weights, instead of those of the folder. It may lack `lm_head`.

    Raises:
        CheckpointError: the folder is not a usable checkpoint. One message lists all missing, unexpected and misshapen
            tensors, another one all tensors with NaN or infinity.
    """
    config = read_config(folder)
    tensors = checkpoint_tensors(folder, config, quantized, weights)
    network = empty_network(config, device, dtype, quantized, shards, has_head=HEAD in tensors)
    if before_reading is not None:
        before_reading(network)
    source = weights or folder
    fill(network, source, tensors, shard_layout(config, shards), adapters, check_weights, on_progress, shards)
    return network


def checkpoint_tensors(
    folder: Path, config: ModelConfig, quantized: Quantization = OFF, weights: Path | None = None
) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint that fit its configuration; arguments and errors as for `load_checkpoint`."""
    tensors = stored_tensors(folder, weights)
    require_matching(tensors, checkpoint_layout(config), weights or folder, optional=(HEAD,) if weights else ())
    require_format(tensors, quantized)
    return tensors


@torch.inference_mode(False)
def replace_adapters(
    network: SenseNovaU1,
    folder: Path,
    before: Sequence[Adapter],
    after: Sequence[Adapter],
    shards: Shards = WHOLE,
    weights: Path | None = None,
) -> None:
    """Replace the merged LoRAs of a loaded network. Reload the tensors that the old and new LoRAs update.

    Raises:
        CheckpointError: the files cannot be read any more. The weights are unusable until a retry succeeds.
    """
    layout = shard_layout(read_config(folder), shards)
    # Whole parameters: a quantized one is computed from all its slices.
    touched = {layout[name].parameter for name in updated_tensors([*before, *after])}
    stored = stored_tensors(folder, weights)
    tensors = {name: tensor for name, tensor in stored.items() if layout[name].parameter in touched}
    fill(network, weights or folder, tensors, layout, after, shards=shards)


class ParameterWriter:
    """Writes chunks of a checkpoint's tensors into a network's parameters: merged with LoRAs, cast or quantized.

    Several threads may use it.
    """

    def __init__(
        self,
        network: SenseNovaU1,
        layout: Mapping[str, ParameterSlice],
        adapters: Sequence[Adapter],
        parts: Mapping[str, TensorPart] | None = None,
    ) -> None:
        """
        Args:
            network: has memory for the parameters to write, and does not move it.
            parts: the part of each tensor that is read; whole tensors if None.
        """
        self._layout = layout
        self._dtype = network.dtype
        self._device = network.device
        self._merger = AdapterMerger(adapters, network.device, parts or {})
        self._parameters = {
            name: parameter.detach().flatten()
            for name, parameter in network.named_parameters()
            if not parameter.is_meta
        }
        quantized = {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}
        self._quantized = {f"{name}.weight": module for name, module in quantized.items()}
        self._scales = kept_scales(self._quantized, layout, parts or {}, updated_tensors(adapters))

    def staging(self) -> Staging:
        """Return a new staging area for the weights to quantize, for tensors that are read together."""
        return Staging(self._quantized, self._dtype, self._scales)

    def write(self, chunk: Chunk, staging: Staging, *, non_blocking: bool = False) -> None:
        """Write a chunk.

        Args:
            non_blocking: enqueue the copy on the current stream and return. The chunk's data must not change before
                the copy is done.
        """
        destination = self._layout[chunk.tensor.name]
        first = destination.offset + chunk.first
        if destination.parameter in self._scales:
            values = chunk.stored_values(self._quantized[destination.parameter].weight.dtype)
            staging.place(destination.parameter, first, values, non_blocking=non_blocking)
            return
        for part in chunk.split(DECODED_NUMBERS):
            self._write_numbers(part, staging, non_blocking=non_blocking)

    def _write_numbers(self, chunk: Chunk, staging: Staging, *, non_blocking: bool) -> None:
        destination = self._layout[chunk.tensor.name]
        first = destination.offset + chunk.first
        numbers = chunk.numbers(self._device, non_blocking=non_blocking)
        numbers = self._merger.merge(chunk.tensor.name, chunk.first, numbers)
        if destination.parameter not in self._parameters:
            staging.place(destination.parameter, first, numbers, non_blocking=non_blocking)
            return
        if numbers.dtype != self._dtype:  # the device casts faster than the host, which then needs no second copy
            numbers = numbers.to(self._device, non_blocking=non_blocking)
        target = self._parameters[destination.parameter][first : first + numbers.numel()]
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
    """Read tensors into a network that has memory for them; arguments and errors as for `load_checkpoint`."""
    parts = {name: shard_of(tensor, layout[name], shards) for name, tensor in tensors.items()}
    writer = ParameterWriter(network, layout, adapters, parts)
    staging = writer.staging()
    damaged: set[str] = set()

    def write(chunk: Chunk) -> None:
        if check_weights and not torch.isfinite(chunk.numbers()).all():
            damaged.add(chunk.tensor.name)
        writer.write(chunk, staging)

    with process_timings.phase(READ):
        _read(parts.values(), write, network.device, on_progress)
    staging.require_empty()
    require_undamaged(damaged, folder)


def require_finite(
    folder: Path,
    tensors: Mapping[str, StoredTensor],
    on_progress: Callable[[LoadProgress], None] | None = None,
) -> None:
    """Read tensors and raise CheckpointError if any of them contains NaN or infinity."""
    damaged: set[str] = set()

    def check(chunk: Chunk) -> None:
        if not torch.isfinite(chunk.numbers()).all():
            damaged.add(chunk.tensor.name)

    _read(map(TensorPart.whole, tensors.values()), check, torch.device("cpu"), on_progress)
    require_undamaged(damaged, folder)


def _read(
    parts: Iterable[TensorPart],
    use: Callable[[Chunk], None],
    device: torch.device,
    on_progress: Callable[[LoadProgress], None] | None,
) -> None:
    parts = list(parts)
    total = total_bytes(parts)
    done = reported = 0
    with closing(read_chunks(parts, use, pinned=DeviceKind.of(device).has_streams)) as chunk_sizes:
        for size in chunk_sizes:
            done += size
            if on_progress and (done - reported >= REPORT_BYTES or done == total):
                reported = done
                on_progress(LoadProgress(done, total))


def require_undamaged(damaged: Collection[str], folder: Path) -> None:
    """Raise CheckpointError if `damaged` names tensors: those with NaN or infinity."""
    if damaged:
        raise CheckpointError(
            f"{folder}: {len(damaged)} tensors contain NaN or infinity:\n{format_names(sorted(damaged))}",
            "fetch the checkpoint again",
        )


def empty_network(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    quantized: Quantization = OFF,
    shards: Shards = WHOLE,
    has_head: bool = True,
) -> SenseNovaU1:
    """Build a network, or a rank's part of it, with uninitialized weights; `quantized` as for `load_checkpoint`.

    Args:
        has_head: whether there are weights for `lm_head`.
    """
    network = meta_network(config, shards, has_head)
    empty_quantized(network, quantized, device)
    allocate_parameters(network, device, dtype)
    return network


def meta_network(config: ModelConfig, shards: Shards = WHOLE, has_head: bool = True) -> SenseNovaU1:
    """Build a network, or a rank's part of it, on PyTorch's meta device. Its `config` is that of the und shard."""
    with torch.device("meta"):
        network = SenseNovaU1(split_config(config, shards.und.count))
        if shards.gen.count != shards.und.count:
            gen_shard = SenseNovaU1(split_config(config, shards.gen.count))
            network.gen, network.fm_head = gen_shard.gen, gen_shard.fm_head
    if not has_head:
        network.add_module("lm_head", MissingHead())
    return network.eval()


def allocate_parameters(network: SenseNovaU1, device: torch.device, dtype: torch.dtype) -> None:
    """Allocate memory for the parameters that are on the meta device."""
    # Not `to_empty`: on the meta device it imports sympy, which takes a third of a second.
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                memory = torch.empty(parameter.shape, dtype=dtype, device=device)
                module.register_parameter(name, nn.Parameter(memory, requires_grad=False))


def require_matching(
    tensors: dict[str, StoredTensor], layout: dict[str, ParameterSlice], source: Path, optional: Collection[str] = ()
) -> None:
    """Raise CheckpointError unless the files contain exactly the tensors of the layout.

    Args:
        source: the folder or file of the tensors.
        optional: tensors that may be missing.
    """
    missing = [name for name in layout if name not in tensors and name not in optional]
    unexpected = [name for name in tensors if name not in layout]
    misshapen = [
        f"{name}: is {list(tensors[name].shape)}, should be {list(layout[name].shape)}"
        for name in layout
        if name in tensors and tensors[name].shape != layout[name].shape
    ]
    if not (missing or unexpected or misshapen):
        return
    parts = [f"{source}: the weights do not fit config.json"]
    for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if names:
            parts.append(f"{len(names)} {title}:\n{format_names(names)}")
    hint = "fetch the checkpoint again; config.json and weights must belong together"
    if source.is_file():
        hint = "use a file of weights of this model, or name its model with `model`"
    raise CheckpointError("\n".join(parts), hint)
