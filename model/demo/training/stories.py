"""Stories: answers in which short texts and pictures alternate, and the prompts that ask for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from model.demo.training.counting import NUMBERS
from model.demo.training.phrases import ON_SIDE, Editor, article, counted, listed, name
from model.demo.training.scenes import SceneMaker
from model.demo.training.world import SIDES, Placed, Scene

MOST_PAGES = 3

BOOKS = (
    "a picture book with {}", "a picture book about {}", "a picture book of {}", "make a picture book with {}",
    "a story about {}", "a story with {}", "tell me a story about {}", "a book about {}", "a book with {}",
    "a short story with {}", "write a picture book about {}", "an illustrated story about {}",
)  # fmt: skip
"""Prompts whose answer ends with `THE_END`."""
LISTS = (
    "show {}", "show me {}", "draw {}", "pictures of {}", "show pictures of {}", "first {}", "make {}", "{}",
    "show me first {}", "please draw {}",
)  # fmt: skip
LINKS = ((", then ", ", then "), (" and then ", " and then "), (", ", " and then "), (", ", " and "))
"""Words between the subjects of a list, and between its last two."""
THE_END = "The end."
OPENINGS = ("Here", "Then", "And here")
"""First words of the text before the first, second and third picture of a list."""
CHANGES = ("recolor", "recolor", "background", "replace", "move", "resize", "add")
"""Edits between two pictures of a story."""


@dataclass(frozen=True)
class Page:
    """A picture of a story, and the text before it."""

    text: str
    scene: Scene


@dataclass(frozen=True)
class Story:
    """A prompt and its answer.

    Attributes:
        thought: the sentence that the model thinks first, if it thinks.
        ending: the text after the last picture; may be empty.
        source: the input picture, or None.
    """

    prompt: str
    thought: str
    pages: tuple[Page, ...]
    ending: str = ""
    source: Scene | None = None


@dataclass(frozen=True)
class _Told:
    """The parts of a scene that the words about a picture name.

    Attributes:
        place: whether they name place and size of a single thing.
        background: whether they name the background.
    """

    place: bool = False
    background: bool = False


class StoryTeller(Editor):
    """A random generator of stories."""

    def __init__(self, random: Random, scenes: SceneMaker) -> None:
        super().__init__(random)
        self._scenes = scenes

    def story(self) -> Story:
        """Tell a story of any kind."""
        draw = self._random.random()
        if draw < 0.45:
            return self.listing()
        return self.change() if draw < 0.9 else self.change(from_picture=True)

    def listing(self) -> Story:
        """Tell of one to three subjects, one on each page."""
        count = self._random.choices((1, 2, 3), (10, 55, 35))[0]
        is_book, told = self._chance(0.5), _Told(place=False, background=self._chance(0.3))
        if is_book and count == 1:
            return self._short_book()
        scenes = self._subjects(count, told)
        if self._chance(0.1):
            scenes = [self._scenes.reseeded(scenes[0]) for _ in scenes]
            scenes = scenes if told.background else [self._scenes.on_fresh_background(each) for each in scenes]
        same = count > 1 and len({each.placed for each in map(_unplaced, scenes)}) == 1
        words = [self._asked(each, _Told()) for each in scenes]
        if same:
            text = f"{self._one(NUMBERS[count][:4])} pictures of {words[0]}"
        elif is_book:
            text = self._one(BOOKS).format(self._joined(words, (", ", " and ")))
        else:
            text = self._one(LISTS).format(self._joined(words, self._random.choice(LINKS)))
        if told.background:
            text += self.background(scenes[0].background)
        said = [_words(each, told) for each in scenes]
        thought = f"I will show {', then '.join(said)}."
        pages = [
            Page(f"{opening} {_verb(each, opening)} {words}.", each)
            for opening, each, words in zip(OPENINGS, scenes, said, strict=False)
        ]
        return Story(self._punctuated(text), thought, tuple(pages), THE_END if is_book and not same else "")

    def change(self, *, from_picture: bool = False) -> Story:
        """Tell of one picture and of what then happens to it.

        Args:
            from_picture: begin with an input picture, which the answer does not repeat.
        """
        while True:
            told = _Told(self._chance(0.25), self._chance(0.3))
            before = self._scenes.single(open_place=not told.place)
            if not told.background and not from_picture:
                before = self._scenes.on_fresh_background(before)
            steps = self._random.choices((1, 2), (65, 35))[0]
            made = self._changed_pages(before, told, steps)
            if made is not None:
                break
        instructions, pages, said = made
        if from_picture:
            text = self._joined(instructions, self._random.choice(LINKS[:2]))
            return Story(self._punctuated(text), f"I will show {', then '.join(said)}.", tuple(pages), source=before)
        first = self._asked(before, told) + (self.background(before.background) if told.background else "")
        start = self._one(("show {}", "show {}", "show me {}", "draw {}", "first {}", "show first {}", "{}"))
        link = self._one((", then ", ", then ", " and then ", ", and then "))
        text = link.join([start.format(first), *instructions])
        pages.insert(0, Page(f"Here {_verb(before, 'Here')} {_words(before, told)}.", before))
        thought = f"I will show {', then '.join([_words(before, told), *said])}."
        return Story(self._punctuated(text), thought, tuple(pages))

    def _short_book(self) -> Story:
        """Tell of a single thing, which then goes elsewhere."""
        (scene,) = self._subjects(1, _Told(), single=True)
        place = self._random.choice([each for each in SIDES if each != scene.placed[0].place])
        moved = scene.with_things(Placed(scene.placed[0].thing, place, scene.placed[0].shade))
        said = _words(scene, _Told()), _words(moved, _Told(place=True))
        pages = Page(f"Here is {said[0]}.", scene), Page(f"Now there is {said[1]}.", moved)
        text = self._one(BOOKS).format(self._asked(scene, _Told()))
        return Story(self._punctuated(text), f"I will show {', then '.join(said)}.", pages, THE_END)

    def _changed_pages(self, before: Scene, told: _Told, steps: int) -> tuple[list[str], list[Page], list[str]] | None:
        """Return instructions, pages and the words about them; None if an edit does not suit the scene."""
        instructions: list[str] = []
        pages: list[Page] = []
        words: list[str] = []
        for _ in range(steps):
            kind = self._one(CHANGES)
            after = self._scenes.after(kind, before)
            # Of two things, an instruction would have to name one: `edit one of two` teaches that.
            if after is None or len(before.placed) > 1 or not self._scenes.accepts(after):
                return None
            instruction, _ = self._words(kind, before, after)
            told = _Told(told.place or kind in ("move", "resize", "add"), told.background or kind == "background")
            instructions.append(instruction)
            words.append(_words(after, told))
            pages.append(Page(f"Now there {_verb(after, 'Now')} {words[-1]}.", after))
            before = after
        return instructions, pages, words

    def _subjects(self, count: int, told: _Told, *, single: bool = False) -> list[Scene]:
        """Return scenes of different things, on one background if the words name it."""
        while True:
            background, scenes = self._scenes.background(), list[Scene]()
            for _ in range(count):
                several = not single and self._chance(0.12)
                scene = self._scenes.several() if several else self._scenes.single(open_place=True)
                if told.background:
                    scenes.append(scene.on(background, self._scenes.shade()))
                else:
                    scenes.append(self._scenes.on_fresh_background(scene))
            different = len({each.placed[0].thing.name for each in scenes}) == count
            if different and all(map(self._scenes.accepts, scenes)):
                return scenes

    def _asked(self, scene: Scene, told: _Told) -> str:
        """Name the things of a scene in the user's words."""
        if scene.count > 1:
            return self.several(scene)
        one = scene.placed[0]
        if not told.place:
            return self.subject(Placed(one.thing, "large"))
        if one.place in ("large", "small"):
            return self.subject(one, say_size=True)
        return f"{self.subject(one)} {self._one(ON_SIDE[one.place])}"

    def _joined(self, words: Sequence[str], links: tuple[str, str]) -> str:
        """Join words by the first link, and the last two by the second one."""
        between, last = links
        return last.join([between.join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]

    def _punctuated(self, text: str) -> str:
        return text + self._one((".", "", "", "", "!"))


def _unplaced(scene: Scene) -> Scene:
    return scene.with_things(*(Placed(each.thing, "large") for each in scene.placed))


def _verb(scene: Scene, opening: str) -> str:
    """Return the verb of a page's text, in singular or plural."""
    singular, plural = ("comes", "come") if opening == "Then" else ("is", "are")
    return plural if scene.count > 1 else singular


def _words(scene: Scene, told: _Told) -> str:
    """Return the model's own words for a picture of a story."""
    if scene.count > 1:
        text, on_side = counted(scene), False
    else:
        said = []
        for each in scene.placed:
            words, on_side = name(each.thing), each.place not in ("large", "small")
            if told.place or len(scene.placed) > 1:
                words = f"{words} {ON_SIDE[each.place][0]}" if on_side else f"{each.place} {words}"
            said.append(article(words))
        text, on_side = listed(said), on_side and (told.place or len(scene.placed) > 1)
    background = article(f"{scene.background} background")
    if not told.background:
        return text
    return f"{text}, on {background}" if on_side else f"{text} on {background}"
