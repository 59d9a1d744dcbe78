"""Building of a checked request from a task: the only place where a turn's settings are merged."""

from collections.abc import Mapping
from dataclasses import dataclass

from config.errors import SenseNovaError, SettingsError
from config.recommended import Recommended
from config.settings import MAX_SEED, ImageSettings, Settings, TextSettings
from config.sizes import TOKEN_PIXELS, check_size, format_size, nearest_trained, resolve_size, round_side
from config.sources import Layers, Resolved
from model import EditRequest, GenerateRequest, Request, require_cache_library
from sensenova_cli.inputs.pictures import free_seed
from sensenova_cli.turns.tasks import PictureTask, Task
from sensenova_cli.turns.world_notices import world_notices

FILE_ORIGINS = ("user file", "project file", "profile")
"""Starts of the labels of settings files (config.sources)."""


@dataclass(frozen=True)
class Turn:
    """A task with its merged settings and its checked request.

    Attributes:
        settings: all settings; seed and size are those of the request.
        origins: setting name → label of the layer that won.
        warnings: notices to show before the request runs.
    """

    task: Task
    settings: Settings
    origins: Mapping[str, str]
    request: Request
    warnings: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The prompt or question as the user wrote it."""
        return self.task.prompt.text if isinstance(self.task, PictureTask) else self.task.question


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
    if not isinstance(task, PictureTask):
        resolved = layers.resolve(recommended, task.settings, "request")
        text = TextSettings.part_of(resolved.settings)
        request = task.conversation.ask(task.question, task.images, text)
        warnings = tuple(world_notices(task, recommended.world))
        return Turn(task, resolved.settings, resolved.origins, request, warnings)
    try:
        return _build_picture_turn(task, layers, recommended, previews)
    except SenseNovaError as error:
        raise type(error)(task.prompt.place + error.what, error.hint) from error


def _build_picture_turn(task: PictureTask, layers: Layers, recommended: Recommended, previews: Previews) -> Turn:
    resolved = layers.resolve(recommended, task.prompt.settings, task.prompt.place.removesuffix(": "))
    seed, warnings = _choose_seed(task, resolved)
    if task.replay is not None and task.replay.warning is not None:
        warnings.append(task.replay.warning)
    warnings += world_notices(task, recommended.world)
    size = _choose_size(task, resolved.settings.size, recommended)
    if recommended.world is not None:
        size, replaced = _drawable_size(task, size, resolved.origins["size"], recommended)
        warnings += replaced
    settings = resolved.settings.model_copy(update={"seed": seed, "size": size})
    image = ImageSettings.part_of(settings)
    if image.cache != "off" and not layers.load.is_remote:  # a server has the library, or refuses the request
        require_cache_library()
    request: GenerateRequest | EditRequest
    if task.kind == "edit":
        images = tuple(each.image for each in task.inputs)
        request = EditRequest(task.prompt.text, images, image, previews.every, previews.size)
    else:
        request = GenerateRequest(task.prompt.text, image, previews.every, previews.size)
    return Turn(task, settings, resolved.origins, request, tuple(warnings))


def _choose_size(task: PictureTask, size: str, recommended: Recommended) -> str:
    """Return the size setting. If a task gives only one side, `size` supplies the other one.

    Raises:
        SettingsError: a picture cannot have this size.
    """
    trained = recommended.trained_sizes
    first = task.inputs[0].image.size if task.inputs else None
    if size == "auto" and task.auto_is_default:
        size = format_size(trained[0])
    width, height = resolve_size(size, trained, first)
    if (task.width is None and task.height is None) or "size" in task.prompt.settings:
        return size  # the engine resolves `auto`
    chosen = task.width or width, task.height or height
    for side, value in (("--width", task.width), ("--height", task.height)):
        if value is not None and (value <= 0 or value % TOKEN_PIXELS):
            hint = f"try {side} {max(TOKEN_PIXELS, round_side(value))}"
            raise SettingsError(f"{side} {value}: must be a positive multiple of {TOKEN_PIXELS}", hint)
    check_size(chosen)
    return format_size(chosen)


def _drawable_size(task: PictureTask, size: str, origin: str, recommended: Recommended) -> tuple[str, list[str]]:
    """Return a size that a small model can draw, and a notice if it is not the one of the settings.

    Only a size from a settings file or from an input picture is replaced. If the user typed another one, the model
    draws it, and its own notice says that the picture may be broken.
    """
    trained = recommended.trained_sizes
    first = task.inputs[0].image.size if task.inputs else None
    wanted = resolve_size(size, trained, first)
    if wanted in trained:
        return size, []
    nearest = format_size(nearest_trained(wanted, trained))
    if size == "auto":
        return nearest, []
    if task.width is not None or task.height is not None or not origin.startswith(FILE_ORIGINS):
        return size, []
    return nearest, [f"Using size {nearest}: the demo cannot draw {size}, which {origin} asks for"]


def _choose_seed(task: PictureTask, resolved: Resolved) -> tuple[int, list[str]]:
    """Return the seed, and warnings about it. An edit never gets the seed of one of its input pictures: with that seed
    the model's output collapses."""
    seed, count = resolved.settings.seed, resolved.settings.num_images
    if task.replay is not None and resolved.origins["seed"] == task.replay.label:
        return seed, []  # a replay must reproduce the picture
    warnings = [f"{each.problem}; its seed is unknown" for each in task.inputs if each.problem]
    chosen = free_seed(seed, count, {each.seed for each in task.inputs if each.seed is not None})
    if chosen == seed:
        return seed, warnings
    if chosen + count - 1 > MAX_SEED:
        raise SettingsError(
            f"too few seeds are free from {seed} upwards: editing with the seed of an input picture spoils the result",
            "use a smaller `seed`",
        )
    if not task.replaces_seed_silently:
        clashing = [each for each in task.inputs if each.seed is not None and seed <= each.seed < chosen]
        names = " and ".join(f"{each.name} ({each.seed})" for each in clashing)
        warnings.append(
            f"Using seed {chosen}: editing with the seed that made {names} would spoil the result."
        )
    return chosen, warnings
