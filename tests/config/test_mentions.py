"""Marks of settings in messages; no message of the library contains a flag."""

import re
from pathlib import Path

import pytest

from config.mentions import INPUT_IMAGES, mention, respell
from config.settings import SETTING_NAMES

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "model" / "demo"
"""Scripts with their own flags, and training texts of the demo checkpoint."""
SOURCES = sorted(
    path for folder in ("model", "config") for path in (REPOSITORY / folder).rglob("*.py") if DEMO not in path.parents
)


def bracketed(name: str, value: str | None) -> str:
    return f"[{name} {value}]"


@pytest.mark.parametrize(
    ("name", "value", "mark"),
    [
        ("offload", None, "`offload`"),
        ("offload", "layers", "`offload=layers`"),
        ("gpus", 2, "`gpus=2`"),
        ("check_weights", True, "`check_weights=true`"),
        ("metadata", False, "`metadata=false`"),
    ],
)
def test_a_mark(name: str, value: object, mark: str) -> None:
    assert mention(name, value) == mark


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("use `offload=auto`, or less", "use [offload auto], or less"),
        ("`gpus=2` and `device=cpu`", "[gpus 2] and [device cpu]"),
        ("leave `gpus` out", "leave [gpus None] out"),
        ("try `lora=a b.safetensors, c:0.5`", "try [lora a b.safetensors, c:0.5]"),
        ("try `output={slug}-{seed}.png`", "try [output {slug}-{seed}.png]"),
        ("add `images=FILE`", "add [images FILE]"),
        (
            "`sensenova info`, `offloads`, `offload=`, offload=auto",
            "`sensenova info`, `offloads`, `offload=`, offload=auto",
        ),
    ],
)
def test_only_marks_are_replaced(text: str, spelled: str) -> None:
    assert respell(text, bracketed) == spelled


def test_every_mark_in_the_sources_names_a_setting() -> None:
    text = "\n".join(path.read_text() for path in SOURCES)
    marked = re.findall(r"`([a-z_]+)=[^`\n]+`|mention\([\"'](\w+)", text)
    assert marked
    assert {first or second for first, second in marked} <= {*SETTING_NAMES, INPUT_IMAGES, "name"}


def test_the_library_mentions_no_flag() -> None:
    """Only the program knows whether its user types flags."""
    flags = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in SOURCES
        if path.is_relative_to(REPOSITORY / "model")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"--[a-z]", line)
    ]
    assert not flags
