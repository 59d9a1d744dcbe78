"""Prompts in the format of the training data."""

import hashlib

import pytest
from PIL import Image

from model.errors import RequestError
from model.inputs.prompts import (
    IMAGE_SLOT,
    answer_prompt,
    edit_prompt,
    generate_prompt,
    images_prompt,
    system_message,
    unconditional_prompt,
)
from model.requests import AnswerRequest, EditRequest, GenerateRequest, Message


def shown(text: str) -> str:
    return text.replace(IMAGE_SLOT, "[P]")


def test_system_message_is_byte_for_byte() -> None:
    digest = hashlib.sha256(system_message().encode()).hexdigest()
    assert digest == "97bc0d73e6f61b20689dd81ad2bcf9eb795a65de5d07dd2e2c01d16503f44492"


def test_generate() -> None:
    text = generate_prompt("a cat", think=False)
    assert text.startswith(f"<|im_start|>system\n{system_message()}<|im_end|>\n<|im_start|>user\na cat<|im_end|>\n")
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n<img>")
    assert generate_prompt("a cat", think=True).endswith("<|im_start|>assistant\n<think>\n")


def test_unconditional_keeps_the_empty_turn() -> None:
    assert unconditional_prompt() == "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<img>"


def test_images_only() -> None:
    assert shown(images_prompt(2)) == "<|im_start|>user\n[P][P]<|im_end|>\n<|im_start|>assistant\n<img>"


@pytest.mark.parametrize(
    ("prompt", "pictures", "user"),
    [
        ("make it red", 1, "[P]\nmake it red"),
        ("mix them", 2, "Image-1:[P]\nImage-2:[P]\nmix them"),
        ("put <image> beside <image>", 2, "put [P] beside [P]"),
        ("put it on <image>", 2, "[P]\nput it on [P]"),
    ],
)
def test_places_of_images(prompt: str, pictures: int, user: str) -> None:
    assert f"<|im_start|>user\n{user}<|im_end|>" in shown(edit_prompt(prompt, pictures, think=False))


def test_answer_keeps_earlier_turns() -> None:
    turns = [Message("user", "<image>\nwhat is it?"), Message("assistant", "A <image> tag."), Message("user", "sure?")]
    assert shown(answer_prompt(turns, 1, "be brief")) == (
        "<|im_start|>system\nbe brief<|im_end|>\n"
        "<|im_start|>user\n[P]\nwhat is it?<|im_end|>\n"
        "<|im_start|>assistant\nA <image> tag.<|im_end|>\n"
        "<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_more_placeholders_than_pictures() -> None:
    with pytest.raises(RequestError, match="2 <image> placeholders for 1 picture"):
        edit_prompt("<image> and <image>", 1, think=False)
    with pytest.raises(RequestError, match="1 <image> placeholders for 0 picture"):
        generate_prompt("draw <image>", think=False)


def test_the_models_own_picture_tokens_are_refused() -> None:
    with pytest.raises(RequestError, match="<IMG_CONTEXT>"):
        generate_prompt("draw <IMG_CONTEXT>", think=False)
    with pytest.raises(RequestError, match="the system message contains <img>"):
        AnswerRequest("what?", system="you <img> see")


def test_requests_check_their_placeholders() -> None:
    picture = Image.new("RGB", (64, 64))
    earlier = (Message("user", "<image>?"), Message("assistant", "A cat."))
    for refused in (
        lambda: GenerateRequest("draw <image>"),
        lambda: EditRequest("<image> and <image>", (picture,)),
        lambda: AnswerRequest("<image>?"),
        lambda: AnswerRequest("and <image>?", (picture,), earlier),
    ):
        with pytest.raises(RequestError, match=r"the prompt has \d <image> placeholders for \d picture"):
            refused()
    AnswerRequest("what?", (picture,), (Message("user", "a"), Message("assistant", "an <image> tag")))
