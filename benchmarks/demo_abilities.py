"""Scoring of the demo checkpoint: other sizes, counts, the variety of seeds, and answers with pictures."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from random import Random

from benchmarks.demo_examiner import SEED, Examiner, contact_sheet
from config.settings import TextSettings
from config.sizes import Size, format_size
from model.demo.training.judging import closest, differ, is_like
from model.demo.training.phrases import Speaker, article, name
from model.demo.training.scenes import SceneMaker
from model.demo.training.stories import Story, StoryTeller
from model.demo.training.story_judging import StoryVerdict, judge_story
from model.demo.training.world import FRESH_COLORS, OBJECTS, SHADES, Placed, Scene, Thing, held_out_background
from model.events import InterleavedAnswer, Picture, PicturePart
from model.requests import GenerateRequest, InterleaveRequest

VARIETY_SEEDS = 4
STORY_CASES = 40
SHEET_SIZES: tuple[Size, ...] = ((256, 256), (320, 320), (352, 192))


class AbilityExaminer(Examiner):
    """Scores what the first edition of the demo could not do, too."""

    def sizes(self) -> dict[str, float]:
        """Score pictures, edits and captions at each trained size but the default one, with a quarter of the cases."""
        default, *others = self._engine.card.recommended.trained_sizes
        whole, cases = self._image, self._cases
        scores: dict[str, float] = {}
        try:
            self._cases, self._shades = max(1, cases // 4), SHADES
            for size in others:
                self._size = size
                self._image = whole.model_copy(update={"size": format_size(size)})
                scores |= {f"{format_size(size)}: {name}": score for name, score in self._at_this_size()}
        finally:
            self._image, self._cases, self._size, self._shades = whole, cases, default, 1
        return scores

    def _at_this_size(self) -> Iterator[tuple[str, float]]:
        yield from self.generate().items()
        yield "objects as asked", self._pictures("objects", 1)
        yield from (("edit", score) for score in self.edit().values())
        yield from ((f"describe {name}", score) for name, score in self.describe().items())

    def counts(self) -> dict[str, float]:
        """Score pictures of two and three equal things."""
        return {"number, look and places right": self._pictures("counts", 2)}

    def _pictures(self, task: str, least: int) -> float:
        """Score pictures of one object, or of at least two equal things."""
        random = Random(task)
        scenes, speaker = SceneMaker(random, held_out=True), Speaker(random)
        right = 0
        for number in range(self._cases):
            scene = scenes.several() if least > 1 else scenes.single(open_place=True)
            wish = speaker.wish(scene, say_place=number % 2 == 0)
            picture = self._picture(GenerateRequest(wish.prompt, self._image))
            good = is_like(picture, scene.in_any_shade, self._stage, open_to=wish.open)
            right += good
            self._note(good, task, wish.prompt, picture, scene)
        return self._percent(right)

    def variety(self) -> dict[str, float]:
        """Score pictures of short prompts with several seeds, such as `a cat`: right, and different from each other."""
        random = Random("variety")
        scenes = SceneMaker(random)
        settings = self._image.model_copy(update={"num_images": VARIETY_SEEDS})
        open_to = ("place", "background")
        right = fresh = pictures = different = pairs = 0
        for _ in range(max(1, self._cases // VARIETY_SEEDS)):
            thing = scenes.thing()
            scene, prompt = Scene("red", (Placed(thing, "large"),)), article(name(thing))
            events = self._engine.run(GenerateRequest(prompt, settings))
            drawn = [event.image for event in events if isinstance(event, Picture)]
            for picture in drawn:
                good = is_like(picture, scene, self._stage, open_to=open_to)
                best, _ = closest(picture, scene, self._stage, open_to)
                right += good
                fresh += best.background in FRESH_COLORS
                self._note(good, "variety", f"{prompt}: {best}", picture, best)
            pictures += len(drawn)
            pairs += len(drawn) * (len(drawn) - 1) // 2
            different += sum(differ(one, other) for one, other in combinations(drawn, 2))
        return {
            "as asked": 100 * right / pictures,
            "pairs of seeds that differ to the eye": 100 * different / pairs,
            "background colored": 100 * fresh / pictures,
        }

    def stories(self) -> dict[str, float]:
        """Score answers with pictures, half of them with thinking. Without this ability, return no score."""
        if not self._engine.card.recommended.answers_with_pictures:
            return {}
        random = Random("stories, examined")
        teller = StoryTeller(random, SceneMaker(random))
        verdicts = []
        for number in range(min(self._cases, STORY_CASES)):
            story = teller.listing() if number % 2 else teller.change()
            verdict = self._story(story, think=number % 4 < 2)
            verdicts.append(verdict)
        shown = [each for verdict in verdicts for each in verdict.shown]
        kept = [each for verdict in verdicts for each in verdict.kept]
        return {
            "right number and order of pictures": _percent([verdict.order for verdict in verdicts]),
            "pictures that show what the text before says": _percent(shown),
            "changed pictures that keep their background": _percent(kept),
        }

    def _story(self, story: Story, *, think: bool) -> StoryVerdict:
        recommended = self._engine.card.recommended.for_interleaving()
        image = self._image.model_copy(update={"think": think})
        text = TextSettings(**{k: v for k, v in recommended.settings.items() if k in TextSettings.model_fields})
        events = list(self._engine.run(InterleaveRequest(story.prompt, (), image, text)))
        pictures = [event.image for event in events if isinstance(event, Picture)]
        answer = next(event for event in events if isinstance(event, InterleavedAnswer))
        texts = texts_before_pictures(answer)
        verdict = judge_story(texts, pictures, story, self._stage)
        good = verdict.order and all(verdict.shown)
        wrong = next((index for index, shown in enumerate(verdict.shown) if not shown), 0)
        picture = pictures[wrong] if pictures else None
        scene = story.pages[wrong].scene if wrong < len(story.pages) else None
        self._note(good, "stories", f"{story.prompt}: {texts} {verdict}", picture, scene)
        return verdict

    def sheets(self, folder: Path) -> None:
        """Write contact sheets of three sizes: every object on the background left out of training."""
        folder.mkdir(parents=True, exist_ok=True)
        for size in SHEET_SIZES:
            settings = self._image.model_copy(update={"size": format_size(size), "seed": SEED})
            drawn = [self._picture(GenerateRequest(prompt, settings)) for prompt in sheet_prompts()]
            contact_sheet(drawn).save(folder / f"sheet-{format_size(size)}.png", optimize=True)


def sheet_prompts() -> list[str]:
    """Return a prompt for each object."""
    return [f"{article(thing)} on {article(held_out_background(Thing(thing)))} background" for thing in OBJECTS]


def texts_before_pictures(answer: InterleavedAnswer) -> list[str]:
    """Return the text before each picture of an answer, since the picture before it, without thinking."""
    texts, text = [], ""
    for part in answer.parts:
        if isinstance(part, PicturePart):
            texts.append(text.strip())
            text = ""
        elif not part.thinking:
            text += part.text
    return texts


def _percent(right: Sequence[bool]) -> float:
    return 100 * sum(right) / len(right) if right else 0.0
