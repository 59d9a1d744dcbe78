"""The engine: a resident model that turns a request into a stream of events."""

import atexit
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from config.recommended import Recommended, read_recommended
from config.together import require_compatible
from model.events import Event, LoadProgress, Notice
from model.network.configuration import read_config
from model.orders import Forget, Kept, Load, Run, UseLoras
from model.placement.arrangement import Arrangement, Demand, arrange_model, count_gpus
from model.placement.devices import resolve_device, resolve_dtype
from model.placement.groups import Groups
from model.placement.launch import SIZES, require_ranks
from model.placement.plan import Work
from model.placement.ranks import Ranks
from model.requests import AnswerRequest, Request
from model.trace import Trace
from model.weights.hub import DownloadPlan, find_checkpoint
from model.weights.named_lora import NamedLora
from model.weights.quantize import resolve_quantization
from model.weights.slices import require_split
from model.worker import Worker, image_tokens


class Engine:
    """A loaded checkpoint on one device.

    >>> engine = Engine.load("path/to/checkpoint")
    >>> for event in engine.run(GenerateRequest("A cute cat")):
    ...     if isinstance(event, Picture):
    ...         event.image.save("cat.png")

    What a request has read, its prefixes, is kept for the next one, which then reads only what differs: the second
    question about a picture does not read the picture again. Those of the last request are kept, no others; a
    request frees what it cannot use of them before it reads.

    Attributes:
        checkpoint: the folder it was loaded from.
        device, dtype: where and in which number format it runs.

    Several GPUs, or other processes on a CPU, may share a model: see `load`. This process is then the first of them,
    and starts and ends the others (`model.placement.ranks`).
    """

    def __init__(self, worker: Worker, ranks: Ranks | None, groups: Groups | None, arrangement: str) -> None:
        """Use `Engine.load`."""
        self._worker = worker
        self._ranks = ranks
        self._read_together = groups.und.share.count if groups else 1  # ranks that read the same, one after another
        self._uneven = False
        self._arrangement = arrangement
        self.checkpoint = worker.model.folder
        size = groups.position.size if groups else 1
        self.device = str(worker.model.device) + (f", {size} ranks" if size > 1 else "")
        self.dtype = worker.dtype

    @property
    def kept_tokens(self) -> int:
        """Tokens that are kept for the next request, all branches together; none while a request is under way."""
        return self._worker.kept_tokens

    @property
    def kept_bytes(self) -> int:
        """Memory on the device that `kept_tokens` take; an 8B model in bfloat16 has 172 KB (42 layers) for each."""
        return self._worker.kept_bytes

    @property
    def kept_lengths(self) -> Kept:
        """`kept_tokens`, branch by branch; of several ranks only what this one has read."""
        return self._worker.kept_lengths

    def forget(self) -> None:
        """Free the memory of what is kept; the next request reads everything."""
        self._worker.forget()
        if self._ranks is not None and self._ranks.lost is None:
            self._ranks.carry_out(Forget(), lambda: None)

    @property
    def is_lost(self) -> bool:
        """Whether a process that shares the model was lost, so that it has to be loaded again."""
        return self._ranks is not None and self._ranks.lost is not None

    def close(self) -> None:
        """Free the model's memory, and end the processes that share it. Happens by itself when nobody has the engine
        any more; it cannot be used afterwards."""
        # CUDA graphs hold operations that ranks share: they have to go before the ranks do.
        self._worker.close()
        ranks, self._ranks = self._ranks, None
        if ranks is not None:
            ranks.close()

    def __del__(self) -> None:
        if getattr(self, "_ranks", None) is not None:
            self.close()

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        device: str = "auto",
        dtype: str = "bfloat16",
        check_weights: bool = False,
        quantization: str = "off",
        loras: Sequence[NamedLora] = (),
        enforce_eager: bool = False,
        offload: str = "auto",
        gpu_memory: int | None = None,
        size: str = "auto",
        tensor_parallel_size: int = 1,
        cfg_parallel_size: int = 1,
        gpus: int | Literal["all"] = 0,
        requests: Sequence[Request] | None = None,
        on_progress: Callable[[LoadProgress], None] | None = None,
        on_plan: Callable[[DownloadPlan], None] | None = None,
        on_download: Callable[[int, int], None] | None = None,
    ) -> "Engine":
        """Load a checkpoint folder, or a Hugging Face Hub id (downloaded when it is not in the cache).

        Args:
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            dtype: `bfloat16`, `float16` or `float32`; weights are cast while they are read.
            check_weights: refuse weights that hold NaN or infinity.
            quantization: `off`, `fp8` (eight-bit weights in the gen tower) or `fp8-all` (in both towers).
            loras: merged while loading; see `use_loras`.
            enforce_eager: compile nothing and capture no CUDA graphs.
            offload: what is on the device: `off` (everything), `module` (the towers in turn), `layers` (as many layers
                as fit), or the fastest of these that fits (`auto`); see `placement`.
            gpu_memory: bytes of the device's memory that may be used; all that is free if None.
            size: of the pictures to have room for, as in the settings. A request that needs more room than there is
                has the weights placed anew.
            tensor_parallel_size: ranks that share each network, every one of them holding a part.
            cfg_parallel_size: networks, each of which computes guidance branches of its own. All in all there are
                as many ranks as the product of both, on as many GPUs; on `cpu` they share the cores.
            gpus: how many ranks, or `all` GPUs, instead of these two sizes, which are then chosen; 0 leaves them. What
                reads and writes may be split over all of them then, and what draws be there several times.
            requests: those that the sizes are chosen for; None where nobody knows them yet. Others may follow.
            on_progress: called now and then with the bytes read so far. What it raises ends the loading.
            on_plan, on_download: told what a download will fetch, and how many bytes of how many it has fetched.

        Raises:
            SettingsError: some of this excludes each other.
            CheckpointError: the checkpoint is missing or damaged.
            RecommendationError: its recommended settings are damaged.
            DeviceError: there is no such device or number format, there are fewer GPUs than ranks, or the network
                cannot be shared by so many.
            RankError: a rank was lost while it was loading.
            DeviceMemoryError: the weights do not fit; or less than the smallest working set may be used.
        """
        # First what costs nothing: a mistake here should not come after a download or minutes of reading.
        compatible = partial(
            require_compatible,
            device=device,
            offload=offload,
            gpu_memory=gpu_memory,
            tensor_parallel_size=tensor_parallel_size,
            cfg_parallel_size=cfg_parallel_size,
        )
        compatible(gpus=gpus)
        where, number_format = resolve_device(device), resolve_dtype(dtype)
        towers = resolve_quantization(quantization, where, number_format)
        counted = count_gpus(gpus, where)
        drawn = [request.settings for request in requests or () if not isinstance(request, AnswerRequest)]
        if gpus == "all":
            compatible(gpus=counted, cache=next((each.cache for each in drawn if each.cache != "off"), "off"))
        ranks_wanted = counted or tensor_parallel_size * cfg_parallel_size
        require_ranks(ranks_wanted, where, "gpus" if counted else SIZES)
        folder = find_checkpoint(str(checkpoint), on_plan=on_plan, on_progress=on_download)
        order = Load(
            folder,
            dtype,
            check_weights,
            quantization,
            tuple(loras),
            enforce_eager,
            offload if ranks_wanted == 1 else "off",
            gpu_memory,
            size,
        )
        if ranks_wanted == 1:
            return cls(Worker.load(order, where, None, on_progress), None, None, "")
        config = read_config(folder)
        way = Arrangement(tensor_parallel_size, cfg_parallel_size)
        if counted:
            recommended = read_recommended(folder)
            sizes = {size, *(each.size for each in drawn)}
            demand = Demand.of(requests, max(image_tokens(each, recommended) for each in sizes))
            way = arrange_model(counted, demand, config, where, number_format.itemsize, towers)
        require_split(config, way.tensor)
        ranks = Ranks(way.tensor, way.guidance, way.splits_und, where)

        def watched(now: LoadProgress) -> None:
            ranks.require_whole()  # nobody waits for the end of what will not be used
            if on_progress is not None:
                on_progress(now)

        try:
            groups = ranks.groups()
            worker = ranks.carry_out(order, lambda: Worker.load(order, groups.device, groups, watched))
        except BaseException:
            ranks.close()
            raise
        engine = cls(worker, ranks, groups, way.describe() if counted else "")
        atexit.register(_close, weakref.ref(engine))
        return engine

    @property
    def placement(self) -> str:
        """Where the weights are and why, in words; empty where all of them are on the device, or lie as they were told
        to on several."""
        return self._arrangement or self._worker.model.describe()

    def predicted_peak(self, work: Work) -> int:
        """Bytes of the device's memory that this work is predicted to take, the weights included."""
        return self._worker.model.peak(work)

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """Have these LoRAs from now on, and no others; with none the weights are exactly what the files hold.

        Raises:
            CheckpointError: one cannot be read or does not fit, which changes nothing; or the checkpoint's files
                cannot be read any more.
            DeviceMemoryError: the matrices that are read anew do not fit beside the rest.

        A change that is cut off after it has begun, by these or by Ctrl-C, leaves weights that no request is carried
        out with, until another change succeeds.
        """
        if self._ranks is not None:
            self._ranks.carry_out(UseLoras(tuple(loras)), lambda: self._worker.use_loras(loras))
        else:
            self._worker.use_loras(loras)

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        """Those that the weights hold."""
        return self._worker.loras

    @property
    def recommended(self) -> Recommended:
        """What the checkpoint says about sizes and settings, and the LoRAs about settings."""
        return self._worker.recommended

    def run(self, request: Request, trace: Trace | None = None) -> Iterator[Event]:
        """Carry out a request, telling what happens as it happens; `Statistics` comes last.

        Closing the iterator between two events cancels the request and frees its memory, but for the prefixes that
        are kept; the engine stays usable. Results do not depend on what is kept: a picture comes out as the same
        bytes, an answer is the one to the same tokens, read in other portions.

        Args:
            trace: filled with the request's tensors; of several ranks only with those of rank 0.

        Raises:
            RequestError: the request cannot be carried out with this checkpoint.
            CheckpointError: a change of LoRAs was cut off.
            PictureError: an input picture cannot be used.
            DeviceMemoryError: it does not fit in the device's memory.
            NumericsError: the result came out as NaN or infinity.
            RankError: a process that shares the model was lost: see `is_lost`.
        """
        if self._ranks is not None:
            self._ranks.require_whole()
        yield from map(Notice, self._worker.model.take_notes())
        if self._ranks is None:
            yield from self._worker.perform(request, trace)
            return
        if self._uneven:
            self._worker.forget()
        # Only rank 0 yields events, so the others make no previews.
        others = request if isinstance(request, AnswerRequest) else replace(request, preview_every=0)
        try:
            yield from self._ranks.lead(Run(others, self._uneven), self._worker.perform(request, trace))
        finally:
            # One rank may have had no memory to keep what another one keeps; they would then read in other portions.
            kept, size = {0: self._worker.kept_lengths, **self._ranks.results}, self._read_together
            self._uneven = any(kept[rank] != kept[rank - rank % size] for rank in kept)


def _close(engine: "weakref.ref[Engine]") -> None:
    """At the end of the program."""
    if (alive := engine()) is not None:
        alive.close()
