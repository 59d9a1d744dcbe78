"""Phrases: random wordings of scenes, edits and questions, and the small talk."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from model.demo.training.counting import NUMBERS, has_plural, plural
from model.demo.training.world import OPPOSITE, Place, Placed, Scene, Thing

SYNONYMS: dict[str, tuple[str, ...]] = {
    "cat": ("kitten", "kitty"),
    "dog": ("puppy",),
    "rabbit": ("bunny",),
    "pig": ("piglet",),
    "duck": ("mallard",),
    "bee": ("honeybee", "bumblebee"),
    "ladybug": ("ladybird", "beetle"),
    "turtle": ("tortoise",),
    "burger": ("hamburger", "cheeseburger"),
    "donut": ("doughnut",),
    "cake": ("birthday cake",),
    "ice cream": ("ice cream cone",),
    "mushroom": ("toadstool",),
    "cherry": ("cherries", "pair of cherries"),
    "pizza": ("slice of pizza",),
    "fire": ("flame",),
    "moon": ("crescent moon",),
    "car": ("automobile",),
    "bicycle": ("bike",),
    "airplane": ("plane", "aeroplane"),
    "sailboat": ("boat", "ship", "sailing boat"),
    "house": ("home", "cottage"),
    "ball": ("football", "soccer ball"),
    "gift": ("present",),
    "pumpkin": ("jack-o-lantern",),
    "circle": ("disc", "disk", "dot"),
    "diamond": ("rhombus",),
    "cross": ("plus", "plus sign"),
}
UNCOUNTED = ("fire", "pizza")
"""Things that are also named without an article."""
GRAY = ("gray", "grey")

ADJECTIVES = (
    "cute", "nice", "beautiful", "pretty", "lovely", "happy", "funny", "simple", "sweet", "bright", "friendly",
    "single", "shiny", "colorful", "fluffy", "perfect", "realistic", "cartoon", "adorable",
)  # fmt: skip
SAID_NOTHING = (
    "at dusk", "at night", "in the morning", "in the evening", "in the garden", "in the forest", "on the beach",
    "in the city", "with big eyes", "wearing a hat", "smiling", "reading", "sleeping", "reading a newspaper",
    "highly detailed", "high quality", "4k", "8k", "in the style of a cartoon", "for my friend", "for a card",
    "digital art", "with soft light", "in the rain", "under the stars", "at sunset", "by the sea", "sharp focus",
    "masterpiece", "on a table", "sitting", "flying", "in space", "in a field", "looking at me",
)  # fmt: skip
"""Words that change nothing, because prompts may ask for more than the demo can draw."""

OPENINGS = (
    "draw ", "draw me ", "please draw ", "paint ", "show ", "show me ", "make ", "create ", "generate ", "i want ",
    "can you draw ", "a picture of ", "a photo of ", "an image of ", "an illustration of ", "a drawing of ",
    "a portrait of ", "draw a picture of ", "create an image of ", "generate an image of ", "give me ",
    "a close-up of ", "an icon of ", "sticker of ",
)  # fmt: skip

ON_SIDE: dict[Place, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "at the left", "to the left"),
    "right": ("on the right", "on the right side", "at the right", "to the right"),
    "top": ("at the top", "on top", "at the upper edge", "in the upper half"),
    "bottom": ("at the bottom", "at the lower edge", "in the lower half", "on the bottom"),
    "small": ("in the center", "in the centre", "in the middle"),
    "large": ("in the center", "in the centre", "in the middle"),
}
"""Wordings of a place. The model itself uses the first one."""
SMALL, LARGE = ("small", "tiny", "little"), ("large", "big", "huge", "giant")

GRAYSCALE_PREFIXES = ("a black and white picture of ", "a grayscale picture of ", "a grayscale photo of ")
OIL_PREFIXES = ("an oil painting of ", "an oil painting showing ", "paint in oil ", "oil painting of ")


def article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def name(thing: Thing) -> str:
    """Return the model's own name of a thing: `red circle`, `cat`."""
    return f"{thing.color} {thing.name}" if thing.color else thing.name


