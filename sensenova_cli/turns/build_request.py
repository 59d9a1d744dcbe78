"""Building of a checked request from a task: the only place where a turn's settings are merged."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from config.errors import SenseNovaError, SettingsError
from config.recommended import Recommended
from config.settings import MAX_SEED, ImageSettings, Settings, TextSettings
from config.sizes import (
    TOKEN_PIXELS,
    Size,
    check_size,
    format_size,
    half_size,
    nearest_trained,
    resolve_interleave_size,
    resolve_size,
    round_side,
)
from config.sources import Layers, Resolved
from model import EditRequest, Event, GenerateRequest, InterleaveRequest, Picture, Request, require_cache_library
from sensenova_cli.inputs.pictures import free_seed
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.turns.tasks import AnswerTask, InterleaveTask, PictureTask, Task, as_recorded
from sensenova_cli.turns.world_notices import world_notices

FILE_ORIGINS = ("user file", "project file", "profile")
"""Starts of the labels of settings files (config.sources)."""
Resolve = Callable[[str, Sequence[Size], Size | None], Size]
"""Resolves a size setting to pixels, given the trained sizes and the size of the first input picture."""


@dataclass(frozen=True)
class Turn:
    """A task with its merged settings and its checked request.

    Attributes:
        settings: all settings; seed and size are those of the request.
        origins: setting name → label of the layer that won.
        warnings: notices to show before the request runs.
        first_index: number of its first picture among all pictures of a run, from 0.
    """

    task: Task
    settings: Settings
    origins: Mapping[str, str]
    request: Request
    warnings: tuple[str, ...] = ()
    first_index: int = 0

    @property
    def prompt(self) -> str:
        """The prompt or question as the user wrote it."""
        return self.task.question if isinstance(self.task, AnswerTask) else self.task.prompt.text

    @property
    def name(self) -> str:
        """The words for `{slug}` in the names of its files."""
        return (self.task.name if isinstance(self.task, PictureTask) else "") or self.prompt

    def ends_with(self, event: Event) -> bool:
        """Return whether nothing after this event is wanted: the picture that an interleaved answer replays is done."""
        if not isinstance(self.task, InterleaveTask) or self.task.replay is None or not isinstance(event, Picture):
            return False
        return event.index == self.task.replay.record.index


@dataclass(frozen=True)
class Previews:
    """The predicted pictures that the frontend shows while a picture forms.

    Attributes:
        every: a preview after every N-th step; 0 for none.
        size: the longer side of a preview in pixels; 0 for the picture's own size.
    """

    every: int = 0
    size: int = 0


def build_turn(task: Task, layers: Layers, recommended: Recommended, previews: Previews) -> Turn:
    """Merge the settings of a task and build its request.

    Args:
        recommended: the model's recommended settings and trained sizes.

    Raises:
        SettingsError, RequestError: the settings or the prompt are invalid. The message names the line of a prompt
            file.
    """
    if isinstance(task, AnswerTask):
        resolved = layers.resolve(recommended, task.settings, "request")
        text = TextSettings.part_of(resolved.settings)
        request = task.conversation.ask(task.question, task.images, text)
        warnings = tuple(world_notices(task, recommended))
        return Turn(task, resolved.settings, resolved.origins, request, warnings)
    try:
        if isinstance(task, InterleaveTask):
            return _build_interleave_turn(task, layers, recommended, previews)
        return _build_picture_turn(task, layers, recommended, previews)
    except SenseNovaError as error:
        raise type(error)(task.prompt.place + error.what, error.hint) from error


def numbered(turns: Iterable[Turn]) -> list[Turn]:
    """Return the turns with the number of their first picture in the run."""
    first = 0
    result = []
    for turn in turns:
        result.append(replace(turn, first_index=first))
        first += turn.settings.num_images
    return result


def _build_picture_turn(task: PictureTask, layers: Layers, recommended: Recommended, previews: Previews) -> Turn:
    task = as_recorded(task)
    resolved = layers.resolve(recommended, task.prompt.settings, _line_label(task.prompt))
    seed, warnings = _choose_seed(task, resolved, resolved.settings.num_images)
    size, notices = _choose_size(task, resolved, recommended, resolve_size)
    warnings += [*world_notices(task, recommended), *notices]
    settings = resolved.settings.model_copy(update={"seed": seed, "size": size})
    image = ImageSettings.part_of(settings)
    _require_library(settings, layers)
    _require_draft(settings, task, recommended, resolve_size)
    request: GenerateRequest | EditRequest
    if task.kind == "edit":
        images = tuple(each.image for each in task.inputs)
        request = EditRequest(task.prompt.text, images, image, previews.every, previews.size)
    else:
        request = GenerateRequest(task.prompt.text, image, previews.every, previews.size)
    return Turn(task, settings, resolved.origins, request, tuple(warnings))


def _build_interleave_turn(task: InterleaveTask, layers: Layers, recommended: Recommended, previews: Previews) -> Turn:
    recommended = recommended.for_interleaving()
    resolved = layers.resolve(recommended, task.prompt.settings, _line_label(task.prompt))
    seed, warnings = _choose_seed(task, resolved, resolved.settings.max_images)
    size, notices = _choose_size(task, resolved, recommended, resolve_interleave_size)
    warnings += [*world_notices(task, recommended), *notices]
    settings = resolved.settings.model_copy(update={"seed": seed, "size": size})
    _require_library(settings, layers)
    _require_draft(settings, task, recommended, resolve_interleave_size)
    request = InterleaveRequest(
        task.prompt.text,
        (*task.conversation.images, *(each.image for each in task.inputs)),
        ImageSettings.part_of(settings).model_copy(update={"num_images": 1}),
        TextSettings.part_of(settings),
        task.system,
        task.conversation.turns,
        previews.every,
        previews.size,
    )
    return Turn(task, settings, resolved.origins, request, tuple(warnings))


def _line_label(prompt: Prompt) -> str:
    """Return the name of a prompt's own settings, for messages."""
    return prompt.place.removesuffix(": ") or "command line"


