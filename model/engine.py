"""The engine: a resident model that turns a request into a stream of events."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from config.recommended import Recommended, read_recommended
from config.sizes import TOKEN_PIXELS, Size, format_size, nearest_trained, resolve_size
from model.errors import DeviceMemoryError
from model.events import (
    Answer,
    DenoisingStep,
    Event,
    LoadProgress,
    Notice,
    Picture,
    PrefixRead,
    Statistics,
    TextToken,
    ThinkText,
    ThinkToken,
)
from model.network.sensenova import SenseNovaU1
from model.placement.devices import DTYPES, peak_memory, reset_peak_memory, resolve_device
from model.requests import AnswerRequest, EditRequest, GenerateRequest, Message, Request
from model.sampling.decode import chooser, decode, greedy
from model.sampling.denoise import Guide, denoise, step_picture
from model.sampling.guidance import Branch, edit_branches, generate_branches, guide_edit, guide_generate
from model.sampling.prefix import Prefix, extend_prefix, read_prefix
from model.sequences import prompt as prompts
from model.sequences.images import fit_to_budget, prepare_picture
from model.sequences.sequence import TokenSequence, build_sequence
from model.sequences.tokenizer import StreamDecoder, Tokenizer
from model.weights.checkpoint import load_checkpoint
from model.weights.hub import find_checkpoint


class Engine:
    """A loaded checkpoint on one device.

    >>> engine = Engine.load("path/to/checkpoint")
    >>> for event in engine.run(GenerateRequest("A cute cat")):
    ...     if isinstance(event, Picture):
    ...         event.image.save("cat.png")

    Attributes:
        checkpoint: the folder it was loaded from.
        recommended: what the checkpoint says about sizes and settings.
        device, dtype: where and in which number format it runs.
    """

    def __init__(self, checkpoint: Path, network: SenseNovaU1, tokenizer: Tokenizer, recommended: Recommended) -> None:
        """Use `Engine.load`."""
        self.checkpoint = checkpoint
        self.recommended = recommended
        self.device = str(network.device)
        self.dtype = str(network.dtype).removeprefix("torch.")
        self._network = network
        self._device = network.device
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        device: str = "auto",
        dtype: str = "bfloat16",
        check_weights: bool = False,
        on_progress: Callable[[LoadProgress], None] | None = None,
    ) -> "Engine":
        """Load a checkpoint folder, or a Hugging Face Hub id (downloaded when it is not in the cache).

        Args:
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            dtype: `bfloat16`, `float16` or `float32`; weights are cast while they are read.
            check_weights: refuse weights that hold NaN or infinity.
            on_progress: called now and then with the bytes read so far. What it raises ends the loading.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
            DeviceError: there is no such device.
            DeviceMemoryError: the weights do not fit.
        """
        folder = find_checkpoint(str(checkpoint))
        where, number_format = resolve_device(device), DTYPES[dtype]
        # The small files first: a mistake in them should not cost the time that the weights take.
        recommended, tokenizer = read_recommended(folder), Tokenizer(folder)
        with _memory_errors(f"loading {folder}", "use a device with more memory, or --dtype bfloat16"):
            network = load_checkpoint(folder, where, number_format, check_weights, on_progress)
        return cls(folder, network, tokenizer, recommended)

    def run(self, request: Request) -> Iterator[Event]:
        """Carry out a request, telling what happens as it happens; `Statistics` comes last.

        Closing the iterator between two events cancels the request and frees its memory; the engine stays usable.

        Raises:
            RequestError: the request cannot be carried out with this checkpoint.
            DeviceMemoryError: it does not fit in the device's memory.
        """
        hint = "ask for a smaller picture (--size 1024x1024), fewer or smaller input pictures, or fewer tokens"
        with _memory_errors("this request", hint):
            if isinstance(request, AnswerRequest):
                yield from self._answer(request)
            else:
                yield from self._draw(request)

    def _draw(self, request: GenerateRequest | EditRequest) -> Iterator[Event]:
        """Generate and edit: read the branches' prefixes, think, then denoise each picture."""
        meter = _Meter(self._device)
        settings = request.settings
        images = request.images if isinstance(request, EditRequest) else ()
        first_size = images[0].size if images else None
        size = resolve_size(settings.size, self.recommended.trained_sizes, first_size)
        yield from self._size_notice(size)
        pictures: list[Tensor] = []
        if images:
            limits = self.recommended.edit_limits(len(images))
            images = tuple(fit_to_budget(images, settings.input_pixels, size))
            pictures = [prepare_picture(image, limits) for image in images]
        texts, guide = _branches(request, len(pictures))
        tokens = size[0] * size[1] // TOKEN_PIXELS**2
        prefixes: dict[Branch, Prefix] = {}
        for branch, text in texts.items():
            seen = pictures if branch != "unconditional" else []
            sequence = build_sequence(text, seen, self._tokenizer, self._device)
            prefixes[branch], event = self._read(branch, sequence, tokens, meter)
            yield event
        think_text = None
        if settings.think:
            think_text = yield from self._think(prefixes["condition"], settings.max_think_tokens, meter)
            prefixes["condition"].cache.reserve(tokens)
        for index in range(settings.num_images):
            seed = settings.seed + index
            clock = time.perf_counter()
            steps = denoise(self._network, prefixes, guide, size, seed, settings)
            for number, step in enumerate(steps, start=1):
                meter.denoising(clock)
                yield DenoisingStep(
                    index,
                    settings.num_images,
                    number,
                    settings.num_steps,
                    step.time,
                    step_picture(step.predicted, size),
                    step.velocity,
                    to_image,
                )
                clock = time.perf_counter()
            picture = step_picture(step.tokens, size)
            made_with = settings.model_copy(update={"size": format_size(size), "seed": seed, "num_images": 1})
            yield Picture(index, settings.num_images, to_image(picture), picture.float().cpu(), made_with, think_text)
        yield meter.statistics()

    def _think(self, prefix: Prefix, budget: int, meter: "_Meter") -> Generator[Event, None, str]:
        """Greedy text until the model closes it; leaves the prefix ready for a picture. Returns the text."""
        clock = time.perf_counter()
        stop = (self._tokenizer.think_end, self._tokenizer.end_of_turn)
        stream = StreamDecoder(self._tokenizer)
        ids: list[int] = []
        last = -1
        for last, _ in decode(self._network, prefix, greedy, budget, stop):
            if last not in stop:
                ids.append(last)
                yield ThinkToken(last, stream.push(last))
        if rest := stream.flush():
            yield ThinkToken(ids[-1], rest)
        # The closing tag belongs to the sequence; an ended turn does not, or the picture would come after it.
        kept = [] if last == self._tokenizer.end_of_turn else [last]
        with torch.inference_mode():
            extend_prefix(self._network, prefix, kept + self._tokenizer.encode(prompts.AFTER_THINK))
        seconds = time.perf_counter() - clock
        meter.text(len(ids), seconds)
        text = self._tokenizer.decode(ids)
        yield ThinkText(text, tuple(ids), "end" if last in stop else "length", seconds)
        return text

    def _answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Describe and chat."""
        meter = _Meter(self._device)
        settings = request.settings
        pictures = [prepare_picture(image, self.recommended.answer_input) for image in request.images]
        turns = [*request.history, Message("user", request.prompt)]
        text = prompts.answer_prompt(turns, len(pictures), request.system)
        sequence = build_sequence(text, pictures, self._tokenizer, self._device)
        prefix, event = self._read("condition", sequence, min(settings.max_tokens, 512), meter)
        yield event
        clock = time.perf_counter()
        stop = (self._tokenizer.end_of_turn,)
        stream = StreamDecoder(self._tokenizer)
        ids: list[int] = []
        first_logits: Tensor | None = None
        last = -1
        choose = chooser(settings, sequence.ids)
        for last, logits in decode(self._network, prefix, choose, settings.max_tokens, stop):
            if first_logits is None:
                first_logits = logits.cpu()
            if last not in stop:
                ids.append(last)
                yield TextToken(last, stream.push(last))
        if rest := stream.flush():
            yield TextToken(ids[-1], rest)
        assert first_logits is not None  # max_tokens is at least 1
        meter.text(len(ids), time.perf_counter() - clock)
        yield Answer(self._tokenizer.decode(ids), tuple(ids), "end" if last in stop else "length", first_logits)
        yield meter.statistics()

    def _read(self, branch: Branch, sequence: TokenSequence, room: int, meter: "_Meter") -> tuple[Prefix, PrefixRead]:
        clock = time.perf_counter()
        with torch.inference_mode():
            prefix = read_prefix(self._network, sequence, room)
        count = sequence.ids.shape[0]
        meter.prefix_tokens += count
        return prefix, PrefixRead(branch, count, sequence.image_tokens, time.perf_counter() - clock)

    def _size_notice(self, size: Size) -> Iterator[Event]:
        trained = self.recommended.trained_sizes
        if size not in trained:
            nearest = format_size(nearest_trained(size, trained))
            yield Notice(f"{format_size(size)} is no size this model was trained on; the nearest one is {nearest}")


def to_image(picture: Tensor) -> Image.Image:
    """(1, 3, H, W) in about −1..1 → RGB, 8 bits a channel."""
    values = ((picture[0].float() * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).cpu().numpy()))


def _branches(request: GenerateRequest | EditRequest, pictures: int) -> tuple[dict[Branch, str], Guide]:
    """The prompts of the guidance branches a request needs, and how their velocities combine."""
    settings = request.settings
    if isinstance(request, EditRequest):
        names = edit_branches(settings.cfg_scale, settings.img_cfg_scale)
        condition = prompts.edit_prompt(request.prompt, pictures, settings.think)
        guide: Guide = lambda velocities, _: guide_edit(  # noqa: E731
            velocities, settings.cfg_scale, settings.img_cfg_scale, settings.cfg_norm
        )
    else:
        names = generate_branches(settings.cfg_scale)
        condition = prompts.generate_prompt(request.prompt, settings.think)
        guide = lambda velocities, first: guide_generate(  # noqa: E731
            velocities, settings.cfg_scale, settings.cfg_norm, first
        )
    texts: dict[Branch, str] = {
        "condition": condition,
        "images": prompts.pictures_prompt(pictures),
        "unconditional": prompts.unconditional_prompt(),
    }
    return {name: texts[name] for name in names}, guide


class _Meter:
    """Counts what `Statistics` reports."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = time.perf_counter()
        self.prefix_tokens = 0
        self._new_tokens = self._steps = 0
        self._text_seconds = self._denoise_seconds = 0.0
        reset_peak_memory(device)

    def text(self, tokens: int, seconds: float) -> None:
        self._new_tokens += tokens
        self._text_seconds += seconds

    def denoising(self, since: float) -> None:
        self._steps += 1
        self._denoise_seconds += time.perf_counter() - since

    def statistics(self) -> Statistics:
        return Statistics(
            self.prefix_tokens,
            self._new_tokens,
            self._steps,
            self._text_seconds,
            self._denoise_seconds,
            time.perf_counter() - self._start,
            peak_memory(self._device),
            str(self._device),
        )


@contextmanager
def _memory_errors(what: str, hint: str) -> Iterator[None]:
    """Turn the allocators' errors into one that says what did not fit and what would help."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceMemoryError(f"out of memory: {what} does not fit", hint) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise DeviceMemoryError(f"out of memory: {what} does not fit", hint) from error
