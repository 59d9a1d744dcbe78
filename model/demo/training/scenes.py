"""Random scenes, and the results of edits."""

from random import Random

from model.demo.training.phrases import second_place
from model.demo.training.world import (
    ALONE,
    COLORS,
    FRESH_COLORS,
    OBJECTS,
    OPPOSITE,
    SEVERAL,
    SHADES,
    SHAPES,
    SIDES,
    Place,
    Placed,
    Scene,
    Thing,
)

OPEN_PLACES = dict(zip(ALONE, (55, 13, 8, 8, 8, 8), strict=True))
"""Weights of the places of a single thing, if a prompt names neither place nor size."""


class SceneMaker:
    """A random generator of scenes. Scenes that are held out from training are never made."""

    def __init__(self, random: Random, held_out: bool = False, shades: int = SHADES) -> None:
        """
        Args:
            held_out: make only scenes that are held out.
            shades: number of shades of each colour; 1 for the colours of the palette.
        """
        self._random = random
        self._held_out = held_out
        self._shades = shades

    def shade(self) -> int:
        return self._random.randrange(self._shades) if self._shades > 1 else 0

    def background(self, *, fresh: bool = False) -> str:
        """Return a colour of a background. `fresh`: one that a prompt leaves open, so never black, white or gray."""
        return self._random.choice(FRESH_COLORS if fresh else list(COLORS))

    def thing(self) -> Thing:
        if self._random.random() < 0.68:
            return Thing(self._random.choice(list(OBJECTS)))
        return Thing(self._random.choice(SHAPES), self._random.choice(list(COLORS)))

    def place(self) -> Place:
        draw = self._random.random()
        return "large" if draw < 0.5 else "small" if draw < 0.6 else self._random.choice(SIDES)

    def scene(self, things: int) -> Scene:
        """Make a scene with this number of different things, 0 to 2, in the plain style."""
        while True:
            scene = self._any_scene(things)
            if self.accepts(scene):
                return scene

    def single(self, *, open_place: bool) -> Scene:
        """Make a scene of one thing. `open_place`: at a place that a prompt leaves to the seed."""
        while True:
            place = self._random.choices(ALONE, list(OPEN_PLACES.values()))[0] if open_place else self.place()
            scene = Scene(self.background(), (self._placed(self.thing(), place),), shade=self.shade())
            if self.accepts(scene):
                return scene

    def several(self, count: int | None = None) -> Scene:
        """Make a scene of two or three equal things; None draws the number at random."""
        while True:
            places = SEVERAL[count or self._random.choice(list(SEVERAL))]
            one = self._placed(self.thing(), places[0])
            placed = tuple(Placed(one.thing, place, one.shade) for place in places)
            scene = Scene(self.background(), placed, shade=self.shade())
            if self.accepts(scene):
                return scene

    def on_fresh_background(self, scene: Scene) -> Scene:
        """Return the scene on a background that a prompt leaves open."""
        while True:
            other = scene.on(self.background(fresh=True), self.shade())
            if self.accepts(other):
                return other

    def reseeded(self, scene: Scene) -> Scene:
        """Return the scene as another seed may draw it: a single thing at another place, and other shades."""
        place = self._random.choices(ALONE, list(OPEN_PLACES.values()))[0]
        placed = [self._placed(each.thing, each.place) for each in scene.placed]
        if len(placed) == 1:
            placed = [self._placed(placed[0].thing, place)]
        elif scene.count > 1:
            placed = [Placed(each.thing, each.place, placed[0].shade) for each in placed]
        return scene.with_things(*placed).on(scene.background, self.shade())

    def _placed(self, thing: Thing, place: Place) -> Placed:
        return Placed(thing, place, self.shade() if thing.color else None)

    def accepts(self, scene: Scene) -> bool:
        return scene.is_visible and scene.is_held_out == self._held_out

    def _any_scene(self, things: int) -> Scene:
        background, shade = self.background(), self.shade()
        if things == 0:
            return Scene(background, shade=shade)
        if things == 1:
            return Scene(background, (self._placed(self.thing(), self.place()),), shade=shade)
        first, second, place = self.thing(), self.thing(), self._random.choice(SIDES)
        while second.name == first.name:
            second = self.thing()
        return Scene(background, (self._placed(first, place), self._placed(second, OPPOSITE[place])), shade=shade)

    def edited(self, kind: str, things: int | None = None) -> tuple[Scene, Scene]:
        """Make a scene and the result of an edit of this kind. With `held_out` the result is held out.

        Args:
            things: the scene's number of things; None draws it at random.
        """
        while True:
            before = self._any_scene(self._things_before(kind) if things is None else things)
            if not before.is_visible or (before.is_held_out and not self._held_out):
                continue
            after = self.after(kind, before)
            if after is not None and self.accepts(after):
                return before, after

    def _things_before(self, kind: str) -> int:
        two = self._random.random() < 0.3
        if kind == "add":
            return 0 if self._random.random() < 0.12 else 1
        if kind in ("move", "resize"):
            return 1
        return 2 if two or (kind == "remove" and self._random.random() < 0.6) else 1

    def after(self, kind: str, scene: Scene) -> Scene | None:
        """Return a result of this kind of edit, which keeps the shades of everything else; None if it does not suit."""
        place: Place
        placed = list(scene.placed)
        index = self._random.randrange(len(placed)) if placed else 0
        match kind:
            case "recolor":
                if not placed[index].thing.color:
                    return None
                color = self._random.choice(list(COLORS))
                if color == placed[index].thing.color:
                    return None
                placed[index] = self._placed(Thing(placed[index].thing.name, color), placed[index].place)
            case "background":
                color = self._random.choice(list(COLORS))
                return None if color == scene.background else scene.on(color, self.shade())
            case "replace":
                new = self.thing()
                if new.name in [each.thing.name for each in placed]:
                    return None
                placed[index] = self._placed(new, placed[index].place)
            case "move":
                place = self._random.choice((*SIDES, "small"))
                if place == placed[0].place:
                    return None
                placed[0] = Placed(placed[0].thing, place, placed[0].shade)
            case "resize":
                if placed[0].place not in ("large", "small"):
                    return None
                place = "small" if placed[0].place == "large" else "large"
                placed[0] = Placed(placed[0].thing, place, placed[0].shade)
            case "add":
                new = self.thing()
                if not placed:
                    return scene.with_things(self._placed(new, self._random.choice(SIDES)))
                if new.name == placed[0].thing.name:
                    return None
                old = placed[0].place
                # A thing in the centre moves to a side: to the left if the instruction does not say where.
                where = second_place(old) if old in SIDES or self._random.random() < 0.5 else self._random.choice(SIDES)
                placed = [Placed(placed[0].thing, OPPOSITE[where], placed[0].shade), self._placed(new, where)]
            case "remove":
                del placed[index]
            case "grayscale":
                return scene.styled("grayscale")
            case "oil painting":
                return scene.styled("oil painting")
        return scene.with_things(*placed)
