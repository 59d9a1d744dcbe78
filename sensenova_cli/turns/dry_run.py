"""What a run would do, without doing it (`--dry-run`): the requests, the files, and an estimate of time and memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from config.settings import ImageSettings, LoadSettings, PromptSettings, SettingsGroup, TextSettings
from config.sizes import format_size, resolve_interleave_size
from model import Card, is_hub_id, local_checkpoint
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.render.dry_run import PlannedItem, PlannedRun, print_plan, print_plan_json
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.estimate import estimate_run
from sensenova_cli.turns.existing_pictures import picture_size
from sensenova_cli.turns.model_source import ModelOnDemand, model_name
from sensenova_cli.turns.run_turn import Course
from sensenova_cli.turns.tasks import AnswerTask, InterleaveTask


class DryRun(Course):
    """A run that ends before the model is opened: its plan is printed.

    Args:
        course: chooses the turns.
        plan: returns the plan of these turns.
        as_json: whether to print the plan as JSON.
    """

    def __init__(
        self, course: Course, plan: Callable[[Sequence[Turn], Card], PlannedRun], view: TurnView, *, as_json: bool
    ) -> None:
        self._course = course
        self._plan = plan
        self._view = view
        self._as_json = as_json

    def begin(self, turns: Sequence[Turn], card: Card) -> Sequence[Turn]:
        """Print the plan, and return no turns."""
        plan = self._plan(self._course.begin(turns, card), card)
        for note in plan.notes:
            self._view.notice(note)
        (print_plan_json if self._as_json else print_plan)(plan)
        return ()


def plan_pictures(
    kind: PictureKind,
    turns: Sequence[Turn],
    card: Card,
    source: ModelOnDemand,
    writer: PictureWriter,
    *,
    first_index: int,
    count: int,
    existing: int,
) -> PlannedRun:
    """Return the plan of a run that makes pictures.

    Args:
        writer: chooses the names of the files.
        first_index: number of the run's first picture in file names.
        count: number of pictures of the run, with the existing ones.
    """
    items = []
    for turn in turns:
        size, seed = picture_size(turn, card.recommended), turn.settings.seed
        begin = first_index + turn.first_index
        files = [
            writer.plan(prompt=turn.name, seed=seed + k, index=begin + k, count=count, size=size)
            for k in range(turn.settings.num_images)
        ]
        shown = ["-" if file is None else str(file) for file in files]
        items.append(_item(turn, (ImageSettings, PromptSettings), {"seed": seed, "size": format_size(size)}, shown))
    estimate = estimate_run(turns, source.settings, card.recommended)
    return _run(kind, turns, items, source, existing=existing, estimate=estimate)


def plan_answer(turn: Turn, source: ModelOnDemand) -> PlannedRun:
    """Return the plan of a question."""
    return _run(turn.task.kind, [turn], [_item(turn, (TextSettings,), {}, ())], source)


def plan_interleaved(turn: Turn, card: Card, source: ModelOnDemand, writer: PictureWriter) -> PlannedRun:
    """Return the plan of an interleaved answer: with all the pictures that the model may make."""
    settings, task = turn.settings, turn.task
    assert isinstance(task, InterleaveTask)
    trained = card.recommended.interleave.trained_sizes
    size = resolve_interleave_size(settings.size, trained, task.inputs[0].image.size if task.inputs else None)
    files = [
        writer.plan(prompt=turn.prompt, seed=settings.seed + index, index=index, count=settings.max_images, size=size)
        for index in range(settings.max_images)
    ]
    known = {"seed": settings.seed, "size": format_size(size)}
    return _run(
        task.kind, [turn], [_item(turn, (ImageSettings, TextSettings), known, [str(file) for file in files])], source
    )


def _run(
    kind: str, turns: Sequence[Turn], items: Sequence[PlannedItem], source: ModelOnDemand, **more: Any
) -> PlannedRun:
    load = source.settings
    name = model_name(source.loaded)
    is_here = load.is_remote or not is_hub_id(name) or local_checkpoint(name) is not None
    inputs: dict[str, None] = {}
    for turn in turns:
        task = turn.task
        names = task.image_files if isinstance(task, AnswerTask) else (each.name for each in task.inputs)
        inputs |= dict.fromkeys(names)
    loaded = {name: value for name, value in LoadSettings.changed_in(load).items() if name != "model"}
    return PlannedRun(kind, name, is_here, loaded, items, list(inputs), **more)


def _item(
    turn: Turn, groups: Sequence[type[SettingsGroup]], known: Mapping[str, Any], files: Sequence[str]
) -> PlannedItem:
    changed = {name: value for group in groups for name, value in group.changed_in(turn.settings).items()}
    settings = {**known, **{name: value for name, value in changed.items() if name not in known}}
    origins = {name: turn.origins[name] for name in settings}
    return PlannedItem(turn.prompt, settings, origins, files, turn.warnings)
