"""The worker: one rank's model, or the whole of it, and what each kind of request has it do."""

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from config.recommended import Recommended, read_recommended
from config.sizes import TOKEN_PIXELS, format_size, resolve_size
from model.checkpoint.lora import read_adapters
from model.checkpoint.lora_files import overridden
from model.checkpoint.named_lora import NamedLora, parse_loras
from model.devices import synchronize
from model.errors import CheckpointError, DeviceMemoryError, NumericsError, RequestError
from model.events import (
    Answer,
    Branch,
    DenoisingStep,
    Event,
    LoadProgress,
    Notice,
    Picture,
    PrefixRead,
    TextToken,
    ThinkText,
    ThinkToken,
)
from model.image_files import as_rgb
from model.inputs import prompts
from model.inputs.image_tensors import fit_to_budget, prepare_picture, to_image, to_preview
from model.inputs.token_sequence import TokenSequence, build_sequence
from model.inputs.tokenizer import StreamDecoder, Tokenizer
from model.loaded_model import LoadedModel
from model.memory.errors import memory_errors, ran_out_of_memory
from model.memory.estimate import USUAL_PREFIXES, Workload
from model.network.configuration import read_config
from model.parallel.collectives import ProcessGroups
from model.parallel.commands import CachedTokens, Load
from model.requests import AnswerRequest, EditRequest, GenerateRequest, Message, Request
from model.sampling.decode import CACHE_STEP, Choose, chooser, decode, greedy
from model.sampling.denoise import denoise, step_picture
from model.sampling.guidance import Guidance, guidance_of
from model.sampling.prefill import Prefix, embed_image, extend_prefix
from model.sampling.prefix_cache import CachedPrefix, ImageIdentity, Prefill
from model.sampling.schedule import time_grid
from model.sampling.step_cache import StepCache, StepCaching
from model.tasks.notices import idle_cache_options, mismatched_lora, untrained_size
from model.tasks.statistics import LayerClock, StatisticsRecorder
from model.trace import Trace


