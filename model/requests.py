"""Requests to an engine: plain, validated, immutable values."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from config.settings import MAX_SEED, ImageSettings, TextSettings
from config.task_defaults import INTERLEAVE_DEFAULTS
from model.errors import RequestError
from model.placeholders import PLACEHOLDER, refuse_image_tokens, require_placeholders
from model.png import PNGImage


@dataclass(frozen=True)
class GenerateRequest:
    """A request for `settings.num_images` pictures that show what the prompt says.

    Attributes:
        preview_every: every N-th `DenoisingStep` has a preview; 0 makes no previews.
        preview_size: the longer side of a preview in pixels. A preview is never larger than the picture; 0 is the
            picture's own size.

    Raises:
        RequestError: the prompt is empty, not text, or contains a placeholder; the negative prompt is not text or
            contains one; `half_size_until` meets a step cache; a seed exceeds the largest one; or a number for
            previews is negative or not whole.
    """

    prompt: str
    settings: ImageSettings = field(default_factory=ImageSettings)
    preview_every: int = 0
    preview_size: int = 0

    def __post_init__(self) -> None:
        _require_previews(self)
        _require_text(self.prompt, "prompt", 'say what to draw, for example "A cute cat"')
        require_placeholders([self.prompt], 0)
        _require_negative(self.settings)
        _require_one_size(self.settings)
        _require_seeds(self.settings, self.settings.num_images)


@dataclass(frozen=True)
class EditRequest:
    """A request to change one or more images as an instruction says.

    Attributes:
        prompt: the instruction. It may contain one `<image>` placeholder per image; see `model.inputs.prompts`.
        preview_every, preview_size: as for `GenerateRequest`.

    Raises:
        RequestError: as for `GenerateRequest`; there are no images or fewer than placeholders; or `cfg_norm` is
            `cfg_zero_star`.
    """

    prompt: str
    images: tuple[PNGImage, ...]
    settings: ImageSettings = field(default_factory=ImageSettings)
    preview_every: int = 0
    preview_size: int = 0

    def __post_init__(self) -> None:
        _require_previews(self)
        _require_text(self.prompt, "prompt", 'say what to change, for example "make the sky red"')
        _require_negative(self.settings)
        _require_one_size(self.settings)
        _require_seeds(self.settings, self.settings.num_images)
        if not self.images:
            raise RequestError("an edit needs at least one picture", "add `images=FILE`")
        require_placeholders([self.prompt], len(self.images))
        _refuse_zero_star(self.settings, "an edit")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        text: the turn's text. A user's text has `<image>` placeholders for its images.
        images_at: for an interleaved answer, the positions in `text`, in ascending order, where its images stand. An
            image stands before the character at its position. The images themselves are those of the request.
    """

    role: Literal["user", "assistant"]
    text: str
    images_at: tuple[int, ...] = ()

    @property
    def pieces(self) -> list[str]:
        """The text before, between and after the images of an interleaved answer."""
        return [self.text[start:end] for start, end in pairwise((0, *self.images_at, len(self.text)))]


@dataclass(frozen=True)
class AnswerRequest:
    """A question to answer in text, with or without images: describe and chat.

    Attributes:
        prompt: the question. It may contain `<image>` placeholders for images of this turn.
        images: all images, in the order of their places in the turns; those of `history` are first.
        history: earlier turns, oldest first.
        system: a system message; none is written if it is empty.

    Raises:
        RequestError: the prompt is empty, a text contains bytes that are not text, or there are fewer images than
            places for them.
    """

    prompt: str
    images: tuple[PNGImage, ...] = ()
    history: tuple[Message, ...] = ()
    system: str = ""
    settings: TextSettings = field(default_factory=TextSettings)

    def __post_init__(self) -> None:
        _require_text(self.prompt, "question", "write what you want to know or say, in quotes")
        _require_characters(self.system, "system message")
        refuse_image_tokens(self.system, "system message")
        _require_history(self)


@dataclass(frozen=True)
class InterleaveRequest:
    """A request for an answer of text and pictures, in which the model itself decides where pictures stand.

    Attributes:
        prompt: what the answer is about. It may contain `<image>` placeholders for images of this turn.
        images: as for `AnswerRequest`.
        settings: settings of each picture. Picture k (from 0) uses seed + k. `num_images`, `max_think_tokens` and
            `input_pixels` have no effect.
        text_settings: settings of the text. `max_tokens` limits the text of the whole answer, thinking included, and
            `max_images` its pictures.
        system: a system message; None is the one that the model was trained with, and without text none is written.
        history: earlier turns, oldest first. Interleaved answers among them have `Message.images_at`. The model was not
            trained with earlier turns in this task, so the result is experimental.
        preview_every, preview_size: as for `GenerateRequest`.

    Raises:
        RequestError: as for `AnswerRequest`; a seed exceeds the largest one; `settings.cache` needs a library that is
            not installed or meets `half_size_until`; `cfg_norm` is `cfg_zero_star`; or a number for previews is
            negative or not whole.
    """

    prompt: str
    images: tuple[PNGImage, ...] = ()
    settings: ImageSettings = field(default_factory=lambda: ImageSettings(think=INTERLEAVE_DEFAULTS["think"]))
    text_settings: TextSettings = field(
        default_factory=lambda: TextSettings(max_tokens=INTERLEAVE_DEFAULTS["max_tokens"])
    )
    system: str | None = None
    history: tuple[Message, ...] = ()
    preview_every: int = 0
    preview_size: int = 0

    @property
    def new_images(self) -> tuple[PNGImage, ...]:
        """The images of this turn, without those of the history."""
        return self.images[count_images(self.history) :]

    def __post_init__(self) -> None:
        _require_previews(self)
        _require_text(self.prompt, "prompt", 'say what to write and draw, for example "A picture book about a kite"')
        if self.system is not None:
            _require_characters(self.system, "system message")
            refuse_image_tokens(self.system, "system message")
        _require_history(self)
        _require_negative(self.settings)
        _require_one_size(self.settings)
        _require_seeds(self.settings, self.text_settings.max_images)
        _refuse_zero_star(self.settings, "an interleaved answer")


