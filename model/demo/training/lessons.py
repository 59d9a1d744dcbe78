"""Training examples: a prompt as the program writes it, and the text or picture that the model should make from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from model.demo.training.phrases import Editor, Inquirer, Speaker, Talker, Wish
from model.demo.training.scenes import SceneMaker
from model.demo.training.stories import Story, StoryTeller
from model.demo.training.world import Scene, Style
from model.inputs import prompts
from model.inputs.tokenizer import TEXT_END, TEXT_START
from model.placeholders import PLACEHOLDER
from model.requests import Message

END_OF_TURN = "<|im_end|>"
AFTER_THOUGHT = "\n</think>\n\n"


@dataclass(frozen=True)
class Piece:
    """A piece of a sequence. Pieces are tokenized separately, as when the model runs.

    Attributes:
        text: words; an `IMAGE_SLOT` stands for an input picture between `<img>` and `</img>`.
        learned: whether the model has to write the text.
        drawn: whether the piece is a picture of the answer, without `<img>` and `</img>`; its text is then empty.
    """

    text: str = ""
    learned: bool = False
    drawn: bool = False


@dataclass(frozen=True)
class Lesson:
    """One example.

    Attributes:
        pieces: the sequence.
        sources: the pictures in the sequence, in order.
        target: the picture to draw, or None.
        drawn: the index in `sources` of the picture to draw, which the sequence then contains for the text that follows
            it; None if it is drawn behind the sequence.
    """

    pieces: tuple[Piece, ...]
    sources: tuple[Scene, ...] = ()
    target: Scene | None = None
    drawn: int | None = None


class Teacher:
    """A random generator of lessons of every kind."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._scenes = SceneMaker(random)
        self._speaker, self._editor = Speaker(random), Editor(random)
        self._inquirer, self._talker = Inquirer(random), Talker(random)
        self._stories = StoryTeller(random, self._scenes)

    def generate(self, style: Style) -> Lesson:
        """Make a lesson that draws a picture from words; one in ten has no words, for the unconditional branch."""
        scene, wish = self._wish(style, several=0.1)
        return self._drawn(scene, wish)

    def several(self) -> Lesson:
        """Make a lesson that draws two or three equal things from words."""
        return self._drawn(*self._wish("plain", several=1))

    def think(self) -> Lesson:
        """Make a lesson that draws a picture from words, with a plan that the model writes first."""
        scene, wish = self._wish("plain", several=0.1)
        return Lesson(self._planned(prompts.generate_prompt(wish.prompt, think=True), wish.plan), target=scene)

    def edit(self, kinds: Sequence[str], things: int | None = None) -> Lesson:
        """Make a lesson that edits a picture. A few have no words, or neither words nor picture, for guidance."""
        kind = self._random.choices(kinds, [EDIT_WEIGHTS.get(kind, 1) for kind in kinds])[0]
        source, target = self._scenes.edited(kind, things)
        draw = self._random.random()
        if draw < 0.04:
            return Lesson((Piece(prompts.unconditional_prompt()),), target=target)
        if draw < 0.12:
            return Lesson((Piece(prompts.images_prompt(1)),), (source,), target)
        edit = self._editor.edit(kind, source, target)
        if self._random.random() < 0.12:
            pieces = self._planned(prompts.edit_prompt(edit.instruction, 1, think=True), edit.plan)
            return Lesson(pieces, (source,), target)
        return Lesson((Piece(prompts.edit_prompt(edit.instruction, 1, think=False)),), (source,), target)

    def describe(self, style: Style) -> Lesson:
        """Make a lesson with a question about a picture, and often a second question."""
        several = self._random.random() < 0.15
        scene = (self._scenes.several() if several else self._scene()).styled(style)
        first = self._inquirer.describe(scene) if self._random.random() < 0.5 else self._ask(scene)
        if self._random.random() < 0.55:
            return self._conversation([first], scene)
        return self._conversation([first, self._ask(scene)], scene)

    def chat(self) -> Lesson:
        """Make a lesson with small talk of one to three turns."""
        turns = self._random.choices((1, 2, 3), (60, 25, 15))[0]
        return self._conversation([self._talker.talk() for _ in range(turns)], None)

    def _scene(self) -> Scene:
        return self._scenes.scene(self._random.choices((0, 1, 2), (2, 74, 24))[0])

    def _wish(self, style: Style, several: float) -> tuple[Scene, Wish]:
        """Return a scene, and a prompt for it that may leave something open.

        Args:
            several: share of scenes of equal things.
        """
        scene = self._scenes.several() if self._random.random() < several else self._scene()
        say_place = len(scene.placed) != 1 or self._random.random() < 0.45
        say_background = self._random.random() > 0.2 or not scene.placed
        if not say_place:
            scene = self._scenes.single(open_place=True)
        if not say_background:
            scene = self._scenes.on_fresh_background(scene)
        scene = scene.styled(style)
        say_colors = self._random.random() > 0.1
        wish = self._speaker.wish(scene, say_background=say_background, say_colors=say_colors, say_place=say_place)
        return scene, wish

    def _drawn(self, scene: Scene, wish: Wish) -> Lesson:
        """Make a lesson that draws a scene; one in ten has no words, for the unconditional branch."""
        if self._random.random() < 0.1:
            return Lesson((Piece(prompts.unconditional_prompt()),), target=scene)
        return Lesson((Piece(prompts.generate_prompt(wish.prompt, think=False)),), target=scene)

    def _ask(self, scene: Scene) -> tuple[str, str]:
        return self._inquirer.ask(scene, self._scenes.thing())

    def _planned(self, prompt: str, plan: str) -> tuple[Piece, ...]:
        return Piece(prompt), Piece(f"{plan}\n</think>", learned=True), Piece(prompts.AFTER_THINK)

    def _conversation(self, turns: Sequence[tuple[str, str]], scene: Scene | None) -> Lesson:
        """Make a lesson from a conversation.

        Either all answers are learned, or only the last one. The earlier answers are then history, which the program
        tokenizes anew as a whole and in lower case.
        """
        pictures = 0 if scene is None else 1
        if len(turns) > 1 and self._random.random() < 0.5:
            said = [Message("user", turns[0][0])]
            for (_, answer), (question, _) in pairwise(turns):
                said += [Message("assistant", answer), Message("user", question)]
            if pictures:
                said[0] = Message("user", f"{PLACEHOLDER}\n{said[0].text}")
            pieces = [
                Piece(prompts.answer_prompt(said, pictures, "")),
                Piece(turns[-1][1] + END_OF_TURN, learned=True),
            ]
            return Lesson(tuple(pieces), () if scene is None else (scene,))
        question, answer = turns[0]
        pieces = [Piece(prompts.answer_prompt([Message("user", question)], pictures, ""))]
        pieces.append(Piece(answer + END_OF_TURN, learned=True))
        for question, answer in turns[1:]:
            pieces.append(Piece("\n" + prompts.chat_ml([Message("user", question)], "", "")))
            pieces.append(Piece(answer + END_OF_TURN, learned=True))
        return Lesson(tuple(pieces), () if scene is None else (scene,))

    def story(self) -> Lesson:
        """Make a lesson of an answer with pictures, of which one is drawn. A few have no words, for guidance."""
        story = self._stories.story()
        given = () if story.source is None else (story.source,)
        scenes = (*given, *(page.scene for page in story.pages))
        drawn = self._random.randrange(len(given), len(scenes))
        target = scenes[drawn]
        if self._random.random() < 0.08:
            pieces = [Piece(prompts.images_prompt(len(given)))]
            for _ in range(len(given), drawn):
                pieces += [Piece(drawn=True), Piece("</img><img>")]
            return Lesson(tuple(pieces), scenes[:drawn], target)
        return Lesson(story_pieces(story, think=self._random.random() < 0.45), scenes, target, drawn)


