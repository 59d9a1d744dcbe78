"""Requests to an engine: plain, validated, immutable values."""

import unicodedata
from dataclasses import dataclass, field
from typing import Literal

from config.settings import MAX_SEED, ImageSettings, TextSettings
from model.errors import RequestError
from model.placeholders import refuse_image_tokens, require_placeholders
from model.png import PNGImage


@dataclass(frozen=True)
class GenerateRequest:
    """A request for `settings.num_images` pictures that show what the prompt says.

    Attributes:
        preview_every: every N-th `DenoisingStep` has a preview; 0 makes no previews.
        preview_size: the longer side of a preview in pixels. A preview is never larger than the picture; 0 is the
            picture's own size.

    Raises:
        RequestError: the prompt is empty, not text, or contains a placeholder; a seed exceeds the largest one; or a
            number for previews is negative or not whole.
    """

    prompt: str
    settings: ImageSettings = field(default_factory=ImageSettings)
    preview_every: int = 0
    preview_size: int = 0

    def __post_init__(self) -> None:
        _require_previews(self)
        _require_text(self.prompt, "prompt", 'say what to draw, for example "A cute cat"')
        require_placeholders([self.prompt], 0)
        _require_seeds(self.settings)


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
        _require_seeds(self.settings)
        if not self.images:
            raise RequestError("an edit needs at least one picture", "add `images=FILE`")
        require_placeholders([self.prompt], len(self.images))
        if self.settings.cfg_norm == "cfg_zero_star":
            raise RequestError(
                "cfg_norm cfg_zero_star works for generating only", "for an edit use none, global or channel"
            )


@dataclass(frozen=True)
class Message:
    """The text of one turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class AnswerRequest:
    """A question to answer in text, with or without images: describe and chat.

    Attributes:
        prompt: the question. It may contain `<image>` placeholders for images of this turn.
        images: all images, in the order of their placeholders; those of `history` are first.
        history: earlier turns, oldest first.
        system: a system message; none is written if it is empty.

    Raises:
        RequestError: the prompt is empty, a text contains bytes that are not text, or there are fewer images than
            placeholders.
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
        for turn in self.history:
            _require_characters(turn.text, f"earlier {turn.role} turn")
        asked = [turn.text for turn in self.history if turn.role == "user"]
        require_placeholders([*asked, self.prompt], len(self.images))


Request = GenerateRequest | EditRequest | AnswerRequest


def _require_text(text: str, name: str, hint: str) -> None:
    # Invisible characters, such as a zero-width space, say nothing either.
    if all(unicodedata.category(letter)[0] in "CZ" for letter in text):
        raise RequestError(f"the {name} is empty", hint)
    _require_characters(text, name)


def _require_characters(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"the {name} contains bytes that are not UTF-8 text", "write it in UTF-8") from None
    if "\0" in text:
        raise RequestError(f"the {name} contains a NUL character", "remove it")


def _require_previews(request: GenerateRequest | EditRequest) -> None:
    for name in ("preview_every", "preview_size"):
        value = getattr(request, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise RequestError(f"{name} is {value!r}; it must be a whole number, 0 or more", "write 0 for the default")


def _require_seeds(settings: ImageSettings) -> None:
    if settings.seed + settings.num_images - 1 > MAX_SEED:
        raise RequestError(
            f"{settings.num_images} pictures from seed {settings.seed} on exceed the largest seed, {MAX_SEED}",
            "use a smaller seed",
        )
