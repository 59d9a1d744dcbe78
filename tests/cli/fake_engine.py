"""A fake engine: it makes plain pictures at once, and yields the real events."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from config.recommended import Recommended, read_recommended
from config.sizes import format_size, parse_size, resolve_interleave_size, resolve_size
from model.checkpoint.card import Card
from model.checkpoint.named_lora import NamedLora
from model.engine import Engine
from model.errors import CheckpointError
from model.events import (
    Answer,
    BranchCaching,
    CacheSummary,
    DenoisingStep,
    Event,
    InterleavedAnswer,
    Notice,
    Picture,
    PicturePart,
    PrefixRead,
    Statistics,
    TextPart,
    TextToken,
    ThinkText,
    ThinkToken,
)
from model.requests import AnswerRequest, EditRequest, GenerateRequest, InterleaveRequest, Request

THINK = ["A cat ", "sits.\n", "It ", "purrs."]
ANSWER = ["It ", "is ", "a ", "cat."]
STORY = [
    ["<think>", "A kite ", "flies.", "</think>"],
    ["# The kite\n\n", "Once ", "a kite."],
    None,
    ["It ", "flew."],
    None,
    ["The end."],
]
"""Stretches of text in an interleaved answer, and None for each picture. The first one is written with `think` only."""
CACHING = CacheSummary(
    (
        BranchCaching("condition", 3, 5, (0.1, 0.2, 0.3, 0.4, 0.5)),
        BranchCaching("unconditional", 8, 0, ()),
    ),
    layers_computed=60,
    layers=120,
    seconds=3.0,
    seconds_saved=2.5,
)
"""Cache summary of its pictures."""


def _unexpected_preview(longer_side: int) -> Image.Image:
    raise AssertionError("a preview costs a copy from the device, and no view shows this one")


class FakeEngine(Engine):
    """An engine without weights.

    Attributes:
        requests: requests so far.
        lost: whether it must be loaded again.
        request_closed: whether a request was closed before its end.
        closed: whether the engine was closed.
        on_step: called before each denoising step and each token, with its number from 1.
        placement: where the weights are, in words; empty if all are on the device.
        story: as STORY.
        predict: makes a preview of the size that the request asks for; fails unless a test sets it.
    """

    placement = ""

    def __init__(self, checkpoint: Path, dtype: str = "auto") -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype.replace("auto", "bfloat16")
        self.recommended: Recommended = read_recommended(checkpoint)
        self.requests: list[Request] = []
        self.lost = self.request_closed = self.closed = False
        self._loras: tuple[NamedLora, ...] = ()
        self.on_step: Callable[[int], None] = lambda number: None
        self.notice = ""
        self.answer = ANSWER
        self.story: list[list[str] | None] = list(STORY)
        self.predict: Callable[[int], Image.Image] = _unexpected_preview

    def close(self) -> None:
        self.closed = True

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        for lora in loras:
            if not Path(lora.name).is_file():
                raise CheckpointError(f"there is no LoRA file {lora.name}", "name one")
        self._loras = tuple(loras)

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        return self._loras

    @property
    def card(self) -> Card:
        return Card(str(self.checkpoint), self.recommended)

    @property
    def description(self) -> str:
        return f"bfloat16 on cpu; {self.placement}" if self.placement else "bfloat16 on cpu"

    @property
    def is_lost(self) -> bool:
        return self.lost

    def run(self, request: Request) -> Iterator[Event]:
        self.requests.append(request)
        try:
            match request:
                case AnswerRequest():
                    yield from self._answer(request)
                case InterleaveRequest():
                    yield from self._interleave(request)
                case _:
                    yield from self._draw(request)
        except GeneratorExit:
            self.request_closed = True
            raise

    def _draw(self, request: GenerateRequest | EditRequest) -> Iterator[Event]:
        settings = request.settings
        first = request.images[0].size if isinstance(request, EditRequest) else None
        size = format_size(resolve_size(settings.size, self.recommended.trained_sizes, first))
        if self.notice:
            yield Notice(self.notice)
        yield PrefixRead("condition", 10, 0, 0.01)
        yield PrefixRead("unconditional", 4, 0, 0.01)
        text = None
        if settings.think:
            for number, token in enumerate(THINK[: settings.max_think_tokens], start=1):
                self.on_step(number)
                yield ThinkToken(number, token)
            text = "".join(THINK[: settings.max_think_tokens])
            finish: Any = "length" if settings.max_think_tokens < len(THINK) else "end"
            yield ThinkText(text, tuple(range(1, len(THINK) + 1)), finish, 0.5)
        count, steps = settings.num_images, settings.num_steps
        for index in range(count):
            for step in range(1, steps + 1):
                self.on_step(step)
                is_shown = request.preview_every > 0 and step % request.preview_every == 0
                preview = self.predict(request.preview_size) if is_shown else None
                yield DenoisingStep(index, count, step, steps, step / steps, preview)
            seed = settings.seed + index
            made_with = settings.model_copy(update={"size": size, "seed": seed, "num_images": 1})
            color = (seed % 256, len(request.prompt) % 256, steps % 256)
            sides = parse_size(size)
            assert sides is not None
            image = Image.new("RGB", sides, color)
            caching = CACHING if settings.cache != "off" else None
            yield Picture(index, count, image, made_with, text, caching)
        yield Statistics(14, len(THINK) if text else 0, count * steps, 0.5, 2.0, 3.0, 1_500_000_000, "cpu")

    def _answer(self, request: AnswerRequest) -> Iterator[Event]:
        yield PrefixRead("condition", 10, 0, 0.01)
        words = self.answer[: request.settings.max_tokens]
        for number, word in enumerate(words, start=1):
            self.on_step(number)
            yield TextToken(number, word)
        finish: Any = "length" if len(words) < len(self.answer) else "end"
        yield Answer("".join(words), tuple(range(1, len(words) + 1)), finish)
        yield Statistics(10, len(words), 0, 0.5, 0.0, 0.6, 1_500_000_000, "cpu")

    def _interleave(self, request: InterleaveRequest) -> Iterator[Event]:
        settings, text = request.settings, request.text_settings
        first = request.new_images[0].size if request.new_images else None
        sizes = self.recommended.interleave.trained_sizes
        size = resolve_interleave_size(settings.size, sizes, first)
        yield PrefixRead("condition", 10, 0, 0.01)
        parts: list[TextPart | PicturePart] = []
        finish: Any = "end"
        token = index = 0
        thoughts: list[TextPart] = []
        thinking = False
        for stretch in self.story if settings.think else self.story[1:]:
            if stretch is None:
                if index == text.max_images:
                    finish = "images"
                    break
                for step in range(1, settings.num_steps + 1):
                    self.on_step(step)
                    is_shown = request.preview_every > 0 and step % request.preview_every == 0
                    preview = self.predict(request.preview_size) if is_shown else None
                    time = step / settings.num_steps
                    yield DenoisingStep(index, text.max_images, step, settings.num_steps, time, preview)
                seed = settings.seed + index
                # The second picture depends on the first one, and all depend on the text.
                image = Image.new("RGB", size, (seed % 256, len(request.prompt) % 256, token))
                made_with = settings.model_copy(update={"size": format_size(size), "seed": seed})
                yield Picture(index, text.max_images, image, made_with, None)
                parts.append(PicturePart(index, seed, format_size(size)))
                index += 1
                continue
            thinking = thinking or stretch[0] == "<think>"
            words = stretch[: text.max_tokens - token]
            for number, word in enumerate(words, start=token + 1):
                self.on_step(number)
                shown = "" if word in ("<think>", "</think>") else word
                yield ThinkToken(number, shown) if thinking else TextToken(number, shown)
            ids = tuple(range(token + 1, token + 1 + len(words)))
            token += len(words)
            if words:
                parts.append(TextPart("".join(words), ids, thinking))
                thoughts += [parts[-1]] if thinking else []  # type: ignore[list-item]
            closes = thinking and words[-1:] == ["</think>"]
            if closes or (thinking and token == text.max_tokens):
                whole = "".join(each.text for each in thoughts).removeprefix("<think>").removesuffix("</think>")
                every = tuple(id for each in thoughts for id in each.token_ids)
                yield ThinkText(whole, every, "end" if closes else "length", 0.5)
            thinking = thinking and not closes
            if token == text.max_tokens:
                finish = "length"
                break
        if not index:
            yield Notice("the answer has no picture: the model opened none")
        yield InterleavedAnswer(tuple(parts), finish)
        yield Statistics(10, token, index * settings.num_steps, 0.5, 2.0, 3.0, 1_500_000_000, "cpu")
