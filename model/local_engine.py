"""An engine whose weights are in this process, shared with other ranks where there are several."""

import atexit
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from config.recommended import read_recommended
from config.schema import LoadSettings
from config.together import require_compatible
from model.card import Card
from model.engine import Engine
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
from model.weights.builtin import DEMO_MODEL
from model.weights.hub import DownloadPlan, find_checkpoint
from model.weights.named_lora import NamedLora
from model.weights.quantize import resolve_quantization
from model.weights.slices import require_split
from model.worker import Worker, image_tokens


class LocalEngine(Engine):
    """A checkpoint loaded into this process.

    The prefixes that a request has read are kept for the next one, which then reads only what differs: the second
    question about a picture does not read the picture again. Those of the last request are kept, no others; a
    request frees what it cannot use of them before it reads. Results do not depend on what is kept: a picture has the
    same bytes, and an answer is the answer to the same tokens, read in other portions.

    Attributes:
        checkpoint: the folder it was loaded from.
        device, dtype: where and in which number format it runs.

    Several GPUs, or other processes on a CPU, may share a model. This process is then the first of them, and starts
    and ends the others (`model.placement.ranks`).
    """

    def __init__(
        self, model: str, worker: Worker, ranks: Ranks | None, groups: Groups | None, arrangement: str
    ) -> None:
        """Use `Engine.load` or `open_engine`."""
        self._model = model
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

    @property
    def placement(self) -> str:
        """Where the weights are and why, in words; empty where all of them are on the device, or lie as they were told
        to on several."""
        return self._arrangement or self._worker.model.describe()

    def predicted_peak(self, work: Work) -> int:
        """Bytes of the device's memory that this work is predicted to take, the weights included."""
        return self._worker.model.peak(work)

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """As `Engine.use_loras`."""
        if self._ranks is not None:
            self._ranks.carry_out(UseLoras(tuple(loras)), lambda: self._worker.use_loras(loras))
        else:
            self._worker.use_loras(loras)

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        """As `Engine.loras`."""
        return self._worker.loras

    @property
    def card(self) -> Card:
        """As `Engine.card`."""
        return Card(self._model, self._worker.recommended)

    @property
    def description(self) -> str:
        """As `Engine.description`."""
        placed = f"; {self.placement}" if self.placement else ""
        return f"{self.dtype} on {self.device}{placed}"

    def run(self, request: Request, trace: Trace | None = None) -> Iterator[Event]:
        """As `Engine.run`. The memory of a cancelled request is freed, but for the prefixes that are kept.

        Args:
            trace: filled with the request's tensors; of several ranks only with those of rank 0.
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


def load_engine(
    settings: LoadSettings,
    *,
    size: str = "auto",
    requests: Sequence[Request] | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
    on_plan: Callable[[DownloadPlan], None] | None = None,
    on_download: Callable[[int, int], None] | None = None,
) -> LocalEngine:
    """Load a model into this process and its ranks; arguments and errors as for `model.engine.open_engine`."""
    # First what costs nothing: a mistake here should not come after a download or minutes of reading.
    require_compatible(settings)
    where, number_format = resolve_device(settings.device), resolve_dtype(settings.dtype)
    towers = resolve_quantization(settings.quantization, where, number_format)
    counted = count_gpus(settings.gpus, where)
    drawn = [request.settings for request in requests or () if not isinstance(request, AnswerRequest)]
    if settings.gpus == "all":
        cache = next((each.cache for each in drawn if each.cache != "off"), "off")
        require_compatible(settings.model_copy(update={"gpus": counted}), cache)
    ranks_wanted = counted or settings.tensor_parallel_size * settings.cfg_parallel_size
    require_ranks(ranks_wanted, where, "gpus" if counted else SIZES)
    model = settings.model or DEMO_MODEL
    folder = find_checkpoint(model, on_plan=on_plan, on_progress=on_download)
    recommended = read_recommended(folder)
    sizes = [each.size for each in drawn] or [size]
    largest = max(sizes, key=lambda each: image_tokens(each, recommended))
    if ranks_wanted == 1:
        worker = Worker.load(Load(folder, settings, largest), where, None, on_progress)
        return LocalEngine(model, worker, None, None, "")
    order = Load(folder, settings.model_copy(update={"offload": "off"}), largest)
    config = read_config(folder)
    way = Arrangement(settings.tensor_parallel_size, settings.cfg_parallel_size)
    if counted:
        demand = Demand.of(requests, image_tokens(largest, recommended))
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
    engine = LocalEngine(model, worker, ranks, groups, way.describe() if counted else "")
    atexit.register(_close, weakref.ref(engine))
    return engine


def _close(engine: "weakref.ref[LocalEngine]") -> None:
    """At the end of the program."""
    if (alive := engine()) is not None:
        alive.close()