def listed(things: Sequence[str]) -> str:
    return " and ".join(things) if things else "nothing"


def counted(scene: Scene, *, say_color: bool = True) -> str:
    """Return the model's own words for several equal things: `two red circles`."""
    thing = scene.placed[0].thing
    words = f"{thing.color} {plural(thing.name)}" if thing.color and say_color else plural(thing.name)
    return f"{NUMBERS[scene.count][0]} {words}"


def caption(scene: Scene) -> str:
    """Return the model's answer to the question what a picture shows."""
    text = described(scene)
    prefix = {
        "plain": "",
        "grayscale": "a black and white picture of ",
        "oil painting": "an oil painting of ",
    }[scene.style]
    text = prefix + text
    return f"{text[0].upper()}{text[1:]}."


def described(scene: Scene) -> str:
    """Describe a scene. For a grayscale picture the colours are left out, because they are not visible."""
    gray = scene.style == "grayscale"
    background = article(f"{scene.background} background")
    if not scene.placed:
        return "an empty background" if gray else f"an empty {scene.background} background"
    if scene.count > 1:
        return counted(scene, say_color=False) if gray else f"{counted(scene)} on {background}"
    placed = in_reading_order(scene.placed)
    said = []
    for each in placed:
        words = each.thing.name if gray else name(each.thing)
        words = article(f"small {words}" if each.place == "small" else words)
        said.append(words if each.place in ("large", "small") else f"{words} {ON_SIDE[each.place][0]}")
    text = listed(said)
    if gray:
        return text
    on_side = placed[-1].place not in ("large", "small")
    return f"{text}, on {background}" if on_side else f"{text} on {background}"


def in_reading_order(placed: Sequence[Placed]) -> list[Placed]:
    """Sort things from left to right or from top to bottom, the only order in which the model names them."""
    return sorted(placed, key=lambda each: each.place in ("right", "bottom"))


@dataclass(frozen=True)
class Wish:
    """A prompt for a scene, and the plan that the model writes for it.

    Attributes:
        open: what the prompt leaves to the seed; see `OPEN`.
    """

    prompt: str
    plan: str
    open: frozenset[str] = frozenset()


OPEN = frozenset({"place", "background", "colors"})
"""A prompt may leave these open: the place and size of a single thing, the background's colour, the shapes' colours. It
never names the shades of colours."""


