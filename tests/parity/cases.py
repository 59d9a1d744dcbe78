"""The golden cases: outputs of the reference implementation on three tiny checkpoints (fp32, CPU).

`data/cases.json` names each case's arguments, `data/golden.safetensors` holds its tensors. One case
(`interleave_fixed_text`) belongs to a function of the reference that this project does not have.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from config.settings import ImageSettings
from model.image_files import read_picture
from model.requests import AnswerRequest, EditRequest, GenerateRequest, Message, Request, TextSettings

DATA = Path(__file__).parent / "data"
Case = dict[str, Any]


def cases(*tasks: str) -> list[Case]:
    return [case for case in json.loads((DATA / "cases.json").read_text()) if case["task"] in tasks]


def case_id(case: Case) -> str:
    return f"{case['checkpoint']}/{case['case']}"


@cache
def _golden() -> Any:
    return safe_open(DATA / "golden.safetensors", "pt")


def golden(case: Case, name: str) -> Tensor:
    return _golden().get_tensor(f"{case_id(case)}/{name}")


def request_of(case: Case) -> Request:
    """The case as one would ask the engine."""
    images = tuple(read_picture(DATA / name) for name in case.get("images", []))
    if case["task"] == "t2i":
        return GenerateRequest(case["prompt"], image_settings(case))
    if case["task"] == "edit":
        return EditRequest(case["prompt"], images, image_settings(case))
    turns = turns_of(case)
    return AnswerRequest(turns[-1].text, images, tuple(turns[:-1]), settings=TextSettings(max_tokens=24))


def turns_of(case: Case) -> list[Message]:
    if case["task"] == "describe":
        return [Message("user", case["question"])]
    found = re.findall(r"<\|im_start\|>(user|assistant)\n(.*?)<\|im_end\|>", case["query"], flags=re.DOTALL)
    return [Message(role, text) for role, text in found]


def image_settings(case: Case) -> ImageSettings:
    args = dict(case["args"])
    width, height = args.pop("image_size")
    # The reference opened the pictures of these cases without resizing them to a budget first.
    return ImageSettings(size=f"{width}x{height}", think=args.pop("think_mode", False), input_pixels="native", **args)


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest magnitude."""
    theirs = theirs.float()
    return float((ours.float() - theirs).abs().max() / theirs.abs().max())
