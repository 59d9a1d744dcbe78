"""Loading a model into this process and, with several ranks, into the other rank processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from config.recommended import read_recommended
from config.settings import LoadSettings, require_compatible
from model.checkpoint.builtin import DEMO_MODEL
from model.checkpoint.hub import DownloadPlan, find_card, find_checkpoint
from model.checkpoint.quantization import require_whole_groups, resolve_quantization
from model.checkpoint.sharding import require_split
from model.checkpoint.weights_file import describe_weights, find_weights_file
from model.devices import resolve_device, resolve_dtype, usable_memory
from model.events import LoadProgress
from model.memory.estimate import ALL_RESIDENT, USUAL_PREFIXES, Weights, Workload, peak_bytes
from model.memory.number_format import choose_dtype
from model.network.configuration import read_config
from model.network.missing_head import refuse_text
from model.parallel.choose_layout import ExpectedUse, choose_model_layout, count_gpus
from model.parallel.collectives import ProcessGroups
from model.parallel.commands import Load
from model.parallel.launch import SIZES, require_ranks
from model.parallel.layout import ParallelLayout
from model.parallel.processes import RankProcesses
from model.requests import AnswerRequest, FirstUse, Request, writes_text
from model.runner import Runner, image_tokens, picture_size, text_tokens
from model.timings import CARD, COMPILE, DEVICE, PLACE, READ, process_timings


@dataclass(frozen=True)
class LocalModel:
    """A model in this process.

    Attributes:
        name: its name in the settings.
        runner: runs requests on this rank.
        ranks, groups: the other ranks and the process groups; None without other ranks.
        chosen_layout: the parallel layout if `gpus` asked for a choice, else None.
    """

    name: str
    runner: Runner
    ranks: RankProcesses | None = None
    groups: ProcessGroups | None = None
    chosen_layout: ParallelLayout | None = None


def has_room(settings: LoadSettings, size: str = "auto") -> bool:
    """Return whether a model fits into the memory that is free now, with all its weights on one device. False if that
    is not known, or if several ranks would share the model.

    Args:
        size: picture size to reserve memory for, as in the settings.

    Raises:
        CheckpointError, RecommendationError: as for `model.checkpoint.card.read_local_card`.
        DeviceError: the device does not exist.
    """
    is_shared = settings.gpus or settings.tensor_parallel_size * settings.cfg_parallel_size > 1
    device = resolve_device(settings.device)
    budget = usable_memory(device, None)
    if is_shared or settings.gpu_memory_bytes is not None or budget is None:
        return False
    folder = find_card(settings.model or DEMO_MODEL)
    config, tokens = read_config(folder), image_tokens(size, read_recommended(folder))
    dtype = resolve_dtype(choose_dtype(settings, device, config, tokens)[0])
    weights = Weights.of(config, dtype.itemsize, resolve_quantization(settings.quantization, device, dtype))
    workload = Workload(tokens, USUAL_PREFIXES)
    return peak_bytes(config, weights, ALL_RESIDENT, workload, dtype.itemsize) <= budget


def load_model(
    settings: LoadSettings,
    *,
    size: str = "auto",
    requests: Sequence[Request] | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
    on_plan: Callable[[DownloadPlan], None] | None = None,
    on_download: Callable[[int, int], None] | None = None,
) -> LocalModel:
    """Load a model into this process and its ranks. Arguments and errors are those of `model.opening.open_engine`."""
    # Cheap checks first: a mistake must not be reported after a download or minutes of loading.
    require_compatible(settings)
    process_timings.restart(DEVICE, PLACE, READ, COMPILE)
    with process_timings.phase(DEVICE):
        device = resolve_device(settings.device)
    # With eight-bit weights, `auto` is bfloat16.
    quantized = resolve_quantization(
        settings.quantization, device, resolve_dtype(settings.dtype.replace("auto", "bfloat16"))
    )
    gpus = count_gpus(settings.gpus, device)
    image_settings = [request.settings for request in requests or () if not isinstance(request, AnswerRequest)]
    if settings.gpus == "all":
        cache = next((each.cache for each in image_settings if each.cache != "off"), "off")
        require_compatible(settings.model_copy(update={"gpus": gpus}), cache)
    ranks_wanted = gpus or settings.tensor_parallel_size * settings.cfg_parallel_size
    require_ranks(ranks_wanted, device, "gpus" if gpus else SIZES)
    model = settings.model or DEMO_MODEL
    with process_timings.phase(CARD):
        name = settings.weights_file
        folder = find_checkpoint(model, on_plan=on_plan, on_progress=on_download, with_weights=name is None)
        recommended = read_recommended(folder)
        weights = None if name is None else find_weights_file(name, on_plan=on_plan, on_progress=on_download)
    facts = None if weights is None else describe_weights(weights)
    if facts is not None and not facts.has_head and any(map(writes_text, requests or ())):
        refuse_text()
    sizes = [picture_size(request, recommended) for request in requests or () if not isinstance(request, AnswerRequest)]
    largest = max(sizes or [size], key=lambda each: image_tokens(each, recommended))
    use = ExpectedUse.of(requests, image_tokens(largest, recommended))
    config = read_config(folder)
    dtype, notice = choose_dtype(settings, device, config, image_tokens(largest, recommended))
    settings = settings.model_copy(update={"dtype": dtype, "weights": None if weights is None else str(weights)})
    if ranks_wanted == 1:
        first_use = FirstUse(requests is None or bool(image_settings), use.branches > 1, use.writes)
        answers = [request for request in requests or () if isinstance(request, AnswerRequest)]
        most = max((text_tokens(request, recommended) for request in answers), default=0)
        runner = Runner.load(Load(folder, settings, largest, first_use, most), device, None, on_progress)
        runner.model.add_notice(notice)
        runner.model.add_notice(facts.notice(quantized=bool(quantized)) if facts else None)
        return LocalModel(model, runner)
    command = Load(folder, settings.model_copy(update={"offload": "off"}), largest)
    layout = ParallelLayout(settings.tensor_parallel_size, settings.cfg_parallel_size)
    if gpus:
        layout = choose_model_layout(gpus, use, config, device, resolve_dtype(dtype).itemsize, quantized)
    require_split(config, layout.tensor)
    require_whole_groups(config, layout.tensor, quantized)
    ranks = RankProcesses(layout, device)

    def check_and_report(progress: LoadProgress) -> None:
        ranks.require_all_ranks()  # loading the rest after a loss would waste minutes
        if on_progress is not None:
            on_progress(progress)

    try:
        groups = ranks.join_groups()
        runner = ranks.run_on_all(command, lambda: Runner.load(command, groups.device, groups, check_and_report))
        runner.model.add_notice(notice)
        runner.model.add_notice(facts.notice(quantized=bool(quantized)) if facts else None)
    except BaseException:
        ranks.close()
        raise
    return LocalModel(model, runner, ranks, groups, layout if gpus else None)