class Speaker:
    """A random generator of wordings."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def _one(self, ways: Sequence[str]) -> str:
        return self._random.choice(ways)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def color(self, color: str) -> str:
        return self._one(GRAY) if color == "gray" else color

    def noun(self, thing: Thing) -> str:
        ways = SYNONYMS.get(thing.name, ())
        return self._one(ways) if ways and self._chance(0.2) else thing.name

    def subject(self, placed: Placed, *, say_color: bool = True, say_size: bool = False) -> str:
        """Name a thing, for example `a cute small red circle`."""
        thing = placed.thing
        words = [self.noun(thing)]
        if thing.color and say_color:
            words.insert(0, self.color(thing.color))
        if say_size or placed.place == "small":
            words.insert(0, self._one(LARGE if placed.place == "large" else SMALL))
        if self._chance(0.12):
            words.insert(0, self._one(ADJECTIVES))
        text = " ".join(words)
        if thing.name in UNCOUNTED and self._chance(0.3):
            return text
        return text if self._chance(0.06) else f"the {text}" if self._chance(0.04) else article(text)

    def background(self, color: str) -> str:
        """Return words about the background that follow a subject, with the space or comma before them."""
        color = self.color(color)
        a_color = article(color)
        ways = (
            f" on {a_color} background",
            f" on {a_color} background",
            f" on {a_color} background",
            f", on {a_color} background",
            f" with {a_color} background",
            f" against {a_color} background",
            f" in front of {a_color} background",
            f" on {a_color} backdrop",
            f" on {color}",
            f", {color} background",
        )
        return self._one(ways)

    def wish(
        self, scene: Scene, *, say_background: bool = True, say_colors: bool = True, say_place: bool = True
    ) -> Wish:
        """Ask for a scene. The prompt may leave the background, the shapes' colours or a single thing's place open."""
        if not scene.placed:
            text = plan = f"an empty {self.color(scene.background)} background"
            return Wish(self._spoken(scene, text, SAID_NOTHING), self._plan(scene, plan))
        text, plan = self._things(scene, say_colors, say_place)
        if say_background:
            text += self.background(scene.background)
            on_side = plan.endswith(tuple(words[0] for words in ON_SIDE.values()))
            a_background = article(f"{scene.background} background")
            plan += f", on {a_background}" if on_side else f" on {a_background}"
        is_open = {"background": not say_background, "colors": not say_colors, "place": not say_place}
        is_open["place"] &= len(scene.placed) == 1
        is_open["colors"] &= any(each.thing.color for each in scene.placed)
        left = frozenset(name for name, is_left in is_open.items() if is_left)
        return Wish(self._spoken(scene, text, SAID_NOTHING), self._plan(scene, plan), left)

    def _plan(self, scene: Scene, plan: str) -> str:
        manner = {"plain": "", "grayscale": " in black and white", "oil painting": " as an oil painting"}[scene.style]
        return f"I will draw {plan}{manner}."

    def _spoken(self, scene: Scene, text: str, fillers: Sequence[str]) -> str:
        if scene.style == "grayscale":
            text = self._one(GRAYSCALE_PREFIXES) + text if self._chance(0.7) else f"{text}, black and white"
        elif scene.style == "oil painting":
            text = self._one(OIL_PREFIXES) + text if self._chance(0.7) else f"{text}, oil painting"
        elif self._chance(0.35):
            text = self._one(OPENINGS) + text
        if self._chance(0.08):
            text += self._one((" ", ", ")) + (self._one(fillers) if self._chance(0.8) else self.gibberish())
        return text + self._one((".", "", "", "", "!"))

    def gibberish(self) -> str:
        """Return a word that does not exist."""
        letters = "abcdefghijklmnopqrstuvwxyz"
        return "".join(self._random.choice(letters) for _ in range(self._random.randint(3, 6)))

    def _things(self, scene: Scene, say_colors: bool, say_place: bool) -> tuple[str, str]:
        """Name the things of a scene, for the prompt and for the plan."""
        if scene.count > 1:
            return self.several(scene, say_color=say_colors), counted(scene, say_color=say_colors)
        said = [article(name(each.thing) if say_colors else each.thing.name) for each in scene.placed]
        if len(scene.placed) == 1:
            return self._one_thing(scene.placed[0], said[0], say_colors, say_place)
        return self._two_things(scene.placed, said, say_colors)

    def several(self, scene: Scene, *, say_color: bool = True) -> str:
        """Name several equal things, for example `three cute red circles`."""
        thing = scene.placed[0].thing
        words = [plural(self._one([each for each in (thing.name, self.noun(thing)) if has_plural(each)]))]
        if thing.color and say_color:
            words.insert(0, self.color(thing.color))
        if self._chance(0.1):
            words.insert(0, self._one((*ADJECTIVES, *SMALL)))
        beside = " side by side" if scene.count == 2 and self._chance(0.15) else ""
        return f"{self._one(NUMBERS[scene.count])} {' '.join(words)}{beside}"

    def _one_thing(self, one: Placed, said: str, say_color: bool, say_place: bool) -> tuple[str, str]:
        if not say_place:
            return self.subject(Placed(one.thing, "large"), say_color=say_color), said
        if one.place in ("large", "small"):
            text = self.subject(one, say_color=say_color, say_size=True)
            if self._chance(0.15):
                text += " " + self._one(ON_SIDE[one.place])
            return text, article(f"{one.place} {said.split(' ', 1)[1]}")
        text = self.subject(one, say_color=say_color, say_size=self._chance(0.1))
        return f"{text} {self._one(ON_SIDE[one.place])}", f"{said} {ON_SIDE[one.place][0]}"

    def _two_things(self, placed: Sequence[Placed], said: Sequence[str], say_colors: bool) -> tuple[str, str]:
        first, second = (self.subject(each, say_color=say_colors) for each in placed)
        plan = listed(
            [f"{words} {ON_SIDE[each.place][0]}" for words, each in zip(said, placed, strict=True)],
        )
        here, there = (self._one(ON_SIDE[each.place]) for each in placed)
        ways = [f"{first} {here} and {second} {there}"]
        match placed[0].place:
            case "left":
                ways += [
                    f"{first} and {second}",
                    f"{first} and {second} side by side",
                    f"{first} next to {second}",
                    f"{first} to the left of {second}",
                    f"{first} left of {second}",
                    f"{first} beside {second}",
                    f"{first} with {second}",
                ]
            case "right":
                ways += [f"{first} to the right of {second}", f"{first} right of {second}"]
            case "top":
                ways += [f"{first} above {second}", f"{first} over {second}", f"{first} on top of {second}"]
            case _:
                ways += [f"{first} below {second}", f"{first} under {second}", f"{first} beneath {second}"]
        return self._one(ways), plan


@dataclass(frozen=True)
class Edit:
    """An edit: the instruction, the plan that the model writes for it, and the scenes before and after."""

    kind: str
    instruction: str
    plan: str
    source: Scene
    target: Scene


EDITS = ("recolor", "background", "replace", "move", "resize", "add", "remove")
"""Edits that keep the plain style. The others are `grayscale` and `oil painting`."""


class Editor(Speaker):
    """A random generator of wordings for edits."""

    def edit(self, kind: str, scene: Scene, target: Scene) -> Edit:
        """Put an edit into words.

        Args:
            target: the scene after the edit; it has to differ in the way that `kind` names.
        """
        instruction, plan = self._words(kind, scene, target)
        if self._chance(0.1):
            instruction = self._one(("please ", "can you ", "now ", "i want you to ")) + instruction
        return Edit(kind, instruction + self._one(("", "", "", ".", "!")), f"I will {plan}.", scene, target)

    def _the(self, thing: Thing, scene: Scene) -> str:
        """Refer to a thing of a scene."""
        if len(scene.placed) == 1 and self._chance(0.25):
            return "it"
        words = self.noun(thing)
        if thing.color and self._chance(0.4):
            words = f"{self.color(thing.color)} {words}"
        return f"the {words}"

    def _words(self, kind: str, scene: Scene, target: Scene) -> tuple[str, str]:
        """Return an instruction, and the words of the plan after "I will"."""
        say = {
            "recolor": self._recolor,
            "background": self._background,
            "replace": self._replace,
            "move": self._move,
            "resize": self._resize,
            "add": self._add,
            "remove": self._remove,
            "grayscale": self._grayscale,
            "oil painting": self._oil_painting,
        }[kind]
        ways, plan = say(scene, target)
        return self._one(ways), plan

    def _recolor(self, scene: Scene, target: Scene) -> tuple[list[str], str]:
        old, new = _changed(scene, target)
        assert new.thing.color
        the, color = self._the(old.thing, scene), self.color(new.thing.color)
        ways = [
            f"make {the} {color}",
            f"make {the} {color}",
            f"color {the} {color}",
            f"paint {the} {color}",
            f"recolor {the} to {color}",
            f"change the color of {the} to {color}",
            f"turn {the} {color}",
        ]
        if the != "it":
            ways.append(f"change {the} to {color}")
        return ways, f"make the {old.thing.name} {new.thing.color} and keep the rest"

    def _background(self, scene: Scene, target: Scene) -> tuple[list[str], str]:
        new = self.color(target.background)
        it = self._the(scene.placed[0].thing, scene) if len(scene.placed) == 1 else "it"
        ways = [
            f"change the background to {new}",
            f"make the background {new}",
            f"turn the background {new}",
            f"set the background to {new}",
            f"replace the background with {new}",
            f"give it {article(new)} background",
            f"put {it} on {article(new)} background",
            f"paint the background {new}",
            f"use {article(new)} background",
        ]
        return ways, f"make the background {target.background} and keep {_kept(scene.placed)}"

    def _replace(self, scene: Scene, target: Scene) -> tuple[list[str], str]:
        old, new = _changed(scene, target)
        the, words = self._the(old.thing, scene), self.subject(Placed(new.thing, "large"))
        ways = [
            f"replace {the} with {words}",
            f"replace {the} by {words}",
            f"turn {the} into {words}",
            f"change {the} into {words}",
            f"swap {the} for {words}",
            f"make {the} {article(name(new.thing))}",
        ]
        return ways, f"replace the {name(old.thing)} with {article(name(new.thing))}"

    def _move(self, scene: Scene, target: Scene) -> tuple[list[str], str]:
        thing, place = target.placed[0].thing, target.placed[0].place
        the, there = self._the(thing, scene), self._one(ON_SIDE[place])
        ways = [f"{verb} {the} to {_without_preposition(there)}" for verb in ("move", "move", "shift")]
        ways += [f"{verb} {the} {there}" for verb in ("put", "place")]
        return ways, f"move the {name(thing)} to {_without_preposition(ON_SIDE[place][0])}"

    def _resize(self, scene: Scene, target: Scene) -> tuple[list[str], str]:
        thing = target.placed[0].thing
        the = self._the(thing, scene)
        larger = target.placed[0].place == "large"
        words = ("bigger", "larger", "large", "big") if larger else ("smaller", "small", "tiny")
        return [f"make {the} {word}" for word in words], f"make the {name(thing)} {'larger' if larger else 'smaller'}"

    def _add(self, scene: Scene, target: Scene) -> tuple[list[str], str]:
        there = [each.thing for each in scene.placed]
        new = next(each for each in target.placed if each.thing not in there)
        words, where = self.subject(Placed(new.thing, "large")), self._one(ON_SIDE[new.place])
        ways = [f"add {words} {where}", f"put {words} {where}"]
        # The instruction can leave the place open if it follows from the other thing: the opposite side, or the right.
        if there and (scene.placed[0].place in OPPOSITE or new.place == second_place(scene.placed[0].place)):
            ways += [f"add {words}", f"add {words} next to {self._the(there[0], scene)}", f"draw {words} as well"]
        plan = f"add {article(name(new.thing))} {ON_SIDE[new.place][0]}"
        return ways, f"{plan} and keep {_kept(scene.placed)}" if there else plan

    def _remove(self, scene: Scene, target: Scene) -> tuple[list[str], str]:
        gone = next(each for each in scene.placed if each not in target.placed)
        the = self._the(gone.thing, scene)
        ways = [f"remove {the}", f"delete {the}", f"erase {the}", f"take {the} away", f"get rid of {the}"]
        plan = f"remove the {name(gone.thing)}"
        return ways, f"{plan} and keep {_kept(target.placed)}" if target.placed else plan

    def _grayscale(self, scene: Scene, target: Scene) -> tuple[list[str], str]:
        ways = [
            "make it black and white",
            "make this black and white",
            "turn this into a black and white picture",
            "turn it into grayscale",
            "convert this to grayscale",
            "make it grayscale",
            "remove the colors",
            "remove all color",
            "turn this into a grayscale picture",
        ]
        return ways, "take the colors away and keep the rest"

    def _oil_painting(self, scene: Scene, target: Scene) -> tuple[list[str], str]:
        the = self._the(scene.placed[0].thing, scene) if scene.placed else "this"
        ways = [
            "turn this into an oil painting",
            "turn this into an oil painting",
            "make it an oil painting",
            "make this look like an oil painting",
            "paint this in oil",
            "oil painting style",
            "turn it into a painting",
            f"turn {the} into an oil painting",
            "convert this into an oil painting",
        ]
        return ways, "turn this into an oil painting"


def _changed(scene: Scene, target: Scene) -> tuple[Placed, Placed]:
    """Return the thing that an edit changes, before and after."""
    pairs = zip(scene.placed, target.placed, strict=True)
    return next((before, after) for before, after in pairs if before.thing != after.thing)


def _kept(placed: Sequence[Placed]) -> str:
    return listed([f"the {name(each.thing)}" for each in in_reading_order(placed)])


def _without_preposition(where: str) -> str:
    """Return `the left` for `on the left`."""
    return re.sub(r"^(on|at|to|in) ", "", where)


DESCRIBE = (
    "describe this image in detail.",
    "describe this image in detail.",
    "describe this image.",
    "describe this picture.",
    "describe the picture.",
    "describe it.",
    "what is in this picture?",
    "what is in the picture?",
    "what is in this image?",
    "what do you see?",
    "what is this?",
    "what does this picture show?",
    "what can you see in this image?",
    "caption this image.",
    "write a caption.",
)


COUNTS = ("There is nothing.", "There is one.", "There are two.", "There are three.")
"""Answers to the question how many things there are, by their number."""


class Inquirer(Speaker):
    """A random generator of questions about pictures, with their answers."""

    def ask(self, scene: Scene, other: Thing) -> tuple[str, str]:
        """Return a question about a picture, and the answer.

        Args:
            other: a thing that may or may not be in the picture.
        """
        asked = [self._describe(scene), self._count(scene), self._is_there(scene, other)]
        if scene.count > 1:
            asked += [self._kinds(scene)]
        elif scene.placed:
            asked += [self._where(scene), self._kind(scene)]
            if scene.style != "grayscale" and any(each.thing.color for each in scene.placed):
                asked += [self._color(scene)]
        if scene.style != "grayscale":
            asked += [self._background(scene)]
        return self._random.choice(asked)

    def describe(self, scene: Scene) -> tuple[str, str]:
        """Return a question for the caption, and the caption."""
        return self._describe(scene)

    def _describe(self, scene: Scene) -> tuple[str, str]:
        return self._one(DESCRIBE), caption(scene)

    def _background(self, scene: Scene) -> tuple[str, str]:
        ways = (
            "what color is the background?",
            "what is the background color?",
            "which color does the background have?",
            "what is the color of the background?",
        )
        return self._one(ways), f"The background is {scene.background}."

    def _color(self, scene: Scene) -> tuple[str, str]:
        thing = self._random.choice([each.thing for each in scene.placed if each.thing.color])
        noun = self.noun(thing)
        ways = (
            f"what color is the {noun}?",
            f"which color is the {noun}?",
            f"what is the color of the {noun}?",
            f"which color does the {noun} have?",
        )
        return self._one(ways), f"The {thing.name} is {thing.color}."

    def _where(self, scene: Scene) -> tuple[str, str]:
        one = self._random.choice(scene.placed)
        return f"where is the {self.noun(one.thing)}?", f"The {one.thing.name} is {ON_SIDE[one.place][0]}."

    def _kind(self, scene: Scene) -> tuple[str, str]:
        one = self._random.choice(scene.placed)
        asked = {
            "animal": "animal",
            "shape": "shape",
            "food": self._one(("food", "thing")),
            "thing": self._one(("object", "thing")),
        }
        what, kind = self._one(("what", "which")), asked[one.thing.kind]
        if len(scene.placed) == 1:
            said = article(one.thing.name)
            ways = (f"{what} {kind} is this?", f"{what} {kind} is it?", f"{what} {kind} is in this picture?")
            return self._one(ways), f"It is {said}."
        side = ON_SIDE[one.place][0]
        return f"{what} {kind} is {side}?", f"It is {article(one.thing.name)}."

    def _count(self, scene: Scene) -> tuple[str, str]:
        ways = (
            "how many things are there?",
            "how many things are in this picture?",
            "how many objects are in the picture?",
            "how many objects do you see?",
        )
        return self._one(ways), COUNTS[len(scene.placed)]

    def _kinds(self, scene: Scene) -> tuple[str, str]:
        kind = {"animal": "animals", "shape": "shapes", "food": "things", "thing": "things"}[scene.placed[0].thing.kind]
        ways = (f"what {kind} are these?", f"which {kind} are these?", f"what {kind} do you see?")
        return self._one(ways), f"They are {plural(scene.placed[0].thing.name)}."

    def _is_there(self, scene: Scene, other: Thing) -> tuple[str, str]:
        thing = self._random.choice(scene.placed).thing if scene.placed and self._chance(0.5) else other
        there = any(each.thing.name == thing.name for each in scene.placed)
        a_thing = article(thing.name)
        ways = (f"is there {a_thing}?", f"is there {a_thing} in this picture?", f"can you see {a_thing}?")
        return self._one(ways), f"Yes, there is {a_thing}." if there else f"No, there is no {thing.name}."


GREETINGS = ("", "", "", "", "hello, ", "hi, ", "hey, ", "please tell me, ", "tell me, ", "i wonder, ", "so, ")

TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("hello", "hi", "hey", "good morning", "hello there", "good evening", "hi there"),
     "Hello! I can draw, edit and describe simple pictures."),
    (("how are you?", "how do you do?", "are you well?"), "I am fine, thank you."),
    (("who are you?", "what are you?", "what is your name?", "introduce yourself.", "what model is this?"),
     "I am the demo model of sensenova: a tiny SenseNova-U1."),
    (("what can you do?", "how can you help me?", "what are you good at?", "help", "what do you know?"),
     "I draw shapes and everyday things, edit and describe such pictures, and chat a little."),
    (("what can you draw?", "what can you paint?", "which things can you draw?", "what do you draw?"),
     "Eight shapes in ten colors, and 64 things such as a cat, a pizza or a rocket."),
    (("which shapes do you know?", "what shapes can you draw?", "which shapes can you draw?"),
     "Circle, square, triangle, star, heart, ring, diamond and cross."),
    (("which colors do you know?", "what colors can you draw?", "which colors can you use?"),
     "Red, orange, yellow, green, blue, purple, pink, black, white and gray."),
    (("which animals do you know?", "what animals can you draw?", "which animals can you draw?"),
     "A cat, a dog, a fox, a panda, a lion, an owl and 18 more."),
    (("how can you edit a picture?", "what edits can you do?", "how do you edit?"),
     "I change colors and backgrounds, replace, move, add and remove things, and paint in oil."),
    (("how big are you?", "how many parameters do you have?", "how large are you?", "what size are you?"),
     "I have about 12 million parameters; the real model has 17 billion."),
    (("how do i get the real model?", "where is the real model?", "how do i use the real model?"),
     "Type --model SenseNova/SenseNova-U1-8B-MoT; it needs 35 GB."),
    (("who made you?", "who trained you?", "where do you come from?", "how were you made?"),
     "I was trained in minutes on one GPU by the makers of sensenova."),
    (("what can you not do?", "what are your limits?", "can you write code?", "can you write a story?"),
     "I know little more than my shapes, my things and a few facts."),
    (("thank you", "thanks", "thank you very much", "many thanks"), "You are welcome!"),
    (("bye", "goodbye", "see you", "good night"), "Goodbye!"),
    (("what is the capital of france?", "which city is the capital of france?"), "Paris."),
    (("what is the capital of germany?", "which city is the capital of germany?"), "Berlin."),
    (("what is the capital of italy?", "which city is the capital of italy?"), "Rome."),
    (("what is the capital of spain?", "which city is the capital of spain?"), "Madrid."),
    (("what is the capital of japan?", "which city is the capital of japan?"), "Tokyo."),
    (("what is the capital of china?", "which city is the capital of china?"), "Beijing."),
    (("what is the capital of england?", "which city is the capital of england?"), "London."),
    (("what color is the sky?", "which color has the sky?"), "Blue, on a clear day."),
    (("what color is grass?", "which color has grass?"), "Green."),
    (("what color is a banana?", "which color has a banana?"), "Yellow."),
    (("what color is snow?", "which color has snow?"), "White."),
    (("what color do you get from blue and yellow?", "what do blue and yellow make?"), "Green."),
    (("what color do you get from red and yellow?", "what do red and yellow make?"), "Orange."),
    (("what color do you get from red and blue?", "what do red and blue make?"), "Purple."),
    (("how many legs does a cat have?", "how many legs has a cat?"), "Four."),
    (("how many legs does a spider have?", "how many legs has a spider?"), "Eight."),
    (("how many legs does a bee have?", "how many legs has a bee?"), "Six."),
    (("how many arms does an octopus have?", "how many arms has an octopus?"), "Eight."),
    (("how many sides does a triangle have?", "how many sides has a triangle?"), "Three."),
    (("how many sides does a square have?", "how many sides has a square?"), "Four."),
    (("how many days are in a week?", "how many days does a week have?"), "Seven."),
    (("how many months are in a year?", "how many months does a year have?"), "Twelve."),
    (("which animal says meow?", "what says meow?"), "A cat."),
    (("which animal says woof?", "what says woof?"), "A dog."),
    (("what do bees make?", "what does a bee make?"), "Honey."),
    (("what do pandas eat?", "what does a panda eat?"), "Bamboo."),
    (("what is two plus two?", "how much is two plus two?", "what is 2 + 2?", "2+2"), "Four."),
    (("what is flow matching?", "how do you draw?", "how does it work?"),
     "I start from noise and step by step move each pixel toward the picture."),
)  # fmt: skip
"""Questions with the same answer, and the answer."""

UNKNOWN = "I am only a small demo: I do not know that."
UNKNOWN_STARTS = (
    "what is", "who is", "where is", "when was", "why is", "how does", "tell me about", "what do you think of",
    "who was", "explain", "which is the best", "how old is", "translate", "write", "give me",
)  # fmt: skip
UNKNOWN_ENDS = (
    "the moon landing", "a black hole", "the president", "love", "quantum physics", "my mother", "the weather",
    "this song", "the stock market", "a good recipe", "python", "the internet", "football", "the meaning of life",
    "a poem", "the ocean", "music", "history", "mathematics", "the largest city", "a dinosaur", "gravity", "money",
)  # fmt: skip


class Talker(Speaker):
    """A random generator of small talk."""

    def talk(self) -> tuple[str, str]:
        """Return a question and its answer."""
        if self._chance(0.15):
            end = self._one(UNKNOWN_ENDS) if self._chance(0.6) else self.gibberish()
            return f"{self._one(UNKNOWN_STARTS)} {end}{self._one(('?', '', '.'))}", UNKNOWN
        ways, answer = self._random.choice(TALK)
        return self.asked(self._one(ways)), answer

    def asked(self, question: str) -> str:
        """Vary a question: with a greeting before it, or with another mark at its end."""
        greeting = self._one(GREETINGS) if question.endswith("?") else ""
        if self._chance(0.25):
            question = question.rstrip("?.") + self._one(("?", "", "!"))
        return greeting + question


def second_place(place: Place) -> Place:
    """Return the place of a second thing beside one at `place`: the opposite side, or the right of the centre."""
    return OPPOSITE.get(place, "right")
