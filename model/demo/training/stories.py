"""Stories: prompts for answers of texts and pictures, and those answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from random import Random

from model.demo.training.phrases import Speaker, article, name, plural, several
from model.demo.training.scenes import SceneMaker
from model.demo.training.variety import Freedom
from model.demo.training.world import COLORS, SHAPES, SIDES, Placed, Scene, Thing

NOT_THINKING = "<think>\n\n</think>\n\n"
"""The start of an answer without thinking. It belongs to the prompt."""
PLAIN_BACKGROUNDS = ("white", "black", "yellow", "blue", "green", "pink", "orange", "purple", "red", "gray")
"""Backgrounds of a sequence of changes whose prompt names none: the first one that fits all its pictures."""


HELD_OUT_TRIES = 40
"""Tries to make a story of one kind that is held out. Some kinds name no background."""


@cache
def story_message() -> str:
    """Return the system message of interleaved answers. The models were trained with exactly these bytes."""
    return files("model.inputs").joinpath("system_message_interleave.txt").read_bytes().decode("utf-8")


@dataclass(frozen=True)
class Page:
    """A text of an answer and the picture behind it.

    Attributes:
        tag: words for the picture in the final answer.
        freedom: what the prompt leaves open in the picture.
    """

    text: str
    scene: Scene
    tag: str
    freedom: Freedom = Freedom()


@dataclass(frozen=True)
class Story:
    """A prompt and its answer.

    Attributes:
        end: the text behind the last picture.
        source: the input picture, or None.
        chained: whether all pictures have the same variant: the later ones are edits of the first.
    """

    prompt: str
    pages: tuple[Page, ...]
    end: str = "Done."
    source: Scene | None = None
    chained: bool = False

    @property
    def tagged_end(self) -> str:
        """The final answer behind the thinking. It names the pictures."""
        text = _listed([f"{page.tag} <image{number}>" for number, page in enumerate(self.pages, start=1)])
        return f"{text[0].upper()}{text[1:]}."


class Storyteller(Speaker):
    """A random generator of stories."""

    def __init__(self, random: Random, scenes: SceneMaker, held_out: bool = False) -> None:
        """
        Args:
            scenes: a generator of scenes that are not held out.
            held_out: make stories with a picture that is held out from training, where their words name backgrounds.
        """
        super().__init__(random)
        self._scenes = scenes
        self._held_out = held_out

    def tell(self) -> Story:
        """Make a story of any kind."""
        kinds: dict[Callable[[], Story | None], int] = {
            self.book: 34, self.sequence: 14, self.recolored: 16, self.backgrounds: 12, self.counted: 10,
            self.turned: 5, self.grown: 4, self.edited: 10,
        }  # fmt: skip
        kind = self._random.choices(list(kinds), list(kinds.values()))[0]
        story, tries = kind(), 1
        while story is None or (self._held_out and tries < HELD_OUT_TRIES and not _is_held_out(story)):
            story, tries = kind(), tries + 1
        prompt = story.prompt
        if self._chance(0.1):
            prompt = self._one(("please ", "can you ", "i want ")) + prompt
        return replace(story, prompt=prompt + self._one(("", "", "", ".", "!")))

    def book(self) -> Story | None:
        """Different things, one on each page."""
        pages = self._things(self._random.choices((2, 3, 4), (5, 4, 2))[0])
        if pages is None:
            return None
        listing, said_background, pages = pages
        opening = self._one((
            "a picture book with", "a picture book with", "a picture book about", "make a picture book with",
            "write a picture book about", "a story with", "a story about", "tell me a story about", "a book with",
            "a book about", "a photo album of", "an album with", "slides about", "a short story with",
            "create a picture book with", "an illustrated story about",
        ))  # fmt: skip
        return Story(f"{opening} {listing}{said_background}", pages, "The end.")

    def sequence(self) -> Story | None:
        """Different things, one after the other, each perhaps on a background of its own."""
        count = self._random.choices((2, 3, 4), (6, 3, 1))[0]
        own = self._chance(0.4)
        found = self._things(count, backgrounds=own)
        if found is None:
            return None
        _, _, pages = found
        said = [self._subject(page.scene.placed[0], page.freedom) for page in pages]
        if own:
            said = [words + f" on {article(page.scene.background)} background" for words, page in zip(said, pages, strict=True)]
        then = self._one((", then ", ", then ", " and then ", ", and then "))
        opening = self._one(("show ", "show me ", "draw ", "first ", "paint ", "show first "))
        return Story(opening + then.join(said), pages)

    def recolored(self) -> Story | None:
        """A shape that changes its color."""
        colors = self._random.sample(list(COLORS), self._random.choices((2, 3, 4), (6, 3, 1))[0])
        scene, said = self._start(Thing(self._random.choice(SHAPES), colors[0]))
        scenes = [scene.with_things(replace(scene.placed[0], thing=Thing(scene.placed[0].thing.name, color))) for color in colors]
        found = self._fitting(scenes, said)
        if found is None:
            return None
        subject, text, tag = self._introduced(scene, said and found[0].background)
        pages = [Page(text, found[0], tag)]
        pages += [Page(f"Now it is {color}.", scene, color) for scene, color in zip(found[1:], colors[1:], strict=True)]
        verb = self._one(("make it ", "make it ", "color it ", "paint it ", "turn it "))
        then = self._one((", then ", ", then ", " and then ", ", and then "))
        words = [verb + self.color(color) if index == 0 or self._chance(0.5) else self.color(color)
                 for index, color in enumerate(colors[1:])]  # fmt: skip
        return Story(self._one(("show ", "show ", "draw ", "show me ", "")) + then.join([subject, *words]), tuple(pages), chained=True)

    def backgrounds(self) -> Story | None:
        """A thing on several backgrounds."""
        colors = self._random.sample(list(COLORS), self._random.choices((2, 3, 4), (6, 3, 1))[0])
        scene, _ = self._start(self._scenes.thing())
        found = self._fitting([scene.on(color) for color in colors], True)
        if found is None:
            return None
        _, text, tag = self._introduced(found[0], colors[0])
        pages = [Page(text, found[0], tag)]
        pages += [Page(f"Now the background is {each.background}.", each, f"on {each.background}") for each in found[1:]]
        subject, said = self._subject(scene.placed[0], Freedom()), [self.color(color) for color in colors]
        then = self._one((", then ", ", then ", " and then "))
        opening = self._one(("show ", "draw ", "show me ", ""))
        match self._random.randrange(3):
            case 0:
                prompt = f"{subject} on {article(said[0])} background" + "".join(f"{then}on {article(each)} background" for each in said[1:])
            case 1:
                prompt = f"{subject} on {article(said[0])} background" + "".join(f"{then}make the background {each}" for each in said[1:])
            case _:
                prompt = f"{subject} on {('', '', 'two', 'three', 'four')[len(said)]} backgrounds: {_listed(said)}"
        return Story(opening + prompt, tuple(pages), chained=True)

    def counted(self) -> Story | None:
        """One of a thing, then two, then three."""
        most = 3 if self._chance(0.7) else 2
        thing, background = self._scenes.thing(), self._random.choice(list(COLORS))
        say_background, say_color = self._chance(0.3), self._chance(0.7)
        scenes = [Scene(background, (Placed(thing, "large", count),)) for count in range(1, most + 1)]
        if not all(map(self._accepts(say_background), scenes)):
            return None
        nouns = plural(thing.name) if not thing.color or not say_color else f"{thing.color} {plural(thing.name)}"
        one = f"one {name(thing) if say_color else thing.name}"
        words = [one, *(several(scene.placed[0], color=say_color) for scene in scenes[1:])]
        on = f" on {article(background)} background" if say_background else ""
        freedom = Freedom(background=not say_background, colors=not say_color)
        pages = [Page(f"{text[0].upper()}{text[1:]}{on}.", scene, text, freedom) for text, scene in zip(words, scenes, strict=True)]
        number = ("two", "three")[most - 2]
        opening = self._one((f"count to {number} with {nouns}", f"count from one to {number} with {nouns}",
                             f"count {nouns} up to {number}", f"{_listed(['one', 'two', 'three'][:most])} {nouns}"))  # fmt: skip
        return Story(opening + on, tuple(pages), chained=True)

    def turned(self) -> Story | None:
        """A thing that becomes another thing."""
        scene, said = self._start(self._scenes.thing())
        new = self._scenes.thing()
        if new.name == scene.placed[0].thing.name:
            return None
        found = self._fitting([scene, scene.with_things(replace(scene.placed[0], thing=new))], said)
        if found is None:
            return None
        subject, text, tag = self._introduced(found[0], said and found[0].background)
        a_new = article(name(new))
        then = self._one((", then ", " and then "))
        verb = self._one(("turn it into ", "make it ", "change it into ", "replace it with "))
        pages = (Page(text, found[0], tag), Page(f"Now it is {a_new}.", found[1], a_new))
        return Story(self._one(("show ", "draw ", "show me ")) + subject + then + verb + a_new, pages, chained=True)

    def grown(self) -> Story | None:
        """A thing in two sizes."""
        thing, background = self._scenes.thing(), self._random.choice(list(COLORS))
        places = ["small", "large"]
        self._random.shuffle(places)
        scenes = [Scene(background, (Placed(thing, place),)) for place in places]  # type: ignore[arg-type]
        if not all(map(self._accepts(False), scenes)):
            return None
        said = [article(f"{place} {name(thing)}") for place in places]
        texts = (f"Here is {said[0]}.", f"And here is {said[1]}.")
        pages = [Page(text, scene, words, Freedom(background=True, size=False)) for text, scene, words in zip(texts, scenes, said, strict=True)]
        opening = self._one(("show ", "draw ", "show me ", "first "))
        return Story(opening + self._one((", then ", " and then ")).join(said), tuple(pages))

    def edited(self) -> Story | None:
        """Changes of an input picture."""
        source = self._scenes.scene(1)
        colors = self._random.sample(list(COLORS), self._random.choices((2, 3), (6, 3))[0])
        then = self._one((", then ", " and then "))
        thing = source.placed[0].thing
        if thing.color and self._chance(0.6):
            scenes = [source.with_things(replace(source.placed[0], thing=Thing(thing.name, color))) for color in colors]
            texts = [f"Now it is {color}." for color in colors]
            prompt = self._one(("make it ", "color it ", "paint it ")) + then.join(colors)
        else:
            scenes = [source.on(color) for color in colors]
            texts = [f"Now the background is {color}." for color in colors]
            prompt = self._one(("change the background to ", "make the background ")) + then.join(colors)
        shown = [source, *scenes]
        if not all(map(self._accepts(True), scenes)) or any(a == b for a, b in zip(shown, shown[1:], strict=False)):
            return None
        pages = [Page(text, scene, color) for text, scene, color in zip(texts, scenes, colors, strict=True)]
        return Story(prompt, tuple(pages), source=source, chained=True)

    def _things(self, count: int, backgrounds: bool = False) -> tuple[str, str, tuple[Page, ...]] | None:
        """Return a list of things in words, words for their background, and a page for each.

        Args:
            backgrounds: whether each has a background of its own, which its text names.
        """
        things: list[Thing] = []
        while len(things) < count:
            thing = self._scenes.thing()
            if thing.name not in [each.name for each in things]:
                things.append(thing)
        shared = None if backgrounds or not self._chance(0.25) else self._random.choice(list(COLORS))
        say_colors = self._chance(0.75)
        freedom = Freedom(background=not backgrounds and shared is None, colors=not say_colors)
        pages: list[Page] = []
        said = []
        for thing in things:
            background = shared or self._random.choice(list(COLORS))
            placed = Placed(thing, "large", 2 if self._chance(0.1) else 1)
            scene = Scene(background, (placed,))
            if not self._accepts(not freedom.background)(scene):
                return None
            said.append(self._subject(placed, freedom))
            words = several(placed, color=say_colors) if placed.count > 1 else article(name(thing) if say_colors else thing.name)
            on = "" if freedom.background else f" on {article(background)} background"
            here = ("here is", "here are")[placed.count > 1]
            text = f"{here.capitalize() if not pages else 'And ' + here} {words}{on}."
            pages.append(Page(text, scene, words, freedom))
        words_background = self.background(shared) if shared else ""
        return _listed(said), words_background, tuple(pages)

    def _subject(self, placed: Placed, freedom: Freedom) -> str:
        if placed.count > 1:
            return several(placed, color=not freedom.colors)
        noun = self.noun(placed.thing)
        return article(f"{self.color(placed.thing.color)} {noun}" if placed.thing.color and not freedom.colors else noun)

    def _start(self, thing: Thing) -> tuple[Scene, bool]:
        """Return a scene with the thing, and whether the prompt names its background."""
        place = "large" if self._chance(0.8) else self._random.choice(SIDES)
        return Scene(self._random.choice(list(COLORS)), (Placed(thing, place),)), self._chance(0.35)

    def _introduced(self, scene: Scene, background: str | bool) -> tuple[str, str, str]:
        """Return words of the prompt for a scene, the text before its picture, and its tag."""
        placed = scene.placed[0]
        side = "" if placed.place == "large" else f" {_ON[placed.place]}"
        comma = "," if side else ""
        on = f"{comma} on {article(scene.background)} background" if background else ""
        a_thing = article(name(placed.thing))
        return f"{self._subject(placed, Freedom())}{side}{on}", f"Here is {a_thing}{side}{on}.", a_thing

    def _fitting(self, scenes: Sequence[Scene], named: bool) -> list[Scene] | None:
        """Return the scenes, on a plain background unless the prompt names theirs, if all of them are allowed."""
        if named:
            return list(scenes) if all(map(self._accepts(True), scenes)) else None
        for background in PLAIN_BACKGROUNDS:
            plain = [scene.on(background) for scene in scenes]
            if all(map(self._accepts(False), plain)):
                return plain
        return None

    def _accepts(self, named: bool) -> Callable[[Scene], bool]:
        """Return the test of a scene. Only a background that the prompt names can be one that is held out."""
        may_be_held_out = named and self._held_out
        return lambda scene: scene.is_visible and (may_be_held_out or not scene.is_held_out)


def _is_held_out(story: Story) -> bool:
    return any(page.scene.is_held_out for page in story.pages)


_ON = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}


def _listed(words: Sequence[str]) -> str:
    """Join words: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
