"""The instructions with which a model rewrites a prompt."""

from functools import cache
from importlib.resources import files

from sensenova_cli.inputs.replay import PictureKind

FILES = {"generate": "picture.txt", "edit": "edit.txt"}
HEADINGS = {"generate": "Prompt", "edit": "Instruction"}


@cache
def instruction(kind: PictureKind) -> str:
    """Return the instruction for prompts of pictures, or for those of edits."""
    return files(__package__).joinpath(FILES[kind]).read_text(encoding="utf-8").strip()


def question(kind: PictureKind, prompt: str) -> str:
    """Return the instruction together with the prompt, as one message."""
    return f"{instruction(kind)}\n\n{HEADINGS[kind]}: {prompt}"