class Runner:
    """Carries out requests with a model that has been loaded, whole or a rank's part of it.

    The prefixes that the last request has read are kept for the next one.

    Attributes:
        model: the network, and where its weights are.
    """

    def __init__(self, model: LoadedModel, tokenizer: Tokenizer, recommended: Recommended) -> None:
        """Use `Runner.load`."""
        self.model = model
        self._tokenizer = tokenizer
        self._recommended = recommended
        self._incomplete = False
        self._device = model.device
        self._aside = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None
        self._kept: dict[Branch, CachedPrefix] = {}
        self._work = Workload(0, USUAL_PREFIXES)

    @classmethod
    def load(
        cls,
        order: Load,
        device: torch.device,
        groups: ProcessGroups | None,
        on_progress: Callable[[LoadProgress], None] | None = None,
    ) -> "Runner":
        """Errors as for `Engine.load`.

        Args:
            groups: of the ranks that share the model; None where this process has it to itself.
        """
        folder, settings = order.folder, order.settings
        config = read_config(folder)
        vocabulary = config.transformer.vocabulary
        recommended, tokenizer = read_recommended(folder), Tokenizer(folder)
        if len(tokenizer) > vocabulary:
            raise CheckpointError(
                f"{folder}: the tokenizer has {len(tokenizer)} tokens, the network knows {vocabulary}",
                "tokenizer and weights must belong together: fetch the checkpoint again",
            )
        model = LoadedModel(folder, config, device, settings, groups)
        adapters = read_adapters(parse_loras(settings.lora), config)
        tokens = image_tokens(order.size, recommended)
        smaller = ", or `dtype=bfloat16`" if settings.dtype == "float32" else ""
        hint = f"use `offload=auto`, a device with more memory{smaller}"
        if groups is not None:
            hint = f"use more GPUs, or ones with more memory{smaller}"
        with memory_errors(f"loading {folder}", lambda: hint):
            model.load(Workload(tokens, USUAL_PREFIXES), adapters, settings.check_weights, on_progress)
        return cls(model, tokenizer, recommended)

    @property
    def dtype(self) -> str:
        """As `Engine.dtype`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def cached_tokens(self) -> int:
        """As `Engine.cached_tokens`."""
        return sum(kept.tokens for kept in self._kept.values())

    @property
    def cached_bytes(self) -> int:
        """As `Engine.cached_bytes`."""
        return sum(kept.prefix.cache.nbytes for kept in self._kept.values())

    @property
    def cached_lengths(self) -> CachedTokens:
        """As `Engine.cached_lengths`."""
        return {branch: kept.tokens for branch, kept in self._kept.items()}

    def forget(self) -> None:
        """Free the memory of what is kept."""
        self._kept = {}

    def close(self) -> None:
        """Free all memory; it cannot be used afterwards."""
        self.forget()
        self.model.release()

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """As `Engine.use_loras`."""
        adapters = read_adapters(loras, self.model.config)
        self._kept = {}
        self._incomplete = True
        with memory_errors("changing LoRAs", lambda: "load the model with them: `lora`"):
            self.model.change_adapters(adapters)
        self._incomplete = False

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        """As `Engine.loras`."""
        return tuple(adapter.lora for adapter in self.model.adapters)

    @property
    def recommended(self) -> Recommended:
        """As `Engine.recommended`."""
        return overridden(self._recommended, [adapter.settings for adapter in self.model.adapters])

    def run(self, request: Request, trace: Trace | None = None) -> Iterator[Event]:
        """The events of a request; arguments and errors as for `Engine.run`."""
        if self._incomplete:
            raise CheckpointError("a change of LoRAs was cut off, and left incomplete weights", "change them again")
        try:
            with memory_errors("this request", self._advice):
                if isinstance(request, AnswerRequest):
                    yield from self._answer(request, trace)
                else:
                    yield from self._draw(request, trace)
        except DeviceMemoryError:
            self._kept = {}
            raise

    def _advice(self) -> str:
        return self.model.advice(self._work)

    def _make_room(self, work: Workload) -> Iterator[Event]:
        """Place the weights anew if a request needs more room than there is."""
        self._work = work
        if self.model.fits(work):
            return
        self._kept = {}
        self.model.release()
        self.model.load(work, self.model.adapters)
        yield Notice(f"placed anew, for more room: {self.model.describe()}")

    def _draw(self, request: GenerateRequest | EditRequest, trace: Trace | None) -> Iterator[Event]:
        """Generate and edit: read the branches' prefixes, think, then denoise each picture."""
        settings = request.settings
        layers = self.model.config.transformer.layers
        caching = StepCaching.of(settings.cache_options, layers) if settings.cache_options else None
        if caching and self.model.is_shared:
            raise RequestError("caching is for one GPU: each would decide for itself", "use `cache=off`")
        images = tuple(map(as_rgb, request.images)) if isinstance(request, EditRequest) else ()
        first_size = images[0].size if images else None
        size = resolve_size(settings.size, self.recommended.trained_sizes, first_size)
        for adapter in self.model.adapters:
            yield from mismatched_lora(adapter, settings)
        yield from idle_cache_options(settings)
        if settings.size != "auto":  # an edit that follows its picture's aspect was not asked for a size
            yield from untrained_size(size, self.recommended.trained_sizes)
        pictures: list[Tensor] = []
        if images:
            limits = self.recommended.edit_limits(len(images))
            images = tuple(fit_to_budget(images, settings.input_pixels, size))
            pictures = [prepare_picture(image, limits) for image in images]
        texts, guidance = _branches(request, len(images))
        sequences = self._sequences(texts, pictures)
        tokens = size[0] * size[1] // TOKEN_PIXELS**2
        written = settings.max_think_tokens if settings.think else 0
        rooms = (len(each) + (written if branch == "condition" else 0) for branch, each in sequences.items())
        kept_states = caching.kept_states if caching else 0
        yield from self._make_room(Workload(tokens, tuple(rooms), kept_states))
        lengths = {branch: len(sequence) for branch, sequence in sequences.items()}
        recorder = StatisticsRecorder(self.model.backend, self.model.config)
        with self._keeping() as kept:
            # Where there are several networks each of them thinks for itself: that costs no time, and all of them go
            # on from the same words.
            own = {*self.model.backend.group.reads(tuple(texts)), *(["condition"] if settings.think else [])}
            # Whole prefixes only: reading one in other portions rounds otherwise, and the bytes of a picture would
            # depend on what was asked before.
            room = self.model.backend.room_behind(tokens)
            yield from self._read_branches(sequences, pictures, room, recorder, kept, own, partly=False)
            prefixes = {branch: each.prefix.fork() for branch, each in kept.items()}
            think_text = None
            if settings.think:
                budget = settings.max_think_tokens
                think_text = yield from self._think(prefixes["condition"], budget, room, recorder, trace)
                lengths["condition"] = prefixes["condition"].cache.length
            with torch.inference_mode():
                denoise_states = self.model.backend.denoise_states(prefixes, tokens)
            for index in range(settings.num_images):
                seed = settings.seed + index
                cache = StepCache(caching) if caching else None
                clock, before = LayerClock(layers), recorder.denoising.seconds
                steps = denoise(self.model.backend, denoise_states, guidance, size, seed, settings, cache)
                for number, step in enumerate(recorder.denoising.around(steps), start=1):
                    recorder.count_step(step.layers, lengths, tokens)
                    clock.count(step.layers, recorder.denoising.seconds - before)
                    before = recorder.denoising.seconds
                    if trace is not None:
                        trace.predicted.append(step.predicted)
                        trace.velocities.append(step.velocity)
                    is_shown = request.preview_every > 0 and number % request.preview_every == 0
                    preview = self._look(step.predicted, request.preview_size) if is_shown else None
                    yield DenoisingStep(index, settings.num_images, number, settings.num_steps, step.time, preview)
                picture = step_picture(step.tokens, size).float().cpu()
                _require_finite(picture, "picture", self.dtype)
                if trace is not None:
                    trace.pictures.append(picture)
                made_with = settings.model_copy(update={"size": format_size(size), "seed": seed, "num_images": 1})
                summary = clock.summary(cache.branches()) if cache else None
                yield Picture(index, settings.num_images, to_image(picture), made_with, think_text, summary)
        yield recorder.statistics()

    def _look(self, picture: Tensor, longer_side: int) -> Image.Image:
        """`to_preview`, of a step that is done. On CUDA it does not wait for the next step, which already runs."""
        if self._aside is None:
            return to_preview(picture, longer_side)
        with torch.cuda.stream(self._aside):
            return to_preview(picture, longer_side)

    def _think(
        self, prefix: Prefix, budget: int, room: int, recorder: StatisticsRecorder, trace: Trace | None
    ) -> Generator[Event, None, str]:
        """Greedy text until the model closes it; leaves the prefix ready for a picture, with room for its tokens.
        Returns the text."""
        stop = (self._tokenizer.think_end, self._tokenizer.end_of_turn)
        written = yield from self._write(prefix, greedy, budget, stop, ThinkToken, recorder, trace)
        # The closing tag belongs to the sequence; an ended turn does not, or the picture would come after it.
        kept = [] if written.last == self._tokenizer.end_of_turn else [written.last]
        rest = kept + self._tokenizer.encode(prompts.AFTER_THINK)
        with torch.inference_mode():
            prefix.cache.reserve(len(rest) + room)
            extend_prefix(self.model.network, prefix, rest)
        yield ThinkText(written.text, written.token_ids, written.finish, recorder.text.seconds)
        return written.text

    def _answer(self, request: AnswerRequest, trace: Trace | None) -> Iterator[Event]:
        """Describe and chat."""
        settings = request.settings
        pictures = [prepare_picture(as_rgb(image), self.recommended.answer_input) for image in request.images]
        turns = [*request.history, Message("user", request.prompt)]
        texts: dict[Branch, str] = {"condition": prompts.answer_prompt(turns, len(pictures), request.system)}
        room = min(settings.max_tokens, CACHE_STEP)
        stop = (self._tokenizer.end_of_turn,)
        choose = chooser(settings, self._device)
        sequences = self._sequences(texts, pictures)
        yield from self._make_room(Workload(0, (len(sequences["condition"]) + settings.max_tokens,)))
        recorder = StatisticsRecorder(self.model.backend, self.model.config)
        with self._keeping() as kept:
            yield from self._read_branches(sequences, pictures, room, recorder, kept, set(texts), partly=True)
            prefix = kept["condition"].prefix
            written = yield from self._write(prefix, choose, settings.max_tokens, stop, TextToken, recorder, trace)
        yield Answer(written.text, written.token_ids, written.finish)
        yield recorder.statistics()

    def _write(
        self,
        prefix: Prefix,
        choose: Choose,
        budget: int,
        stop: Collection[int],
        event: type[ThinkToken] | type[TextToken],
        recorder: StatisticsRecorder,
        trace: Trace | None,
    ) -> Generator[Event, None, "_Written"]:
        """Write on from a prefix, telling each new token as an event of this kind; those of `stop` are no text."""

        def choose_checked(logits: Tensor, tokens: list[int]) -> Tensor:
            if not tokens:
                first_logits = logits.cpu()
                _require_finite(first_logits, "text", self.dtype)
                if trace is not None:
                    trace.first_logits = first_logits
            return choose(logits, tokens)

        stream = StreamDecoder(self._tokenizer)
        ids: list[int] = []
        last = -1
        text = ""  # of the newest token, which is told when the next one is there: if it is the last, more may belong
        for last in recorder.text.around(decode(self.model.backend, prefix, choose_checked, budget, stop)):
            if last not in stop:
                if ids:
                    yield event(ids[-1], text)
                ids.append(last)
                text = stream.push(last)
        if ids:
            yield event(ids[-1], text + stream.flush())
        recorder.count_tokens(len(ids), prefix.cache.length)
        finish: Literal["end", "length"] = "end" if last in stop else "length"
        return _Written(self._tokenizer.decode(ids), tuple(ids), last, finish)

    @contextmanager
    def _keeping(self) -> Iterator[dict[Branch, CachedPrefix]]:
        """A place for the prefixes that a request reads. They are kept if it is carried out, or given up between two
        events; after an error they may be half-written, and nothing is kept."""
        prefixes: dict[Branch, CachedPrefix] = {}
        try:
            yield prefixes
        except GeneratorExit:
            self._keep(prefixes)
            raise
        self._keep(prefixes)

    def _keep(self, prefixes: dict[Branch, CachedPrefix]) -> None:
        try:
            with torch.inference_mode():
                for kept in prefixes.values():
                    kept.settle()
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            return  # what is kept only saves time
        self._kept = prefixes

    def _sequences(self, texts: Mapping[Branch, str], pictures: Sequence[Tensor]) -> dict[Branch, TokenSequence]:
        """The branches' texts with the pictures in them; the unconditional branch has none."""
        grids = [(side[0] // TOKEN_PIXELS, side[1] // TOKEN_PIXELS) for side in (each.shape[-2:] for each in pictures)]
        return {
            branch: build_sequence(text, grids if branch != "unconditional" else [], self._tokenizer, self._device)
            for branch, text in texts.items()
        }

    def _read_branches(
        self,
        sequences: Mapping[Branch, TokenSequence],
        pictures: Sequence[Tensor],
        room: int,
        recorder: StatisticsRecorder,
        prefixes: dict[Branch, CachedPrefix],
        own: Collection[str],
        *,
        partly: bool,
    ) -> Iterator[Event]:
        """Read the prefix of each branch into `prefixes`, with room behind it, except what the last request has read.

        Args:
            pictures: one that several branches read is embedded once.
            own: branches that this rank reads; of the others it is told that they are read, but not how long it took,
                nor what was reused.
            partly: see `Prefill`.
        """
        clock = time.perf_counter()
        identities = [ImageIdentity.of(picture) for picture in pictures]
        kept, self._kept = self._kept, {}
        prefills: dict[Branch, Prefill] = {}
        for branch, sequence in sequences.items():
            seen = identities if branch != "unconditional" else []
            prefills[branch] = Prefill(sequence, seen, kept.pop(branch, None), partly=partly)
        kept.clear()
        most = max((reading.rest.pictures for branch, reading in prefills.items() if branch in own), default=0)
        with torch.inference_mode():
            embedded = [embed_image(self.model.network, picture) for picture in pictures[len(pictures) - most :]]
        for branch, reading in prefills.items():
            if branch not in own:
                yield PrefixRead(branch, len(reading.sequence), reading.sequence.image_tokens, 0.0)
                continue
            unread = embedded[len(embedded) - reading.rest.pictures :]
            with torch.inference_mode():
                prefixes[branch] = reading.read(self.model.network, unread, room)
            synchronize(self._device)
            recorder.prefix_tokens += len(reading.rest)
            whole, seconds = reading.sequence, time.perf_counter() - clock
            yield PrefixRead(branch, len(whole), whole.image_tokens, seconds, reading.reused)
            clock = time.perf_counter()


def _branches(request: GenerateRequest | EditRequest, pictures: int) -> tuple[dict[Branch, str], Guidance]:
    """The guidance of a request, and the prompts of the branches that any of its steps needs."""
    settings = request.settings
    guidance = guidance_of(request)
    if isinstance(request, EditRequest):
        condition = prompts.edit_prompt(request.prompt, pictures, settings.think)
    else:
        condition = prompts.generate_prompt(request.prompt, settings.think)
    texts: dict[Branch, str] = {
        "condition": condition,
        "images": prompts.pictures_prompt(pictures),
        "unconditional": prompts.unconditional_prompt(),
    }
    starts = time_grid(settings.num_steps, settings.timestep_shift)[:-1]
    return {branch: texts[branch] for branch in guidance.ever_needed(starts)}, guidance


def image_tokens(size: str, recommended: Recommended) -> int:
    """Tokens of a picture of this size, as far as it is known before there is one."""
    width, height = resolve_size(size, recommended.trained_sizes, None)
    return width * height // TOKEN_PIXELS**2


@dataclass(frozen=True)
class _Written:
    """Text that has been written: `last` is the token it ended with, also where that is no part of the text."""

    text: str
    token_ids: tuple[int, ...]
    last: int
    finish: Literal["end", "length"]


def _require_finite(values: Tensor, what: str, dtype: str) -> None:
    """A picture of NaN would come out black and a text as one token over and over, and nobody would know why."""
    if not torch.isfinite(values).all():
        others = {"float16": "try `dtype=bfloat16` or float32; ", "bfloat16": "try `dtype=float32`; "}
        raise NumericsError(
            f"the {what} came out as NaN or infinity in {dtype}",
            others.get(dtype, "") + "`check_weights=true` tells whether the weights are damaged",
        )
