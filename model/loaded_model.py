"""The loaded model: network, backend and offload plan together. No other module knows all three."""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from config.mentions import mention
from config.settings import LoadSettings
from config.sizes import Size
from config.units import format_memory
from model.backends.select import select_backend
from model.checkpoint.conversion_record import converted_quantization
from model.checkpoint.loader import load_checkpoint, replace_adapters
from model.checkpoint.lora import Adapter
from model.checkpoint.quantization import quantization_note, resolve_quantization
from model.checkpoint.sharding import WHOLE, split_config
from model.checkpoint.tensor_files import CHUNK_BYTES
from model.device_kinds import DeviceKind
from model.devices import (
    avoid_fragmentation,
    host_memory,
    limit_memory,
    resolve_dtype,
    return_free_memory,
    usable_memory,
)
from model.errors import DeviceError, DeviceMemoryError
from model.events import LoadProgress
from model.memory.estimate import (
    ALL_RESIDENT,
    OffloadPlan,
    Weights,
    Workload,
    choose_offload_plan,
    peak_bytes,
)
from model.memory.offload import Offload, load_offloaded
from model.memory.weight_stream import WeightStream
from model.network.configuration import ModelConfig
from model.network.missing_head import MissingHead, refuse_text
from model.network.sensenova import SenseNovaU1
from model.parallel.collectives import ProcessGroups
from model.parallel.tensor_parallel import apply_tensor_parallel
from model.requests import FirstUse
from model.sampling.backend import Backend
from model.sampling.warm_up import warm_up
from model.timings import COMPILE, process_timings


