"""Tasks: the work that a user asks for, as plain values, before settings are merged."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from PIL import Image

from model import Conversation
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.inputs.replay import PictureKind, Replay


@dataclass(frozen=True)
class PictureTask:
    """One prompt that becomes one or more pictures.

    Attributes:
        inputs: the pictures that an edit starts from.
        replay: the picture to make again. Its settings are a layer below the flags.
        width, height: a side that was given alone; the setting `size` supplies the other one.
        auto_is_default: for an edit, size `auto` means the model's default size, not the first picture's aspect.
        replaces_seed_silently: no warning appears if an edit replaces the seed of an input picture.
        name: words for `{slug}` in the names of its files; empty for those of the prompt.
        keeps_prompt: the prompt is not rewritten, whatever the setting `enhance` says.
        original_prompt: the user's prompt, if enhancement was asked for; None without it.
        enhanced_by: the model that wrote `prompt`; None if it is the user's.
    """

    kind: PictureKind
    prompt: Prompt
    inputs: tuple[InputImage, ...] = ()
    replay: Replay | None = None
    width: int | None = None
    height: int | None = None
    auto_is_default: bool = False
    replaces_seed_silently: bool = False
    name: str = ""
    keeps_prompt: bool = False
    original_prompt: str | None = None
    enhanced_by: str | None = None


def as_recorded(task: PictureTask) -> PictureTask:
    """Return a task that makes a picture again with what its record says about its prompt, which stays as it is."""
    record = task.replay.record if task.replay is not None else None
    if record is None or task.prompt.text != record.prompt:
        return task
    name = task.name or record.original_prompt or ""
    original, author = record.original_prompt, record.enhanced_by
    return replace(task, name=name, keeps_prompt=True, original_prompt=original, enhanced_by=author)


@dataclass(frozen=True)
class AnswerTask:
    """One question, with or without pictures.

    Attributes:
        images: pictures shown with this question.
        image_files: their files as the user named them; empty if they have none.
        conversation: the earlier questions and answers, and the system message.
        settings: checked settings of this question alone, by name.
    """

    kind: Literal["describe", "chat"]
    question: str
    images: tuple[Image.Image, ...] = ()
    conversation: Conversation = field(default_factory=Conversation)
    settings: Mapping[str, Any] = field(default_factory=dict)
    image_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class InterleaveTask:
    """One prompt whose answer has text and pictures.

    Attributes:
        prompt: its settings are those of this answer alone, of pictures and text.
        inputs: pictures shown with this prompt.
        conversation: the earlier turns; its system message is not used.
        earlier: the pictures of the earlier turns, in order, for the records of the answer's pictures.
        system: the system message; None for the one that the model was trained with, empty for none.
        replay: the picture to make again, with which the answer ends.
        width, height, replaces_seed_silently: as for `PictureTask`.
    """

    prompt: Prompt
    inputs: tuple[InputImage, ...] = ()
    conversation: Conversation = field(default_factory=Conversation)
    earlier: tuple[InputImage, ...] = ()
    system: str | None = None
    replay: Replay | None = None
    width: int | None = None
    height: int | None = None
    replaces_seed_silently: bool = False
    kind: Literal["interleave"] = "interleave"


Task = PictureTask | AnswerTask | InterleaveTask
