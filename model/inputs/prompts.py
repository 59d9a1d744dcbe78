"""Prompts in the format of the training data (ChatML), with slots for images."""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from model.conversation import write_placeholders
from model.inputs.tokenizer import TEXT_END, TEXT_START
from model.placeholders import PLACEHOLDER
from model.requests import Message

IMAGE_SLOT = "\0image\0"
"""Text that takes the place of a placeholder once an image belongs to it. Neither users nor the model can write it."""

NO_THINKING = "<think>\n\n</think>\n\n"
DIRECT_START = NO_THINKING + "<img>"
THINK_START = "<think>\n"
AFTER_THINK = "\n\n<img>"
IMAGE_START = "<img>"


@cache
def system_message() -> str:
    """Return the system message of generating and editing. The model was trained with exactly these bytes."""
    return _read("system_message.txt")


@cache
def interleave_system_message() -> str:
    """Return the system message of interleaved answers, also byte for byte."""
    return _read("system_message_interleave.txt")


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_bytes().decode("utf-8")


def generate_prompt(prompt: str, think: bool) -> str:
    """Return the conditional prompt of text to image. It ends where think text or the picture begins."""
    return edit_prompt(prompt, 0, think)


def unconditional_prompt(negative: str = "") -> str:
    """Return the prompt of the unconditional branch.

    Without negative words it is the one that the model was trained with: no system message, an empty user turn, and the
    start of a picture. With them it is the prompt that draws these words, because the model was not trained with words
    that no system message introduces.
    """
    return generate_prompt(negative, think=False) if negative else chat_ml([Message("user", "")], "", IMAGE_START)


def edit_prompt(prompt: str, images: int, think: bool) -> str:
    """Return the conditional prompt of an edit: the images, then the instruction."""
    turns = place_images([Message("user", prompt)], images)
    return chat_ml(turns, system_message(), THINK_START if think else DIRECT_START)


def images_prompt(images: int, start: str = IMAGE_START) -> str:
    """Return the prompt of the images branch: the images without any text between them, and the assistant's start."""
    return chat_ml([Message("user", IMAGE_SLOT * images)], "", start)


def interleave_prompt(turns: Sequence[Message], images: int, system: str | None, think: bool) -> str:
    """Return the conditional prompt of an interleaved answer. The last turn asks for it.

    Args:
        system: the user's system message; None for the task's own one.
        think: False writes an empty thinking, after which the answer begins.
    """
    placed = place_images(turns, images, labels=False)
    message = interleave_system_message() if system is None else system
    return chat_ml(placed, _plain_but_tags(message), "" if think else NO_THINKING)


def answer_prompt(turns: Sequence[Message], images: int, system: str) -> str:
    """Return the prompt of describe and chat. The last turn is the question. Errors as for `place_images`."""
    return chat_ml(place_images(turns, images), plain_text(system), "")


def place_images(turns: Sequence[Message], images: int, *, labels: bool = True) -> list[Message]:
    """Write missing placeholders as `write_placeholders` does and replace each by `IMAGE_SLOT`, which also stands at
    the images' places in earlier interleaved answers. All other text of the turns is marked as plain text.

    Raises:
        RequestError: a text has more placeholders than there are images, or one of the model's image tokens.
    """
    return [
        Message(turn.role, IMAGE_SLOT.join(map(plain_text, turn.text.split(PLACEHOLDER))))
        if turn.role == "user"
        else Message(turn.role, IMAGE_SLOT.join(map(_plain_but_tags, turn.pieces)))
        for turn in write_placeholders(turns, images, labels=labels)
    ]


def plain_text(text: str) -> str:
    """Mark a user's or a model's text, so that a control token such as `<|im_end|>` in it is only text.

    Control tokens come only from this module: a text from a file or a client must not end a turn or begin another one.
    """
    return f"{TEXT_START}{text}{TEXT_END}" if "<" in text else text


def _plain_but_tags(text: str) -> str:
    """Mark a text as plain, except for its think tags: in an earlier answer they are the model's own, in a system
    message they explain themselves to the model, and both are harmless."""
    return "".join(
        piece if piece in ("<think>", "</think>") else plain_text(piece) for piece in re.split("(</?think>)", text)
    )


def chat_ml(turns: Sequence[Message], system: str, assistant_start: str) -> str:
    """Write turns in ChatML, and the start of the assistant's next turn. Empty user turns are written, too."""
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    body = "".join(f"<|im_start|>{turn.role}\n{turn.text}<|im_end|>\n" for turn in turns)
    return f"{head}{body}<|im_start|>assistant\n{assistant_start}"
