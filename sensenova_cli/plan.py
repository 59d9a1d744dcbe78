"""From what was typed to checked requests, before anything heavy is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from config.errors import SenseNovaError, SettingsError
from config.load import Resolved
from config.recommended import Recommended
from config.schema import MAX_SEED, ImageSettings, Settings, SettingsGroup, TextSettings
from config.sizes import TOKEN_PIXELS, check_size, format_size, resolve_size
from model.requests import AnswerRequest, EditRequest, GenerateRequest, Message
from model.sequences.prompt import answer_prompt, place_pictures
from sensenova_cli.again import Again, Task
from sensenova_cli.flags import Flags
from sensenova_cli.inputs import Input, free_seed
from sensenova_cli.prompts import Prompt

Group = TypeVar("Group", bound=SettingsGroup)


@dataclass(frozen=True)
class PictureTask:
    """One prompt that becomes one or more pictures, and the pictures that an edit starts from.

    Attributes:
        again: the picture that is made again, whose settings lie below the flags.
        auto_is_default: `auto` means the model's default size for an edit, too, not the first picture's aspect.
    """

    task: Task
    prompt: Prompt
    inputs: tuple[Input, ...] = ()
    again: Again | None = None
    auto_is_default: bool = False


@dataclass(frozen=True)
class PicturePlan:
    """A picture task with its settings merged and its request built."""

    task: PictureTask
    settings: Settings
    request: GenerateRequest | EditRequest
    notices: tuple[str, ...]


def plan_pictures(task: PictureTask, flags: Flags, recommended: Recommended | None) -> PicturePlan:
    """Merge the settings of a task and build its request.

    Args:
        recommended: what the checkpoint says about itself, once it is found.

    Raises:
        SettingsError, RequestError: the settings or the prompt cannot work; names the line of a prompt file.
    """
    try:
        return _plan(task, flags, recommended)
    except SenseNovaError as error:
        raise type(error)(task.prompt.place + error.what, error.hint) from error


def plan_answer(
    prompt: str, inputs: Sequence[Input], system: str, flags: Flags, recommended: Recommended | None
) -> tuple[Settings, AnswerRequest]:
    """Merge the settings of a question and build its request; arguments and errors as for `plan_pictures`."""
    settings = flags.resolve(recommended=recommended).settings
    images = tuple(each.image for each in inputs)
    request = AnswerRequest(prompt, images, system=system, settings=_part(settings, TextSettings))
    answer_prompt([Message("user", prompt)], len(images), system)  # refuses placeholders that have no picture
    return settings, request


def _plan(task: PictureTask, flags: Flags, recommended: Recommended | None) -> PicturePlan:
    again = task.again
    resolved = flags.resolve(
        recommended=recommended,
        record=again.settings if again else None,
        record_label=again.label if again else "picture",
        line=task.prompt.settings,
        line_label=task.prompt.place.removesuffix(": "),
    )
    seed, notices = _choose_seed(task, resolved)
    images = tuple(each.image for each in task.inputs)
    size = _choose_size(task, resolved, flags, recommended)
    settings = resolved.settings.model_copy(update={"seed": seed, "size": size})
    picture_settings = _part(settings, ImageSettings)
    text = task.prompt.text
    request: GenerateRequest | EditRequest
    if task.task == "edit":
        request = EditRequest(text, images, picture_settings)
    else:
        request = GenerateRequest(text, picture_settings)
    place_pictures([Message("user", text)], len(images))  # refuses placeholders that have no picture
    return PicturePlan(task, settings, request, tuple(notices))


def _choose_size(task: PictureTask, resolved: Resolved, flags: Flags, recommended: Recommended | None) -> str:
    """The size setting, once a side that was typed alone has found its other one; refuses an impossible size.

    Until the checkpoint is known, its default size is taken for the published one.
    """
    size = resolved.settings.size
    trained = (recommended or Recommended()).trained_sizes
    first = task.inputs[0].image.size if task.inputs else None
    if size == "auto" and task.auto_is_default:
        size = format_size(trained[0])
    width, height = resolve_size(size, trained, first)
    if (flags.width is None and flags.height is None) or "size" in task.prompt.settings:
        return size  # what `auto` comes to is for the engine to say
    chosen = flags.width or width, flags.height or height
    for side, value in (("--width", flags.width), ("--height", flags.height)):
        if value is not None and (value <= 0 or value % TOKEN_PIXELS):
            nearest = max(1, round(value / TOKEN_PIXELS)) * TOKEN_PIXELS
            hint = f"try {side} {nearest}"
            raise SettingsError(f"{side} {value}: must be a positive multiple of {TOKEN_PIXELS}", hint)
    check_size(chosen)
    return format_size(chosen)


def _choose_seed(task: PictureTask, resolved: Resolved) -> tuple[int, list[str]]:
    """The seed, and what to tell about it: the model collapses where it edits a picture with that one's own seed."""
    seed, count = resolved.settings.seed, resolved.settings.num_images
    if task.again is not None and resolved.origins["seed"] == task.again.label:
        return seed, []  # the same picture is wanted again
    notices = [f"{each.problem}; its seed is not known" for each in task.inputs if each.problem]
    chosen = free_seed(seed, count, {each.seed for each in task.inputs if each.seed is not None})
    if chosen != seed and chosen + count - 1 > MAX_SEED:
        raise SettingsError(
            f"from seed {seed} on too few seeds are left that made none of the input pictures", "take a smaller `seed`"
        )
    if chosen != seed:
        names = [each.name for each in task.inputs if each.seed is not None and seed <= each.seed < chosen]
        made = "was made with a seed" if len(names) == 1 else "were made with seeds"
        notices.append(
            f"{' and '.join(names)} {made} that would be used again, which ruins an edit: taking seed {chosen}"
        )
    return chosen, notices


def _part(settings: Settings, group: type[Group]) -> Group:
    """The settings of one group."""
    return group.model_validate({name: getattr(settings, name) for name in group.model_fields})
