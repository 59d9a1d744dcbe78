"""Scoring of the demo checkpoint: the tasks at the default size. `demo_eval` runs them."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.pictures import recommended_settings
from config.settings import TextSettings
from model.demo.training.judging import ALIKE, closest, edited_result, is_like, judge_shapes, psnr, true_image
from model.demo.training.lessons import EDIT_WEIGHTS
from model.demo.training.phrases import DESCRIBE, Editor, Speaker, Talker, article, caption, name
from model.demo.training.rendering import Stage
from model.demo.training.scenes import SceneMaker
from model.demo.training.world import OBJECTS, SIDE, Placed, Scene, Thing, held_out_background
from model.engine import Engine
from model.events import Answer, Event, Picture, ThinkText
from model.requests import AnswerRequest, EditRequest, GenerateRequest, Request

SEED = 0
SHEET_COLUMNS, SHEET_SIDE = 8, 128
EDIT_KINDS = {**EDIT_WEIGHTS, "grayscale": 6, "oil painting": 10}


class Examiner:
    """Scores one engine: runs the cases of each task and counts the right results.

    Args:
        cases: number of cases of each task except `objects`.
        seeds: number of seeds of each object.
        overrides: picture settings that replace the recommended ones, by name.
        failures: folder for wrong pictures; None writes none.

    Attributes:
        wrong: a line about each wrong result.
    """

    def __init__(
        self, engine: Engine, cases: int, seeds: int, overrides: dict[str, Any], failures: Path | None
    ) -> None:
        self._engine = engine
        self._cases = cases
        self._seeds = seeds
        self._image = recommended_settings(engine, **{"seed": SEED, **overrides})
        recommended = engine.card.recommended.settings
        self._text = TextSettings(**{k: v for k, v in recommended.items() if k in TextSettings.model_fields})
        self._stage = Stage(torch.device("cpu"))
        self._failures = failures
        self._layers = self._layers_computed = 0
        self._size = (SIDE, SIDE)
        self._shades = 1  # as in the first edition, so that scores can be compared
        self.wrong: list[str] = []

    @property
    def layers_computed(self) -> float | None:
        """Share of the layers of all steps so far that were computed; None without a cache."""
        return self._layers_computed / self._layers if self._layers else None

    def generate(self) -> dict[str, float]:
        """Score pictures of one or two shapes."""
        random = Random("generate")
        scenes, speaker = SceneMaker(random, held_out=True, shades=self._shades), Speaker(random)
        looks = positions = 0
        for number in range(self._cases):
            scene = scenes.scene(2 if number % 4 == 3 else 1)
            while any(each.thing.kind != "shape" for each in scene.placed):
                scene = scenes.scene(2 if number % 4 == 3 else 1)
            wish = speaker.wish(scene, say_place=number % 2 == 0)
            picture = self._picture(GenerateRequest(wish.prompt, self._image))
            verdict = judge_shapes(picture, scene, wish.open)
            looks += verdict.look
            positions += verdict.position
            self._note(verdict.look and verdict.position, "generate", f"{wish.prompt} {verdict}", picture, scene)
        return {"shape, color and background": self._percent(looks), "position": self._percent(positions)}

    def objects(self, sheet: Path | None) -> dict[str, float]:
        """Score large pictures of every object, with each seed, on the background left out of training.

        Args:
            sheet: a file for the pictures of the first seed.
        """
        pictures, decibels = [], []
        settings = self._image.model_copy(update={"num_images": self._seeds})
        for thing in map(Thing, OBJECTS):
            scene = Scene(held_out_background(thing), (Placed(thing, "large"),))
            prompt = f"{article(thing.name)} on {article(scene.background)} background"
            for event in self._engine.run(GenerateRequest(prompt, settings)):
                if not isinstance(event, Picture):
                    continue
                if event.index == 0:
                    pictures.append(event.image)
                truth = closest(event.image, scene, self._stage, ("place",))[1]
                decibels.append(psnr(np.asarray(event.image), truth))
                verdict = f"{prompt}, seed {event.settings.seed}: {decibels[-1]:.1f} dB"
                self._note(decibels[-1] >= ALIKE, "objects", verdict, event.image, scene)
        if sheet:
            contact_sheet(pictures).save(sheet, optimize=True)
        return {
            "mean PSNR, dB": statistics.mean(decibels),
            "least PSNR, dB": min(decibels),
            "come out, %": 100 * sum(each >= ALIKE for each in decibels) / len(decibels),
        }

    def edit(self) -> dict[str, float]:
        """Score all kinds of edit, of true pictures."""
        random = Random("edit")
        scenes, editor = SceneMaker(random, held_out=True, shades=self._shades), Editor(random)
        right = 0
        kinds = list(EDIT_KINDS)
        for _ in range(self._cases):
            kind = random.choices(kinds, list(EDIT_KINDS.values()))[0]
            before, after = scenes.edited(kind)
            instruction = editor.edit(kind, before, after).instruction
            source = true_image(before, self._stage, self._size)
            picture = self._picture(EditRequest(instruction, (source,), self._image))
            good = is_like(picture, edited_result(before, after), self._stage, rather_than=before)
            right += good
            self._note(good, "edit", f"{instruction} ({before})", picture, after)
        return {"changed as asked, rest kept": self._percent(right)}

    def describe(self) -> dict[str, float]:
        """Score captions, which must match to the letter."""
        shapes = self._captions("describe shapes", lambda thing: thing.kind == "shape")
        objects = self._captions("describe objects", lambda thing: thing.kind != "shape")
        return {"shapes, exact text": shapes, "objects, exact text": objects}

    def _captions(self, task: str, wanted: Callable[[Thing], bool]) -> float:
        random = Random(task)
        scenes = SceneMaker(random, held_out=True, shades=self._shades)
        right = 0
        for number in range(self._cases):
            scene = scenes.scene(2 if number % 4 == 3 else 1)
            while not all(wanted(each.thing) for each in scene.placed):
                scene = scenes.scene(2 if number % 4 == 3 else 1)
            source = true_image(scene, self._stage, self._size)
            text = self._answer(AnswerRequest(random.choice(DESCRIBE), (source,), settings=self._text))
            right += text == caption(scene)
            self._note(text == caption(scene), task, f"{caption(scene)!r}: {text!r}", None, None)
        return self._percent(right)

    def chat(self) -> dict[str, float]:
        """Score answers without a picture, which must match to the letter."""
        talker = Talker(Random("chat, examined"))
        right = 0
        for _ in range(self._cases):
            question, answer = talker.talk()
            text = self._answer(AnswerRequest(question, settings=self._text))
            right += text == answer
            self._note(text == answer, "chat", f"{question}: {text!r}", None, None)
        return {"exact answer": self._percent(right)}

    def think(self) -> dict[str, float]:
        """Score plans that name all things and colours of the prompt, and pictures that follow the plans."""
        random = Random("think")
        scenes, speaker = SceneMaker(random, held_out=True, shades=self._shades), Speaker(random)
        settings = self._image.model_copy(update={"think": True})
        named = drawn = 0
        for number in range(self._cases):
            scene = scenes.scene(2 if number % 4 == 3 else 1)
            wish = speaker.wish(scene, say_place=number % 2 == 0)
            events = list(self._engine.run(GenerateRequest(wish.prompt, settings)))
            text = next(event.text for event in events if isinstance(event, ThinkText))
            picture = self._drawn(events)
            words = [name(each.thing) for each in scene.placed] + [f"{scene.background} background"]
            good = all(word in text for word in words)
            like = is_like(picture, scene.in_any_shade, self._stage, open_to=wish.open)
            named += good
            drawn += like
            self._note(good and like, "think", f"{wish.prompt}: {text!r}", picture, scene)
        return {"names all objects and colors": self._percent(named), "picture as asked": self._percent(drawn)}

    def _picture(self, request: Request) -> Image.Image:
        return self._drawn(self._engine.run(request))

    def _drawn(self, events: Iterable[Event]) -> Image.Image:
        picture = next(event for event in events if isinstance(event, Picture))
        if picture.caching:
            self._layers += picture.caching.layers
            self._layers_computed += picture.caching.layers_computed
        return picture.image

    def _answer(self, request: AnswerRequest) -> str:
        return next(event.text for event in self._engine.run(request) if isinstance(event, Answer))

    def _percent(self, right: int) -> float:
        return 100 * right / self._cases

    def _note(self, good: bool, task: str, text: str, picture: Image.Image | None, scene: Scene | None) -> None:
        """Keep a wrong result, so that a person can look at it."""
        if good:
            return
        self.wrong.append(f"{task}: {text}")
        if self._failures and picture and scene:
            self._failures.mkdir(parents=True, exist_ok=True)
            width, height = picture.size
            both = Image.new("RGB", (2 * width, height))
            both.paste(picture, (0, 0))
            both.paste(true_image(scene, self._stage, picture.size), (width, 0))
            both.save(self._failures / f"{len(self.wrong):03}-{task.replace(' ', '-')}.png")


def contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return small versions of pictures of one size, in rows."""
    width, height = pictures[0].size
    longest = max(width, height)
    cell = width * SHEET_SIDE // longest, height * SHEET_SIDE // longest
    rows = -(-len(pictures) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * cell[0], rows * cell[1]))
    for index, picture in enumerate(pictures):
        small = picture.resize(cell, Image.Resampling.LANCZOS)
        sheet.paste(small, (index % SHEET_COLUMNS * cell[0], index // SHEET_COLUMNS * cell[1]))
    return sheet