def _require_library(settings: Settings, layers: Layers) -> None:
    """Require the library of the step cache, unless a server runs the request: it has the library, or refuses."""
    if settings.cache != "off" and not layers.load.is_remote:
        require_cache_library()


def _require_draft(
    settings: Settings, task: PictureTask | InterleaveTask, recommended: Recommended, resolve: Resolve
) -> None:
    """Require a size that has a half if `half_size_until` drafts at half size, before a model is loaded."""
    if settings.half_size_until:
        half_size(resolve(settings.size, recommended.trained_sizes, task.inputs[0].image.size if task.inputs else None))


def _choose_size(
    task: PictureTask | InterleaveTask, resolved: Resolved, recommended: Recommended, resolve: Resolve
) -> tuple[str, list[str]]:
    """Return the size setting, and notices about it. If a task gives only one side, the setting supplies the other.

    Raises:
        SettingsError: a picture cannot have this size.
    """
    size = _typed_size(task, resolved.settings.size, recommended.trained_sizes, resolve)
    if recommended.world is None:
        return size, []
    return _drawable_size(task, size, resolved.origins["size"], recommended, resolve)


def _typed_size(task: PictureTask | InterleaveTask, size: str, trained: Sequence[Size], resolve: Resolve) -> str:
    first = task.inputs[0].image.size if task.inputs else None
    if size == "auto" and isinstance(task, PictureTask) and task.auto_is_default:
        size = format_size(trained[0])
    width, height = resolve(size, trained, first)
    if (task.width is None and task.height is None) or "size" in task.prompt.settings:
        return size  # the engine resolves `auto`
    chosen = task.width or width, task.height or height
    for side, value in (("--width", task.width), ("--height", task.height)):
        if value is not None and (value <= 0 or value % TOKEN_PIXELS):
            hint = f"try {side} {max(TOKEN_PIXELS, round_side(value))}"
            raise SettingsError(f"{side} {value}: must be a positive multiple of {TOKEN_PIXELS}", hint)
    check_size(chosen)
    return format_size(chosen)


def _drawable_size(
    task: PictureTask | InterleaveTask, size: str, origin: str, recommended: Recommended, resolve: Resolve
) -> tuple[str, list[str]]:
    """Return a size that a small model can draw, and a notice if it is not the one of the settings.

    Only a size from a settings file or from an input picture is replaced. If the user typed another one, the model
    draws it, and its own notice says that the picture may be broken.
    """
    trained = recommended.trained_sizes
    first = task.inputs[0].image.size if task.inputs else None
    wanted = resolve(size, trained, first)
    if size == "auto" and first is not None and isinstance(task, InterleaveTask):
        return format_size(nearest_trained(first, trained)), []  # `resolve` would enlarge a small input picture
    if wanted in trained:
        return size, []
    nearest = format_size(nearest_trained(wanted, trained))
    if size == "auto":
        return nearest, []
    if task.width is not None or task.height is not None or not origin.startswith(FILE_ORIGINS):
        return size, []
    return nearest, [f"Using size {nearest}: the demo cannot draw {size}, which {origin} asks for"]


def _choose_seed(task: PictureTask | InterleaveTask, resolved: Resolved, count: int) -> tuple[int, list[str]]:
    """Return the seed, and warnings about it and about a replay. No picture that is made from input pictures gets the
    seed of one of them: with that seed the model's output collapses.

    Args:
        count: number of pictures that may be made, with seeds from the returned one on.
    """
    seed, replay = resolved.settings.seed, task.replay
    notes = [replay.warning] if replay is not None and replay.warning is not None else []
    if replay is not None and resolved.origins["seed"] == replay.label:
        return seed, notes  # a replay must reproduce the picture
    inputs = (*task.earlier, *task.inputs) if isinstance(task, InterleaveTask) else task.inputs
    warnings = [*notes, *(f"{each.problem}; its seed is unknown" for each in inputs if each.problem)]
    chosen = free_seed(seed, count, {each.seed for each in inputs if each.seed is not None})
    if chosen == seed:
        return seed, warnings
    if chosen + count - 1 > MAX_SEED:
        raise SettingsError(
            f"too few seeds are free from {seed} upwards: "
            f"{_work_of(task)} with the seed of an input picture spoils the result",
            "use a smaller `seed`",
        )
    if not task.replaces_seed_silently:
        clashing = [each for each in inputs if each.seed is not None and seed <= each.seed < chosen]
        names = " and ".join(f"{each.name} ({each.seed})" for each in clashing)
        warnings.append(
            f"Using seed {chosen}: {_work_of(task)} with the seed that made {names} would spoil the result."
        )
    return chosen, warnings


def _work_of(task: PictureTask | InterleaveTask) -> str:
    return "editing" if isinstance(task, PictureTask) else "drawing"
