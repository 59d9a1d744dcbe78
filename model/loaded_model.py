"""A checkpoint's network, its weights lying where the device's memory allows."""

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from config.mentions import mention
from config.settings import LoadSettings
from config.units import format_memory
from model.backends.select import select_backend
from model.checkpoint.loader import change_adapters, load_checkpoint
from model.checkpoint.lora import Adapter
from model.checkpoint.quantization import resolve_quantization
from model.checkpoint.safetensors_files import CHUNK_BYTES
from model.checkpoint.sharding import WHOLE, split_config
from model.devices import avoid_fragmentation, host_memory, limit_memory, resolve_dtype, usable_memory
from model.errors import DeviceError, DeviceMemoryError
from model.events import LoadProgress
from model.memory.estimate import (
    ALL_RESIDENT,
    OffloadPlan,
    Weights,
    Workload,
    choose,
    peak_bytes,
)
from model.memory.offload import Offload, load_offloaded
from model.memory.weight_stream import WeightStream
from model.network.configuration import ModelConfig
from model.network.sensenova import SenseNovaU1
from model.parallel.collectives import ProcessGroups
from model.parallel.tensor_parallel import join_parts
from model.sampling.backend import Backend


class LoadedModel:
    """Loads a network, and loads it anew where a request needs more room than there is.

    Attributes:
        network, runtime: as they are now, while `is_loaded`.
        adapters: LoRAs that its weights hold.
        placement: where they are.
        is_shared: whether several ranks run it.
    """

    network: SenseNovaU1
    backend: Backend

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        device: torch.device,
        settings: LoadSettings,
        groups: ProcessGroups | None = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            groups: of the ranks that share the network; all of this one's part is on its device.

        Raises:
            DeviceError: weights cannot be anywhere else than on this kind of device, or cannot be quantized there.
        """
        limit = settings.gpu_memory_bytes
        if device.type == "mps" and (settings.offload not in ("auto", "off") or limit is not None):
            setting = "`gpu_memory`" if limit is not None else f"`offload` {settings.offload}"
            raise DeviceError(f"{setting} is for NVIDIA's GPUs and for CPUs", "leave it out")
        self.folder, self.config, self.device = folder, config, device
        self.dtype = resolve_dtype(settings.dtype)
        self.adapters: tuple[Adapter, ...] = ()
        self.offload_plan = ALL_RESIDENT
        self._settings = settings
        self._quantized = resolve_quantization(settings.quantization, device, self.dtype)
        self.is_loaded = False
        self._groups = groups
        self.is_shared = groups is not None
        self._shards = groups.position.shards if groups else WHOLE
        # What is drawn on has the heads of the gen tower's part.
        self._own_config = split_config(config, self._shards.gen.count)
        self._weights = Weights.of(config, self.dtype.itemsize, self._quantized, self._shards)
        self.budget = usable_memory(device, limit)
        limit_memory(device, limit)
        self._is_limited = limit is not None
        self._offload: Offload | None = None
        self._notes: list[str] = []
        self._told: set[str] = set()

    def load(
        self,
        work: Workload,
        adapters: Sequence[Adapter],
        check_weights: bool = False,
        on_progress: Callable[[LoadProgress], None] | None = None,
    ) -> None:
        """Place the weights so that there is room for this work; other arguments and errors as for `load_checkpoint`.

        Raises:
            DeviceMemoryError: there is not, wherever they are.
        """
        self.offload_plan = self._choice(work)
        self._notes = list(self._remarks(work))
        if self.offload_plan.kind != "off":
            avoid_fragmentation(self.device)
        arguments = (check_weights, on_progress, self._quantized, adapters)
        if self.offload_plan.kind == "off":
            self.network = load_checkpoint(self.folder, self.device, self.dtype, *arguments, self._shards)
            if self._groups is not None:
                join_parts(self.network, self.config.transformer.vocabulary, self._groups)
        else:
            self._offload = load_offloaded(self.folder, self.device, self.dtype, self.offload_plan, *arguments)
            self.network = self._offload.network
        self.backend = select_backend(self.network, enforce_eager=self._settings.enforce_eager, groups=self._groups)
        self.adapters = tuple(adapters)
        self.is_loaded = True

    def fits(self, work: Workload) -> bool:
        """Whether there is room for this work as weights are placed now, or nothing can be done about it."""
        if not self.is_loaded:
            return False
        if self.budget is None or self._settings.offload in ("off", "module"):
            return True
        return self.peak(work) <= self.budget or self._choice(work) == self.offload_plan

    def peak(self, work: Workload) -> int:
        """Predicted bytes of the device's memory."""
        return peak_bytes(self._own_config, self._weights, self.offload_plan, work, self.dtype.itemsize)

    def release(self) -> None:
        """Let the weights go, so that `load` can place them anew. Whoever else holds the network has to do so, too."""
        if self._offload is not None:
            self._offload.stream.close()  # what is on its way would be written to memory that is somebody else's
        if self.is_loaded:
            del self.network, self.backend
        self.is_loaded = False
        self._offload = None
        gc.collect()  # layers and their slots know one another
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def change_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Have other LoRAs; errors as for `checkpoint.change_adapters`. One that is cut off has to be repeated."""
        before, self.adapters = self.adapters, (*self.adapters, *adapters)
        if self._offload is not None:
            self._offload.change_adapters(before, adapters)
        elif self.is_loaded:
            change_adapters(self.network, self.folder, before, adapters, self._shards)
        self.adapters = tuple(adapters)

    def take_notices(self) -> Iterator[str]:
        """What a user should know that has not been told yet."""
        telling: list[Backend | WeightStream] = [self.backend] if self.is_loaded else []
        if self._offload is not None:
            telling.append(self._offload.stream)
        for note in (*self._notes, *(each.note for each in telling)):
            if note is not None and note not in self._told:
                self._told.add(note)
                yield note

    def _remarks(self, work: Workload) -> Iterator[str]:
        """What there is to say about a placement that is going to be taken."""
        peak = self.peak(work)
        if self._is_limited and self.budget is not None and peak > self.budget:
            needed, limit = format_memory(peak), format_memory(self.budget)
            yield f"`offload` {self.offload_plan.kind} takes {needed} for this, more than the {limit} that were allowed"
        if self.device.type == "cuda":
            _, note = host_memory(CHUNK_BYTES, page_locked=True)
            if note is not None:
                yield note

    def describe(self) -> str:
        """Where weights are and why, as `LocalEngine.weights_summary`."""
        if self.offload_plan.kind == "off":
            return ""
        weights, offload_plan = self._weights, self.offload_plan
        total = format_memory(weights.on_device(ALL_RESIDENT))
        held = format_memory(weights.on_device(offload_plan))
        if offload_plan.buffers < weights.layers:
            how = f"{offload_plan.buffers} of {weights.layers} layers of a tower at a time"
        elif offload_plan.whole_head:
            how = "the towers take turns"
        else:
            how = "the towers take turns, and the output matrix comes in pieces"
        limit = f" in {format_memory(self.budget)}" if self.budget is not None else ""
        return f"offload {offload_plan.kind}: {how}, {held} of {total} of weights{limit}"

    def advice(self, work: Workload) -> str:
        """What to set where memory ran out at this work all the same."""
        smaller = f"ask for {work.smaller}"
        if self.budget is None or self._groups is not None:
            return smaller
        order = ["off", "module", "layers"]
        wanted = order[min(order.index(self.offload_plan.kind) + 1, 2)]
        budget = self.budget * 9 // 10 if wanted == self.offload_plan.kind else self.budget
        try:
            offload_plan = choose(wanted, self._own_config, self._weights, work, self.dtype.itemsize, budget)
        except DeviceMemoryError:
            return smaller
        setting = mention("offload", offload_plan.kind)
        if wanted == self.offload_plan.kind:
            setting += f" and {mention('gpu_memory', format_memory(budget).replace(' ', ''))}"
        return f"use {setting}, or {smaller}"

    def _choice(self, work: Workload) -> OffloadPlan:
        if self.budget is None:
            return ALL_RESIDENT
        return choose(self._settings.offload, self._own_config, self._weights, work, self.dtype.itemsize, self.budget)
