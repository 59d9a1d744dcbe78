"""The one place where a request meets the engine, the screen and the files.

Everything that is cheap to check is checked before the model, or even PyTorch, is loaded: settings, pictures,
prompts and the places where pictures go.
"""

import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from config.recommended import Recommended, read_recommended
from config.schema import EngineSettings, Settings
from model.events import Answer, Event, LoadProgress, Picture
from model.requests import AnswerRequest, Request
from model.weights.builtin import DEMO_MODEL
from model.weights.hub import OFFICIAL_MODEL, DownloadPlan, find_checkpoint
from model.weights.named_lora import format_loras, parse_loras
from sensenova_cli import __version__
from sensenova_cli.errors import UsageError
from sensenova_cli.flags import Flags
from sensenova_cli.inputs import Input
from sensenova_cli.interrupts import Interrupts
from sensenova_cli.metadata import PictureRecord
from sensenova_cli.output import Output
from sensenova_cli.plan import PicturePlan, PictureTask, plan_answer, plan_pictures
from sensenova_cli.render.json import answer_result, picture_result, print_json
from sensenova_cli.render.progress import ProgressView, gigabytes
from sensenova_cli.render.stream import Renderer

if TYPE_CHECKING:
    from model.engine import Engine

DEMO_NOTICE = (
    "no model is configured: this is the built-in demo, which knows 8 shapes and 64 everyday things; "
    f"the real one is --model {OFFICIAL_MODEL} (35 GB)"
)


@dataclass(frozen=True)
class Place:
    """Where pictures go when it is not for the setting `output` to say.

    Attributes:
        template: a name template with the field `index`.
        first_index: the number of the first picture.
    """

    template: str
    first_index: int


def make_pictures(tasks: Sequence[PictureTask], flags: Flags, place: Place | None = None) -> None:
    """Make the pictures of all tasks, and print the path of each on stdout, or JSON.

    Raises:
        SenseNovaError: of any kind; see sensenova_cli.errors.exit_code.
        KeyboardInterrupt: a signal came, and the work was ended between two steps.
    """
    plans = [plan_pictures(task, flags, None) for task in tasks]
    settings = plans[0].settings
    _require_one_use_of_stdout(settings, flags, place)
    model = settings.model or DEMO_MODEL
    count = sum(plan.settings.num_images for plan in plans)
    output = _plan_output(settings, flags, place, count)
    renderer = Renderer(
        quiet=flags.quiet,
        show_think=not (settings.hide_think or settings.print_think),
        print_think=settings.print_think and not flags.json,
        preview="off" if flags.json else settings.preview,
        cache_summary=settings.enable_cache_dit_summary,
    )
    folder = find_model(settings, renderer)
    recommended = recommendations(folder, settings)
    plans = [plan_pictures(task, flags, recommended) for task in tasks]
    if sum(plan.settings.num_images for plan in plans) != count:
        # The checkpoint recommends another number of pictures.
        count = sum(plan.settings.num_images for plan in plans)
        output = _plan_output(settings, flags, place, count)
    for notice in dict.fromkeys(notice for plan in plans for notice in plan.notices):
        renderer.notice(notice)
    engine = open_engine(folder, settings, renderer, [plan.request for plan in plans])
    writer = _Writer(output, flags, model, count, place.first_index if place else 0)
    for plan in plans:
        writer.start(plan)
        run_request(engine, plan.request, renderer, writer.on_event)


def answer(task: str, prompt: str, flags: Flags, *, inputs: Sequence[Input] = (), system: str = "") -> None:
    """Answer one question in text on stdout, or JSON; errors as for `make_pictures`."""
    settings, _ = plan_answer(prompt, inputs, system, flags, None)
    model = settings.model or DEMO_MODEL
    renderer = Renderer(quiet=flags.quiet, stream_answers=not flags.json)
    folder = find_model(settings, renderer)
    settings, request = plan_answer(prompt, inputs, system, flags, recommendations(folder, settings))
    engine = open_engine(folder, settings, renderer, [request])
    start = time.perf_counter()

    def on_event(event: Event) -> None:
        if isinstance(event, Answer) and flags.json:
            seconds = time.perf_counter() - start
            print_json(answer_result(event, task=task, request=request, model=model, seconds=seconds))

    run_request(engine, request, renderer, on_event)


def open_engine(folder: Path, settings: Settings, renderer: Renderer, requests: Sequence[Request]) -> "Engine":
    """Load the model for these requests, showing how it advances; errors as for `model.Engine.load`."""
    start = time.perf_counter()
    with renderer.bytes_progress(f"loading {settings.model or DEMO_MODEL}") as view:
        engine = load_engine(folder, settings, lambda now: view.update(now.done_bytes, now.total_bytes), requests)
    renderer.muted(f"loaded in {time.perf_counter() - start:.1f} s: {described(engine)}")
    return engine


def described(engine: "Engine") -> str:
    """How and where a model runs, in a line."""
    placed = f"; {engine.placement}" if engine.placement else ""
    return f"{engine.dtype} on {engine.device}{placed}"


def load_engine(
    folder: Path,
    settings: Settings,
    on_progress: Callable[[LoadProgress], None],
    requests: Sequence[Request] | None = None,
) -> "Engine":
    """Import PyTorch and load the model; `requests` are those that it is loaded for, where they are known."""
    from model.engine import Engine

    return Engine.load(
        folder,
        device=settings.device,
        dtype=settings.dtype,
        check_weights=settings.check_weights,
        quantization=settings.quantization,
        loras=parse_loras(settings.lora),
        enforce_eager=settings.enforce_eager,
        offload=settings.offload,
        gpu_memory=settings.gpu_memory_bytes,
        size=settings.size,
        tensor_parallel_size=settings.tensor_parallel_size,
        cfg_parallel_size=settings.cfg_parallel_size,
        gpus=settings.gpus,
        requests=requests,
        on_progress=on_progress,
    )