def story_pieces(story: Story, *, think: bool) -> tuple[Piece, ...]:
    """Return the sequence of an answer with pictures, as `model.tasks.interleave` reads and writes it."""
    given = 0 if story.source is None else 1
    pieces = [Piece(prompts.interleave_prompt([Message("user", story.prompt)], given, None, think))]
    before = f"<think>\n{story.thought}{AFTER_THOUGHT}" if think else ""
    for page in story.pages:
        pieces += [Piece(f"{before}{page.text}<img>", learned=True), Piece(drawn=True), Piece("</img>")]
        before = ""
    return (*pieces, Piece(story.ending + END_OF_TURN, learned=True))


def lesson_texts(lesson: Lesson, without: Sequence[str]) -> Iterator[str]:
    """Yield the texts of a lesson in the case in which they are tokenized, to count their words.

    Args:
        without: texts that are tokens of their own, which are left out.
    """
    for piece in lesson.pieces:
        text = piece.text
        for other in (prompts.IMAGE_SLOT, TEXT_START, TEXT_END, *without):
            text = text.replace(other, "")
        yield text if piece.learned else text.lower()


ONE_OF_TWO = ("recolor", "replace", "remove")
"""Edits in which the network has to find the named thing among two."""
EDIT_WEIGHTS = {"recolor": 16, "background": 20, "replace": 20, "move": 13, "resize": 5, "add": 14, "remove": 12}
