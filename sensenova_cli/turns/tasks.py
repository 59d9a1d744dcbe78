"""What a face is asked to do, before settings are merged: plain values."""

from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from model import Conversation
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.inputs.replay import PictureKind, Replay


@dataclass(frozen=True)
class PictureTask:
    """One prompt that becomes one or more pictures, and the pictures that an edit starts from.

    Attributes:
        replay: the picture that is made again, whose settings are a layer below the flags.
        width, height: a side that was typed without the other one, which then comes from the setting `size`.
        auto_is_default: size `auto` is the model's default size for an edit, too, not the first picture's aspect.
        replaces_seed_silently: an edit takes a free seed without a warning, because the seed is a default.
    """

    kind: PictureKind
    prompt: Prompt
    inputs: tuple[InputImage, ...] = ()
    replay: Replay | None = None
    width: int | None = None
    height: int | None = None
    auto_is_default: bool = False
    replaces_seed_silently: bool = False


@dataclass(frozen=True)
class AnswerTask:
    """One question, about pictures or not.

    Attributes:
        images: pictures shown with this question.
        conversation: what was said before, and the system message.
    """

    kind: Literal["describe", "chat"]
    question: str
    images: tuple[Image.Image, ...] = ()
    conversation: Conversation = field(default_factory=Conversation)


Task = PictureTask | AnswerTask
