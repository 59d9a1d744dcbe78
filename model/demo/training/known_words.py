"""Write `checkpoint/world.json`: the things that the demo knows, by all their names.

python -m model.demo.training.known_words
"""

import json
from pathlib import Path

from config.world import WORLD_FILE, World
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.demo.training.phrases import GRAY, LARGE, SMALL, SYNONYMS
from model.demo.training.world import COLORS, OBJECTS, SHAPES

CHANGES = (
    "smaller", "bigger", "larger", "center", "centre", "middle", "left", "right", "top", "bottom", "upper", "lower",
    "grayscale", "black and white", "color", "colour", "oil", "painting", "remove it", "delete it", "erase it",
    "take it away", "get rid of it",
)  # fmt: skip
"""Words of edits that name no thing."""


def known_words() -> World:
    """Return the demo's world."""
    return World(
        shapes={name: SYNONYMS.get(name, ()) for name in SHAPES},
        objects={name: SYNONYMS.get(name, ()) for name in OBJECTS},
        colors=tuple(COLORS),
        others=("background",),
        edits=tuple(dict.fromkeys((*CHANGES, *GRAY, *SMALL, *LARGE))),
    )


def write_known_words(folder: Path = DEMO_CHECKPOINT) -> None:
    """Write the file into a checkpoint's folder."""
    text = json.dumps(known_words().model_dump(), indent=1)
    (folder / WORLD_FILE).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_known_words()
