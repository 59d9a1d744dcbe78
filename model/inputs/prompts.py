"""The texts the model was trained with (ChatML), and where the pictures go in them."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from model.placeholders import PLACEHOLDER, require_placeholders
from model.requests import Message

PICTURE_SLOT = "\0picture\0"
"""What a placeholder becomes once a picture belongs to it: no text that a user or the model writes."""

DIRECT_START = "<think>\n\n</think>\n\n<img>"
THINK_START = "<think>\n"
AFTER_THINK = "\n\n<img>"
IMAGE_START = "<img>"


@cache
def system_message() -> str:
    """The system message of generating and editing; the model was trained with exactly these bytes."""
    return files(__package__).joinpath("system_message.txt").read_bytes().decode("utf-8")


def generate_prompt(prompt: str, think: bool) -> str:
    """Condition of text to image. The assistant's turn is open, ready for think text or the picture."""
    return edit_prompt(prompt, 0, think)


def unconditional_prompt() -> str:
    """No system message, an empty question, and a picture begins."""
    return chat_ml([Message("user", "")], "", IMAGE_START)


def edit_prompt(prompt: str, pictures: int, think: bool) -> str:
    """Condition of an edit: the pictures, then the instruction."""
    turns = place_pictures([Message("user", prompt)], pictures)
    return chat_ml(turns, system_message(), THINK_START if think else DIRECT_START)


def pictures_prompt(pictures: int) -> str:
    """The edit branch that sees the pictures but no words: nothing stands between them."""
    return chat_ml([Message("user", PICTURE_SLOT * pictures)], "", IMAGE_START)


def answer_prompt(turns: Sequence[Message], pictures: int, system: str) -> str:
    """Describe and chat: the conversation, the last turn being the question. Raises as `place_pictures`."""
    return chat_ml(place_pictures(turns, pictures), system, "")


def place_pictures(turns: Sequence[Message], pictures: int) -> list[Message]:
    """Give every picture its place: turns as `write_placeholders` gives them, each placeholder a `PICTURE_SLOT`.

    Raises:
        RequestError: more placeholders than pictures, or one of the tokens that stand for pictures as plain text.
    """
    return [
        Message(turn.role, turn.text.replace(PLACEHOLDER, PICTURE_SLOT)) if turn.role == "user" else turn
        for turn in write_placeholders(turns, pictures)
    ]


def write_placeholders(turns: Sequence[Message], pictures: int) -> list[Message]:
    """Give every picture a placeholder; those that have none yet go to the front of the last turn.

    One picture without any placeholder becomes `<image>`, several become `Image-1:<image>`, `Image-2:<image>`, …;
    where some placeholders are written, the missing ones are plain. Raises as `place_pictures`.
    """
    texts = [turn.text for turn in turns if turn.role == "user"]
    require_placeholders(texts, pictures)
    written = sum(text.count(PLACEHOLDER) for text in texts)
    missing = pictures - written
    if missing > 1 and written == 0:
        front = "".join(f"Image-{number}:{PLACEHOLDER}\n" for number in range(1, missing + 1))
    else:
        front = f"{PLACEHOLDER}\n" * missing
    return [*turns[:-1], Message(turns[-1].role, front + turns[-1].text)]


def chat_ml(turns: Sequence[Message], system: str, assistant_start: str) -> str:
    """Write turns in ChatML and open the assistant's next one. An empty user turn is written all the same."""
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    body = "".join(f"<|im_start|>{turn.role}\n{turn.text}<|im_end|>\n" for turn in turns)
    return f"{head}{body}<|im_start|>assistant\n{assistant_start}"