Request = GenerateRequest | EditRequest | AnswerRequest | InterleaveRequest


def count_images(turns: Sequence[Message]) -> int:
    """Return the number of images that have a place in these turns."""
    return sum(len(turn.images_at) if turn.role == "assistant" else turn.text.count(PLACEHOLDER) for turn in turns)


@dataclass(frozen=True)
class FirstUse:
    """The passes of the request that a model is loaded for. They are warmed up while the weights load.

    Attributes:
        draws: whether it draws a picture.
        guided: whether the picture has guidance.
        writes: whether it writes text.
    """

    draws: bool = True
    guided: bool = True
    writes: bool = True


def _require_text(text: str, name: str, hint: str) -> None:
    # Invisible characters, such as a zero-width space, say nothing either.
    if all(unicodedata.category(letter)[0] in "CZ" for letter in text):
        raise RequestError(f"the {name} is empty", hint)
    _require_characters(text, name)


def _require_negative(settings: ImageSettings) -> None:
    """Check the negative words as a prompt without pictures."""
    _require_characters(settings.negative, "negative prompt")
    if PLACEHOLDER in settings.negative:
        raise RequestError(f"the negative prompt contains {PLACEHOLDER}", "it has no pictures: write words only")
    refuse_image_tokens(settings.negative, "negative prompt")


def _require_one_size(settings: ImageSettings) -> None:
    """Refuse a step cache for pictures that change their size: it compares layers of one size."""
    if settings.half_size_until and settings.cache != "off":
        raise RequestError(
            f"`half_size_until` {settings.half_size_until:g} does not work with `cache` {settings.cache}: a step "
            "cache compares layers of one size",
            "use `cache=off` or `half_size_until=0`",
        )


def _require_characters(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"the {name} contains bytes that are not UTF-8 text", "write it in UTF-8") from None
    if "\0" in text:
        raise RequestError(f"the {name} contains a NUL character", "remove it")


def _require_history(request: AnswerRequest | InterleaveRequest) -> None:
    """Check the earlier turns, and that there are enough images for the places in all turns."""
    for turn in request.history:
        _require_characters(turn.text, f"earlier {turn.role} turn")
        if turn.images_at:
            _require_places(turn)
    shown = sum(len(turn.images_at) for turn in request.history)
    if shown > len(request.images):
        raise RequestError(
            f"the earlier answers show {shown} pictures, and the request has {len(request.images)}",
            "add their pictures",
        )
    asked = [turn.text for turn in request.history if turn.role == "user"]
    require_placeholders([*asked, request.prompt], len(request.images) - shown)


def _require_places(turn: Message) -> None:
    if turn.role != "assistant":
        raise RequestError("a user's turn has `images_at`, which is for answers", "write <image> in place of a picture")
    places = turn.images_at
    if list(places) != sorted(places) or places[0] < 0 or places[-1] > len(turn.text):
        raise RequestError(
            f"`images_at` is {list(places)} for a text of {len(turn.text)} characters",
            "write positions in the text in ascending order",
        )


def _refuse_zero_star(settings: ImageSettings, task: str) -> None:
    if settings.cfg_norm == "cfg_zero_star":
        raise RequestError(
            "cfg_norm cfg_zero_star works for generating only", f"for {task} use none, global or channel"
        )


def _require_previews(request: GenerateRequest | EditRequest | InterleaveRequest) -> None:
    for name in ("preview_every", "preview_size"):
        value = getattr(request, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise RequestError(f"{name} is {value!r}; it must be a whole number, 0 or more", "write 0 for the default")


def _require_seeds(settings: ImageSettings, pictures: int) -> None:
    if settings.seed + pictures - 1 > MAX_SEED:
        raise RequestError(
            f"{pictures} pictures from seed {settings.seed} on exceed the largest seed, {MAX_SEED}",
            "use a smaller seed",
        )


def writes_text(request: Request) -> bool:
    """Return whether a request needs `lm_head`: for an answer, or for a plan before a picture."""
    return isinstance(request, AnswerRequest | InterleaveRequest) or request.settings.think
