"""Loading a model into this process, shared with other ranks where there are several."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from config.recommended import read_recommended
from config.settings import LoadSettings, require_compatible
from model.checkpoint.builtin import DEMO_MODEL
from model.checkpoint.hub import DownloadPlan, find_checkpoint
from model.checkpoint.quantization import resolve_quantization
from model.checkpoint.sharding import require_split
from model.devices import resolve_device, resolve_dtype
from model.events import LoadProgress
from model.network.configuration import read_config
from model.parallel.collectives import ProcessGroups
from model.parallel.commands import Load
from model.parallel.launch import SIZES, require_ranks
from model.parallel.layout import ExpectedUse, ParallelLayout, choose_model_layout, count_gpus
from model.parallel.processes import RankProcesses
from model.requests import AnswerRequest, Request
from model.runner import Runner, image_tokens


@dataclass(frozen=True)
class LocalModel:
    """A model in this process.

    Attributes:
        name: as the settings name it.
        worker: runs requests on this rank.
        ranks, groups: the other ranks and the process groups; None without other ranks.
        layout: the parallel layout in words, where it was chosen here; else empty.
    """

    name: str
    runner: Runner
    ranks: RankProcesses | None
    groups: ProcessGroups | None
    layout: str


def load_model(
    settings: LoadSettings,
    *,
    size: str = "auto",
    requests: Sequence[Request] | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
    on_plan: Callable[[DownloadPlan], None] | None = None,
    on_download: Callable[[int, int], None] | None = None,
) -> LocalModel:
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
        runner = Runner.load(Load(folder, settings, largest), where, None, on_progress)
        return LocalModel(model, runner, None, None, "")
    order = Load(folder, settings.model_copy(update={"offload": "off"}), largest)
    config = read_config(folder)
    way = ParallelLayout(settings.tensor_parallel_size, settings.cfg_parallel_size)
    if counted:
        demand = ExpectedUse.of(requests, image_tokens(largest, recommended))
        way = choose_model_layout(counted, demand, config, where, number_format.itemsize, towers)
    require_split(config, way.tensor)
    ranks = RankProcesses(way.tensor, way.guidance, way.splits_und, where)

    def watched(now: LoadProgress) -> None:
        ranks.require_all_ranks()  # nobody waits for the end of what will not be used
        if on_progress is not None:
            on_progress(now)

    try:
        groups = ranks.groups()
        runner = ranks.run_on_all(order, lambda: Runner.load(order, groups.device, groups, watched))
    except BaseException:
        ranks.close()
        raise
    return LocalModel(model, runner, ranks, groups, way.describe() if counted else "")
