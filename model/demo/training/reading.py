"""Reading of the model's own words about a picture, so that judges can compare them with the picture."""

import re
from dataclasses import dataclass

from model.demo.training.counting import NUMBERS, plural
from model.demo.training.phrases import ON_SIDE
from model.demo.training.world import COLORS, OBJECTS, SEVERAL, SHAPES, Place, Placed, Scene, Thing

_COLOR = f"(?:({'|'.join(COLORS)}) )?"
_NAMES = {name: name for name in (*SHAPES, *OBJECTS)}
_PLURALS = {plural(name): name for name in _NAMES}
_SIDES: dict[str, Place] = {words[0]: place for place, words in ON_SIDE.items() if place not in ("large", "small")}
_COUNTS = {words[0]: count for count, words in NUMBERS.items()}


def _one_of(words: object) -> str:
    return "|".join(re.escape(word) for word in sorted(map(str, words), key=len, reverse=True))  # type: ignore[call-overload]


_ONE = re.compile(rf"\ban? (?:(large|small) )?{_COLOR}({_one_of(_NAMES)})\b(?: ({_one_of(_SIDES)}))?")
_MANY = re.compile(rf"\b({_one_of(_COUNTS)}) {_COLOR}({_one_of(_PLURALS)})\b")
_BACKGROUND = re.compile(rf"\bon an? ({_one_of(COLORS)}) background\b")


@dataclass(frozen=True)
class Said:
    """A scene as words describe it.

    Attributes:
        scene: the scene; what the words leave open has any value.
        open: what they leave open; see `phrases.OPEN`.
    """

    scene: Scene
    open: frozenset[str]


def said(text: str) -> Said | None:
    """Read words such as `Now there is a small blue circle on a red background.`; None if they name no thing."""
    background = _BACKGROUND.search(text)
    is_open = {"background": background is None, "place": False, "colors": False}
    color = background[1] if background else next(iter(COLORS))
    many = _MANY.search(text)
    if many:
        thing = _thing(_PLURALS[many[3]], many[2])
        placed = [Placed(thing, place) for place in SEVERAL[_COUNTS[many[1]]]]
    else:
        found = [*_ONE.finditer(text)]
        if not found or len(found) > 2:
            return None
        placed = [
            Placed(_thing(one[3], one[2]), _SIDES[one[4]] if one[4] else "small" if one[1] == "small" else "large")
            for one in found
        ]
        is_open["place"] = len(found) == 1 and found[0][1] is None and found[0][4] is None
    is_open["colors"] = any(each.thing.name in SHAPES and each.thing.color is None for each in placed)
    return Said(Scene(color, tuple(placed)), frozenset(name for name, left in is_open.items() if left))


def _thing(name: str, color: str | None) -> Thing:
    return Thing(name, color if name in SHAPES else None)