class LoadedModel:
    """A network, its backend and its offload plan. A request that needs more memory can load them again.

    Attributes:
        network, backend: the loaded ones; missing unless `is_loaded`.
        adapters: the LoRAs merged into the weights.
        offload_plan: which weights are on the device.
        is_shared: whether several ranks run the network.
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
        """Check the settings; load nothing yet.

        Args:
            groups: process groups of the ranks that share the network. This rank's shard stays on its device.

        Raises:
            DeviceError: this kind of device does not support offloading or quantization.
        """
        limit = settings.gpu_memory_bytes
        if not DeviceKind.of(device).offloads and (settings.offload not in ("auto", "off") or limit is not None):
            setting = "`gpu_memory`" if limit is not None else f"`offload` {settings.offload}"
            raise DeviceError(f"{setting} is for NVIDIA's GPUs and for CPUs", "leave it out")
        self.folder, self.config, self.device = folder, config, device
        self.dtype = resolve_dtype(settings.dtype)
        self.adapters: tuple[Adapter, ...] = ()
        self.offload_plan = ALL_RESIDENT
        self._settings = settings
        self._weights_file = Path(settings.weights_file) if settings.weights_file else None
        self._quantized = resolve_quantization(settings.quantization, device, self.dtype)
        self.is_loaded = False
        self._groups = groups
        self.is_shared = groups is not None
        self._shards = groups.shards if groups else WHOLE
        # A picture's keys and values have the heads of this rank's shard of the generation tower.
        self._own_config = split_config(config, self._shards.gen.count)
        self._weights = Weights.of(config, self.dtype.itemsize, self._quantized, self._shards)
        self.budget = usable_memory(device, limit)
        limit_memory(device, limit)
        self._is_limited = limit is not None
        self._offload: Offload | None = None
        self._notes: list[str] = []
        self._shown: set[str] = set()

    def use_freed_memory(self) -> None:
        """Raise the budget to the memory that is free now and the weights that are loaded, unless a limit is set."""
        free = usable_memory(self.device, None)
        if self.is_loaded and not self._is_limited and free is not None:
            self.budget = free + self._weights.on_device(self.offload_plan)

    def load(
        self,
        workload: Workload,
        adapters: Sequence[Adapter],
        check_weights: bool = False,
        on_progress: Callable[[LoadProgress], None] | None = None,
        first_use: tuple[FirstUse, Size] | None = None,
    ) -> None:
        """Load the network with an offload plan that leaves memory for a workload.

        Args:
            adapters, check_weights, on_progress: as for `load_checkpoint`.
            first_use: the passes to warm up while the weights are read, and the picture's size. None warms up nothing.

        Raises:
            DeviceMemoryError: no plan leaves enough memory.
            CheckpointError: as for `load_checkpoint`.
        """
        self.offload_plan = self._plan_for(workload)
        self._notes = list(self._plan_notes(workload))
        if self.offload_plan.kind != "off":
            avoid_fragmentation(self.device)
        arguments = (check_weights, on_progress, self._quantized, adapters)
        weights = self._weights_file
        load_resident = partial(
            load_checkpoint, self.folder, self.device, self.dtype, *arguments, self._shards, weights=weights
        )
        backend: Backend | None = None
        if self.offload_plan.kind != "off":
            self._offload = load_offloaded(self.folder, self.device, self.dtype, self.offload_plan, *arguments, weights)
            self.network = self._offload.network
        elif first_use is not None and self._warms_up:
            self.network, backend = self._load_and_warm_up(load_resident, *first_use)
        else:
            self.network = load_resident()
            if self._groups is not None:
                apply_tensor_parallel(self.network, self.config.transformer.vocabulary, self._groups)
        with process_timings.phase(COMPILE):
            self.backend = backend or self._select_backend(self.network)
        self.adapters = tuple(adapters)
        self.is_loaded = True

    @property
    def _warms_up(self) -> bool:
        """Whether passes run while the weights are read. Ranks do not, because their passes wait for one another."""
        return DeviceKind.of(self.device).compiles_kernels and not self._settings.enforce_eager and not self.is_shared

    def _load_and_warm_up(
        self, load: Callable[..., SenseNovaU1], use: FirstUse, size: Size
    ) -> tuple[SenseNovaU1, Backend]:
        """Load the network while another thread selects the backend and runs the passes of the first request.

        Args:
            load: `load_checkpoint` with its other arguments.
        """
        started: list[Future[Backend]] = []
        cancelled = threading.Event()

        def prepare(network: SenseNovaU1) -> Backend:
            backend = self._select_backend(network)
            writes = use.writes and not isinstance(network.lm_head, MissingHead)
            warm_up(backend, replace(use, writes=writes), size, cancelled)
            return backend

        def start(network: SenseNovaU1) -> None:
            started.append(pool.submit(prepare, network))

        with ThreadPoolExecutor(1, "warm up") as pool:
            try:
                network = load(before_reading=start)
            except BaseException:
                cancelled.set()
                raise
            with process_timings.phase(COMPILE):
                return network, started[0].result()

    def _select_backend(self, network: SenseNovaU1) -> Backend:
        return select_backend(network, enforce_eager=self._settings.enforce_eager, groups=self._groups)

    def fits(self, workload: Workload) -> bool:
        """Return whether the workload fits with the current plan, or no other plan would help."""
        if not self.is_loaded:
            return False
        if self.budget is None or self._settings.offload in ("off", "module"):
            return True
        return self.peak(workload) <= self.budget or self._plan_for(workload) == self.offload_plan

    def peak(self, workload: Workload) -> int:
        """Return the estimated peak of device memory, in bytes."""
        return peak_bytes(self._own_config, self._weights, self.offload_plan, workload, self.dtype.itemsize)

    def release(self) -> None:
        """Free the weights, so that `load` can load them again. No other object may hold the network."""
        if self._offload is not None:
            self._offload.stream.close()  # a load in progress would write to freed memory
        if self.is_loaded:
            del self.network, self.backend
        self.is_loaded = False
        self._offload = None
        gc.unfreeze()  # a program may have frozen what was loaded
        gc.collect()  # layers and their buffers refer to each other
        return_free_memory(self.device)

    def replace_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Replace the merged LoRAs. If interrupted, the weights are unusable until a retry succeeds.

        Raises:
            CheckpointError: as for `model.checkpoint.loader.replace_adapters`.
        """
        before, self.adapters = self.adapters, (*self.adapters, *adapters)
        if self._offload is not None:
            self._offload.replace_adapters(before, adapters)
        elif self.is_loaded:
            replace_adapters(self.network, self.folder, before, adapters, self._shards, self._weights_file)
        self.adapters = tuple(adapters)

    def require_head(self) -> None:
        """Raise RequestError if the weights lack `lm_head`, so that the model cannot write."""
        if self.is_loaded and isinstance(self.network.lm_head, MissingHead):
            refuse_text()

    def take_notices(self) -> Iterator[str]:
        """Yield notices for the user that were not yielded before."""
        sources: list[Backend | WeightStream] = [self.backend] if self.is_loaded else []
        if self._offload is not None:
            sources.append(self._offload.stream)
        for note in (*self._notes, *(each.note for each in sources)):
            if note is not None and note not in self._shown:
                self._shown.add(note)
                yield note

    def add_notice(self, text: str | None) -> None:
        """Add a notice for `take_notices`, unless it is None."""
        if text is not None:
            self._notes.append(text)

    def _plan_notes(self, workload: Workload) -> Iterator[str]:
        """Yield notices about the current plan."""
        note = quantization_note(self._quantized, self.device)
        if note is not None:
            yield note
        stored = None if self._quantized or self._weights_file else converted_quantization(self.folder)
        if stored is not None:
            yield f"the weights are stored in eight bits, and are decoded: {mention('quantization', stored)} keeps them"
        peak = self.peak(workload)
        if self._is_limited and self.budget is not None and peak > self.budget:
            needed, limit = format_memory(peak), format_memory(self.budget)
            yield f"`offload` {self.offload_plan.kind} needs {needed} for this, more than the {limit} that are allowed"
        if DeviceKind.of(self.device).has_streams:
            _, note = host_memory(CHUNK_BYTES, page_locked=True)
            if note is not None:
                yield note

    def describe(self) -> str:
        """Return the location of the weights and the reason, for `LocalEngine.weights_summary`."""
        if self.offload_plan.kind == "off":
            return ""
        weights, plan = self._weights, self.offload_plan
        total = format_memory(weights.on_device(ALL_RESIDENT))
        held = format_memory(weights.on_device(plan))
        most, pictures, texts = weights.layers, plan.gen_buffers, plan.und_buffers
        if pictures == texts < most:
            how = f"{texts} of {most} layers of a tower at a time"
        elif min(pictures, texts) < most:
            how = f"{min(pictures, most)} of {most} layers at a time for pictures, {min(texts, most)} for texts"
        elif weights.text_pass_bytes(plan):
            how = "towers are swapped in and out, and lm_head is streamed"
        else:
            how = "towers are swapped in and out"
        limit = f" in {format_memory(self.budget)}" if self.budget is not None else ""
        return f"offload {plan.kind}: {how}, {held} of {total} of weights{limit}"

    def advice(self, workload: Workload) -> str:
        """Return a hint for a request that ran out of memory in spite of the estimate."""
        smaller = f"ask for {workload.smaller}"
        if self.budget is None or self._groups is not None:
            return smaller
        order = ["off", "module", "layers"]
        wanted = order[min(order.index(self.offload_plan.kind) + 1, 2)]
        budget = self.budget * 9 // 10 if wanted == self.offload_plan.kind else self.budget
        try:
            plan = choose_offload_plan(wanted, self._own_config, self._weights, workload, self.dtype.itemsize, budget)
        except DeviceMemoryError:
            return smaller
        setting = mention("offload", plan.kind)
        if wanted == self.offload_plan.kind:
            setting += f" and {mention('gpu_memory', format_memory(budget).replace(' ', ''))}"
        return f"use {setting}, or {smaller}"

    def _plan_for(self, workload: Workload) -> OffloadPlan:
        if self.budget is None:
            return ALL_RESIDENT
        wanted, itemsize = self._settings.offload, self.dtype.itemsize
        return choose_offload_plan(wanted, self._own_config, self._weights, workload, itemsize, self.budget)
