"""Scenes: random ones for lessons and examinations, and their edits."""

from dataclasses import replace
from random import Random

from model.demo.training.phrases import second_place
from model.demo.training.world import COLORS, OBJECTS, OPPOSITE, SHAPES, SIDES, Place, Placed, Scene, Thing

ONE_OF_TWO = ("recolor", "replace", "remove")
"""Edits in which the network has to find the named thing among two."""
EDIT_WEIGHTS = {"recolor": 16, "background": 20, "replace": 20, "move": 13, "resize": 5, "add": 14, "remove": 12}
EDITS_OF_SEVERAL = ("recolor", "background", "remove", "grayscale", "oil painting")
"""Edits of pictures with two or three of a thing."""
SEVERAL = 3
"""Number of things that stands for two or three of one thing."""


class SceneMaker:
    """A random generator of scenes. Scenes that are held out from training are never made."""

    def __init__(self, random: Random, held_out: bool = False) -> None:
        """held_out: make only scenes that are held out."""
        self._random = random
        self._held_out = held_out

    def thing(self) -> Thing:
        if self._random.random() < 0.68:
            return Thing(self._random.choice(list(OBJECTS)))
        return Thing(self._random.choice(SHAPES), self._random.choice(list(COLORS)))

    def place(self) -> Place:
        draw = self._random.random()
        return "large" if draw < 0.5 else "small" if draw < 0.6 else self._random.choice(SIDES)

    def scene(self, things: int) -> Scene:
        """Make a scene in the plain style with this number of things, 0 to 2, or SEVERAL of one thing."""
        while True:
            scene = self._any_scene(things)
            if self.accepts(scene):
                return scene

    def accepts(self, scene: Scene) -> bool:
        return scene.is_visible and scene.is_held_out == self._held_out

    def _any_scene(self, things: int) -> Scene:
        background = self._random.choice(list(COLORS))
        if things == 0:
            return Scene(background)
        if things == SEVERAL:
            return Scene(background, (Placed(self.thing(), "large", self._random.choice((2, 2, 3))),))
        if things == 1:
            return Scene(background, (Placed(self.thing(), self.place()),))
        first, second, place = self.thing(), self.thing(), self._random.choice(SIDES)
        while second.name == first.name:
            second = self.thing()
        return Scene(background, (Placed(first, place), Placed(second, OPPOSITE[place])))

    def edited(self, kind: str, things: int | None = None) -> tuple[Scene, Scene]:
        """Make a scene and the result of an edit of this kind. With `held_out` the result is held out.

        Args:
            things: the scene's number of things; None draws it at random.
        """
        while True:
            before = self._any_scene(self._things_before(kind) if things is None else things)
            if not before.is_visible or (before.is_held_out and not self._held_out):
                continue
            after = self._after(kind, before)
            if after is not None and self.accepts(after):
                return before, after

    def _things_before(self, kind: str) -> int:
        if kind in EDITS_OF_SEVERAL and self._random.random() < 0.15:
            return SEVERAL
        two = self._random.random() < 0.3
        if kind == "add":
            return 0 if self._random.random() < 0.12 else 1
        if kind in ("move", "resize"):
            return 1
        return 2 if two or (kind == "remove" and self._random.random() < 0.6) else 1

    def _after(self, kind: str, scene: Scene) -> Scene | None:
        placed = list(scene.placed)
        index = self._random.randrange(len(placed)) if placed else 0
        match kind:
            case "recolor":
                if not placed[index].thing.color:
                    return None
                color = self._random.choice(list(COLORS))
                if color == placed[index].thing.color:
                    return None
                placed[index] = replace(placed[index], thing=Thing(placed[index].thing.name, color))
            case "background":
                color = self._random.choice(list(COLORS))
                return None if color == scene.background else scene.on(color)
            case "replace":
                new = self.thing()
                if new.name in [each.thing.name for each in placed]:
                    return None
                placed[index] = Placed(new, placed[index].place)
            case "move":
                place: Place = self._random.choice((*SIDES, "small"))
                if place == placed[0].place:
                    return None
                placed[0] = Placed(placed[0].thing, place)
            case "resize":
                if placed[0].place not in ("large", "small"):
                    return None
                placed[0] = Placed(placed[0].thing, "small" if placed[0].place == "large" else "large")
            case "add":
                new = self.thing()
                if not placed:
                    return scene.with_things(Placed(new, self._random.choice(SIDES)))
                if new.name == placed[0].thing.name:
                    return None
                old = placed[0].place
                # A thing in the centre moves to a side: to the left if the instruction does not say where.
                where = second_place(old) if old in SIDES or self._random.random() < 0.5 else self._random.choice(SIDES)
                placed = [Placed(placed[0].thing, OPPOSITE[where]), Placed(new, where)]
            case "remove":
                del placed[index]
            case "grayscale":
                return scene.styled("grayscale")
            case "oil painting":
                return scene.styled("oil painting")
        return scene.with_things(*placed)