def run_request(engine: "Engine", request: Request, renderer: Renderer, on_event: Callable[[Event], None]) -> None:
    """Run one request; every event is shown, then given to `on_event`.

    Raises:
        KeyboardInterrupt: a signal came; the event during which it came was still dealt with.
        SenseNovaError: whatever the engine or `on_event` raises.
    """
    if not isinstance(request, AnswerRequest):
        every, size = renderer.preview_request()
        request = replace(request, preview_every=every, preview_size=size)
    stream = cast("Generator[Event]", engine.run(request))
    with Interrupts(lambda: renderer.is_live) as interrupts, renderer.showing(request), closing(stream) as events:
        for event in events:
            renderer.event(event)
            on_event(event)
            interrupts.check()
            renderer.dealt_with(event)


class _Writer:
    """Writes each finished picture to its place and says where it is."""

    def __init__(self, output: Output, flags: Flags, model: str, count: int, first_index: int) -> None:
        self._output = output
        self._flags = flags
        self._model = model
        self._count = count
        self._index = first_index
        self._plan: PicturePlan | None = None
        self._since = 0.0

    def start(self, plan: PicturePlan) -> None:
        """The next pictures are those of this plan."""
        self._plan = plan
        self._since = time.perf_counter()

    def on_event(self, event: Event) -> None:
        """Deal with a finished picture; other events are of no interest here."""
        if isinstance(event, Picture):
            assert self._plan is not None
            self._write(event, self._plan)

    def _write(self, picture: Picture, plan: PicturePlan) -> None:
        prompt = plan.task.prompt.text
        path = self._output.write(
            picture.image,
            prompt=prompt,
            seed=picture.settings.seed,
            index=self._index,
            count=self._count,
            record=picture_record(picture, plan, self._model, plan.settings) if plan.settings.metadata else None,
        )
        self._index += 1
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        if path is None:
            return
        if self._flags.json:
            task = plan.task.task
            print_json(picture_result(picture, path=path, task=task, prompt=prompt, model=self._model, seconds=seconds))
        else:
            print(path, flush=True)


def picture_record(picture: Picture, plan: PicturePlan, model: str, loaded: EngineSettings) -> PictureRecord:
    """What a finished picture says about itself.

    Args:
        model: as it was named when it was loaded.
        loaded: the settings with which it was.
    """
    # A record outlives the current folder; where a Hub id was named, it stays one.
    is_folder = model != DEMO_MODEL and Path(model).expanduser().is_dir()
    return PictureRecord(
        task=plan.task.task,
        prompt=plan.task.prompt.text,
        settings=picture.settings,
        model=str(Path(model).expanduser().absolute()) if is_folder else model,
        dtype=loaded.dtype,
        quantization=loaded.quantization,
        lora=format_loras(parse_loras(loaded.lora)),
        enforce_eager=loaded.enforce_eager,
        inputs=tuple(each.source for each in plan.task.inputs),
        think_text=picture.think_text,
        version=__version__,
    )


def _plan_output(settings: Settings, flags: Flags, place: Place | None, count: int) -> Output:
    return Output.plan(
        place.template if place else settings.output,
        force=flags.force,
        stdout_is_terminal=sys.stdout.isatty(),
        count=count,
    )


def _require_one_use_of_stdout(settings: Settings, flags: Flags, place: Place | None) -> None:
    if place is None and settings.output == "-":
        if flags.json:
            raise UsageError("-o - and --json both want stdout", "write the picture to a file")
        if settings.print_think:
            raise UsageError("-o - and --print-think both want stdout", "write the picture to a file")


def recommendations(folder: Path, settings: EngineSettings) -> Recommended:
    """What a checkpoint, and the LoRAs that it is loaded with, say about settings; errors as for `Engine.load`."""
    recommended, loras = read_recommended(folder), parse_loras(settings.lora)
    if not loras:
        return recommended
    from model.weights.lora import recommended_with  # imports PyTorch

    return recommended_with(recommended, loras)


def find_model(settings: EngineSettings, renderer: Renderer) -> Path:
    """The checkpoint's folder, downloaded where it must be; sizes are told before anything is fetched."""
    if settings.model is None:
        renderer.notice(DEMO_NOTICE)
        return find_checkpoint(DEMO_MODEL)
    model, device = settings.model, settings.device
    if device not in ("auto", "cpu"):
        # That a device is not there should not be noticed only after 35 GB have come.
        from model.placement.devices import resolve_device

        resolve_device(device)
    with ExitStack() as shown:
        views: list[ProgressView] = []

        def on_plan(plan: DownloadPlan) -> None:
            renderer.notice(
                f"downloading {plan.model}: {gigabytes(plan.bytes_to_fetch)} of {gigabytes(plan.bytes_total)} "
                f"into {plan.cache_folder}, where {gigabytes(plan.free_disk_bytes)} are free"
            )
            views.append(shown.enter_context(renderer.bytes_progress(f"downloading {plan.model}")))

        def on_progress(done: int, total: int) -> None:
            for view in views:
                view.update(done, total)

        return find_checkpoint(model, on_plan=on_plan, on_progress=on_progress)
