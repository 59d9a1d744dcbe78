"""The world of a small model: the things that it can draw. A model without one is not limited to a list of things."""

import re
from collections.abc import Iterable
from functools import cached_property

from pydantic import BaseModel, ConfigDict

WORLD_FILE = "world.json"


class World(BaseModel):
    """The contents of `world.json` beside a checkpoint's weights.

    Matching ignores case and punctuation, and also finds plurals.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shapes: dict[str, tuple[str, ...]]
    """Name of each shape → its other names."""
    objects: dict[str, tuple[str, ...]]
    """Name of each object → its other names."""
    colors: tuple[str, ...]
    others: tuple[str, ...] = ()
    """Other words that say what to draw, such as `background`."""
    edits: tuple[str, ...] = ()
    """Words that say how to change a picture without naming a thing."""

    def knows(self, prompt: str) -> bool:
        """Return whether a prompt names at least one thing of this world. Colors alone do not count."""
        return _contains(prompt, self._things)

    def knows_edit(self, prompt: str) -> bool:
        """Return whether an instruction names a thing, a color or a change of this world."""
        return _contains(prompt, self._things | _forms((*self.colors, *self.edits)))

    @cached_property
    def _things(self) -> frozenset[str]:
        named = {**self.shapes, **self.objects}
        return _forms((*named, *(other for others in named.values() for other in others), *self.others))


def _forms(names: Iterable[str]) -> frozenset[str]:
    """Return names in singular and plural, as `_plain` writes them."""
    found: set[str] = set()
    for name in map(_plain, names):
        found |= {name, f"{name}s", f"{name}es"}
        if name.endswith("y"):
            found.add(f"{name[:-1]}ies")
        if name.endswith("man"):
            found.add(f"{name[:-3]}men")
    return frozenset(found)


def _contains(text: str, names: frozenset[str]) -> bool:
    """Return whether a text contains one of the names as whole words."""
    words = _plain(text).split()
    longest = max((name.count(" ") for name in names), default=0) + 1
    return any(
        " ".join(words[start : start + count]) in names
        for start in range(len(words))
        for count in range(1, longest + 1)
    )


def _plain(text: str) -> str:
    """Return a text in lower case, with one space instead of everything that is not a letter or a digit."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()
