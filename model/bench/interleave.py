"""Measurement of interleaved answers: whole answers of given tokens, drawn and written by the real task."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from config.recommended import Recommended
from config.settings import ImageSettings, LoadSettings, TextSettings
from config.sizes import Size, format_size
from model.bench.ceilings import Ceilings
from model.bench.energy import Meter
from model.bench.figure import Figure
from model.checkpoint.random_weights import byte_tokenizer
from model.devices import peak_memory, reset_peak_memory
from model.events import DenoisingStep, Event, Picture, Statistics, TextToken
from model.inputs.tokenizer import Tokenizer
from model.loaded_model import LoadedModel
from model.requests import InterleaveRequest
from model.sampling.backend import Backend
from model.sampling.prefix_cache import PrefixCache
from model.tasks.context import TaskContext
from model.tasks.interleave import interleave

PICTURES = 3
"""Pictures of the answer that `sensenova bench interleave` measures."""
PROMPT = "a picture book " * 32
WORD = "a"


@dataclass
class AnswerTimes:
    """The times of an interleaved answer, in seconds.

    Attributes:
        pictures: from the last token before each picture until it is finished. This includes `<img>`, and the read of
            the picture before it in the branch without text.
        tokens: from one token to the next.
        first_tokens: from each finished picture to the first token after it. The model reads the picture meanwhile.
        seconds: the whole answer, with the prompt.
    """

    pictures: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    seconds: float = 0.0
    statistics: Statistics | None = None

    @property
    def reads(self) -> list[float]:
        """The time of reading each picture back: a first token without the time of a token."""
        token = statistics.median(self.tokens)
        return [max(0.0, seconds - token) for seconds in self.first_tokens]


def bench_interleave(
    backend: Backend, settings: LoadSettings, size: Size, steps: int, tokens: int, ceilings: Ceilings, meter: Meter
) -> Iterator[Figure]:
    """Measure an interleaved answer of `PICTURES` pictures, after a short one that is not timed.

    Args:
        steps: denoising steps of each picture.
        tokens: tokens of the whole text; at least two before, between and after the pictures.
        meter: measures the energy of the whole answer.
    """
    device = backend.network.device
    image_settings = ImageSettings(size=format_size(size), num_steps=steps)
    answer = ScriptedAnswer(backend, settings)
    answer.run(image_settings.model_copy(update={"num_steps": 2}), 1, 8)
    reset_peak_memory(device)
    tokens = max(tokens, 2 * (PICTURES + 1))
    meter.start()
    times = answer.run(image_settings, PICTURES, tokens, meter.sample)
    energy = meter.stop(1)
    counts, peak = times.statistics, peak_memory(device)
    assert counts is not None
    drawn, written = counts.denoise_flops / counts.denoise_seconds, counts.text_bytes / counts.text_seconds
    title = f"interleaved picture {format_size(size)}, {steps} steps"
    yield Figure(title, statistics.median(times.pictures), drawn, "FLOP/s", ceilings.gemm, peak)
    yield Figure("token between pictures", statistics.median(times.tokens), written, "B/s", ceilings.copy, peak)
    yield Figure(f"picture {format_size(size)} read back", statistics.median(times.reads), 0.0, "FLOP/s", 0.0, peak)
    title = f"answer of {PICTURES} pictures and {tokens} tokens"
    yield Figure(title, times.seconds, 0.0, "FLOP/s", 0.0, peak, energy)


class ScriptedAnswer:
    """Runs the task of interleaved answers on a network that need not have files. The text is given."""

    def __init__(self, backend: Backend, settings: LoadSettings) -> None:
        network = backend.network
        self._model = LoadedModel(
            Path(), network.config, network.device, settings.model_copy(update={"offload": "off", "gpu_memory": None})
        )
        self._model.network, self._model.backend, self._model.is_loaded = network, backend, True
        self._tokenizer = _byte_tokenizer()

    def run(
        self,
        settings: ImageSettings,
        pictures: int,
        tokens: int,
        after_step: Callable[[], None] = lambda: None,
    ) -> AnswerTimes:
        """Run an answer whose pictures stand at equal distances in its text, and time it.

        Args:
            tokens: tokens of the whole text; at least one before, between and after the pictures.
            after_step: called after each denoising step.
        """
        request = InterleaveRequest(
            PROMPT, (), settings, TextSettings(max_tokens=tokens + 1, max_images=pictures), system=""
        )
        context = TaskContext(self._model, self._tokenizer, Recommended(), PrefixCache())
        script = iter(self._script(pictures, tokens))

        def sample(logits: Tensor, written: list[int]) -> Tensor:
            logits.argmax()  # the work of choosing a token
            return next(script)

        return _timed(interleave(context, request, sample), after_step)

    def _script(self, pictures: int, tokens: int) -> Tensor:
        """Return the tokens to choose, on the device."""
        word, (stretch, rest) = self._tokenizer.encode(WORD)[0], divmod(tokens, pictures + 1)
        ids = [*[word] * stretch, self._tokenizer.image_start] * pictures
        ids += [*[word] * (stretch + rest), self._tokenizer.end_of_turn]
        return torch.tensor(ids, device=self._model.device)


def _timed(events: Iterator[Event], after_step: Callable[[], None]) -> AnswerTimes:
    times = AnswerTimes()
    start = clock = time.perf_counter()
    before: Event | None = None
    for event in events:
        if isinstance(event, DenoisingStep):
            after_step()
            continue
        now = time.perf_counter()
        if isinstance(event, Picture):
            times.pictures.append(now - clock)
        elif isinstance(event, TextToken) and isinstance(before, Picture):
            times.first_tokens.append(now - clock)
        elif isinstance(event, TextToken) and isinstance(before, TextToken):
            times.tokens.append(now - clock)
        elif isinstance(event, Statistics):
            times.statistics = event
        before, clock = event, now
    times.seconds = clock - start
    return times


def _byte_tokenizer() -> Tokenizer:
    """Return a tokenizer whose tokens every network has."""
    with tempfile.TemporaryDirectory(prefix="sensenova-bench-") as folder:
        byte_tokenizer().save(str(Path(folder) / "tokenizer.json"))
        return Tokenizer(Path(folder))
