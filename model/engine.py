"""The engine: a resident model that turns a request into a stream of events."""

import atexit
import time
import weakref
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from config.caching import CacheOptions
from config.recommended import Recommended, read_recommended
from config.schema import ImageSettings
from config.sizes import TOKEN_PIXELS, Size, format_size, nearest_trained, resolve_size
from config.together import require_compatible
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
from model.meter import LayerClock, Meter
from model.network.configuration import read_config
from model.orders import Forget, Kept, Load, Run, UseLoras
from model.pictures import as_rgb
from model.placement.arrangement import Arrangement, Demand, arrange_model, count_gpus
from model.placement.devices import resolve_device, resolve_dtype, synchronize
from model.placement.groups import Groups
from model.placement.memory import memory_errors, ran_out_of_memory
from model.placement.placed import PlacedNetwork
from model.placement.plan import USUAL_PREFIXES, Work
from model.placement.ranks import SIZES, Ranks, require_ranks
from model.requests import AnswerRequest, EditRequest, GenerateRequest, Message, Request
from model.sampling.decode import CACHE_BLOCK, Choose, chooser, decode, greedy
from model.sampling.denoise import denoise, step_picture
from model.sampling.guidance import Guidance, guidance_of
from model.sampling.prefix import Prefix, embed_picture, extend_prefix
from model.sampling.reuse import KeptPrefix, PictureIdentity, Reading
from model.sampling.schedule import time_grid
from model.sampling.step_cache import StepCache, StepCaching
from model.sequences import prompt as prompts
from model.sequences.images import fit_to_budget, prepare_picture, to_image
from model.sequences.sequence import TokenSequence, build_sequence
from model.sequences.tokenizer import StreamDecoder, Tokenizer
from model.weights.hub import DownloadPlan, find_checkpoint
from model.weights.lora import Adapter, overridden, read_adapters
from model.weights.named_lora import NamedLora
from model.weights.quantize import resolve_quantization
from model.weights.slices import require_split


class Engine:
    """A loaded checkpoint on one device.

    >>> engine = Engine.load("path/to/checkpoint")
    >>> for event in engine.run(GenerateRequest("A cute cat")):
    ...     if isinstance(event, Picture):
    ...         event.image.save("cat.png")

    What a request has read, its prefixes, is kept for the next one, which then reads only what differs: the second
    question about a picture does not read the picture again. Those of the last request are kept, no others; a
    request frees what it cannot use of them before it reads.

    Attributes:
        checkpoint: the folder it was loaded from.
        device, dtype: where and in which number format it runs.

    Several GPUs, or other processes on a CPU, may share a model: see `load`. This process is then the first of them,
    and starts and ends the others (`model.placement.ranks`).
    """

    def __init__(
        self, model: PlacedNetwork, tokenizer: Tokenizer, recommended: Recommended, groups: Groups | None
    ) -> None:
        """Use `Engine.load`."""
        self._ranks: Ranks | None = None
        self._read_together = groups.und.share.count if groups else 1  # ranks that read the same, one after another
        self._uneven = False
        self._arrangement = ""
        self.checkpoint = model.folder
        self._model = model
        self._recommended = recommended
        self._incomplete = False
        self._device = model.device
        size = groups.position.size if groups else 1
        self.device = str(model.device) + (f", {size} ranks" if size > 1 else "")
        self.dtype = str(model.dtype).removeprefix("torch.")
        self._aside = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None
        self._tokenizer = tokenizer
        self._kept: dict[Branch, KeptPrefix] = {}
        self._work = Work(0, USUAL_PREFIXES)

    @property
    def kept_tokens(self) -> int:
        """Tokens that are kept for the next request, all branches together; none while a request is under way."""
        return sum(kept.tokens for kept in self._kept.values())

    @property
    def kept_bytes(self) -> int:
        """Memory on the device that `kept_tokens` take; an 8B model in bfloat16 has 172 KB (42 layers) for each."""
        return sum(kept.prefix.cache.nbytes for kept in self._kept.values())

    @property
    def kept_lengths(self) -> Kept:
        """`kept_tokens`, branch by branch; only those that this rank has read."""
        return {branch: kept.tokens for branch, kept in self._kept.items()}

    def forget(self) -> None:
        """Free the memory of what is kept; the next request reads everything."""
        self._kept = {}
        if self._ranks is not None and self._ranks.lost is None:
            self._ranks.carry_out(Forget(), lambda: None)

    @property
    def is_lost(self) -> bool:
        """Whether a process that shares the model was lost, so that it has to be loaded again."""
        return self._ranks is not None and self._ranks.lost is not None

    def close(self) -> None:
        """Free the model's memory, and end the processes that share it. Happens by itself when nobody has the engine
        any more; it cannot be used afterwards."""
        self._kept = {}
        # CUDA graphs hold operations that ranks share: they have to go before the ranks do.
        self._model.release()
        ranks, self._ranks = self._ranks, None
        if ranks is not None:
            ranks.close()

    def __del__(self) -> None:
        if getattr(self, "_ranks", None) is not None:
            self.close()

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        device: str = "auto",
        dtype: str = "bfloat16",
        check_weights: bool = False,
        quantization: str = "off",
        loras: Sequence[NamedLora] = (),
        enforce_eager: bool = False,
        offload: str = "auto",
        gpu_memory: int | None = None,
        size: str = "auto",
        tensor_parallel_size: int = 1,
        cfg_parallel_size: int = 1,
        gpus: int | Literal["all"] = 0,
        requests: Sequence[Request] | None = None,
        on_progress: Callable[[LoadProgress], None] | None = None,
        on_plan: Callable[[DownloadPlan], None] | None = None,
        on_download: Callable[[int, int], None] | None = None,
    ) -> "Engine":
        """Load a checkpoint folder, or a Hugging Face Hub id (downloaded when it is not in the cache).

        Args:
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            dtype: `bfloat16`, `float16` or `float32`; weights are cast while they are read.
            check_weights: refuse weights that hold NaN or infinity.
            quantization: `off`, `fp8` (eight-bit weights in the gen tower) or `fp8-all` (in both towers).
            loras: merged while loading; see `use_loras`.
            enforce_eager: compile nothing and capture no CUDA graphs.
            offload: what is on the device: `off` (everything), `module` (the towers in turn), `layers` (as many layers
                as fit), or the fastest of these that fits (`auto`); see `placement`.
            gpu_memory: bytes of the device's memory that may be used; all that is free if None.
            size: of the pictures to have room for, as in the settings. A request that needs more room than there is
                has the weights placed anew.
            tensor_parallel_size: ranks that share each network, every one of them holding a part.
            cfg_parallel_size: networks, each of which computes guidance branches of its own. All in all there are
                as many ranks as the product of both, on as many GPUs; on `cpu` they share the cores.
            gpus: how many ranks, or `all` GPUs, instead of these two sizes, which are then chosen; 0 leaves them. What
                reads and writes may be split over all of them then, and what draws be there several times.
            requests: those that the sizes are chosen for; None where nobody knows them yet. Others may follow.
            on_progress: called now and then with the bytes read so far. What it raises ends the loading.
            on_plan, on_download: told what a download will fetch, and how many bytes of how many it has fetched.

        Raises:
            SettingsError: some of this excludes each other.
            CheckpointError: the checkpoint is missing or damaged.
            RecommendationError: its recommended settings are damaged.
            DeviceError: there is no such device or number format, there are fewer GPUs than ranks, or the network
                cannot be shared by so many.
            RankError: a rank was lost while it was loading.
            DeviceMemoryError: the weights do not fit; or less than the smallest working set may be used.
        """
        # First what costs nothing: a mistake here should not come after a download or minutes of reading.
        compatible = partial(
            require_compatible,
            device=device,
            offload=offload,
            gpu_memory=gpu_memory,
            tensor_parallel_size=tensor_parallel_size,
            cfg_parallel_size=cfg_parallel_size,
        )
        compatible(gpus=gpus)
        where, number_format = resolve_device(device), resolve_dtype(dtype)
        towers = resolve_quantization(quantization, where, number_format)
        counted = count_gpus(gpus, where)
        drawn = [request.settings for request in requests or () if not isinstance(request, AnswerRequest)]
        if gpus == "all":
            compatible(gpus=counted, cache=next((each.cache for each in drawn if each.cache != "off"), "off"))
        ranks_wanted = counted or tensor_parallel_size * cfg_parallel_size
        require_ranks(ranks_wanted, where, "gpus" if counted else SIZES)
        folder = find_checkpoint(str(checkpoint), on_plan=on_plan, on_progress=on_download)
        order = Load(
            folder,
            dtype,
            check_weights,
            quantization,
            tuple(loras),
            enforce_eager,
            offload if ranks_wanted == 1 else "off",
            gpu_memory,
            size,
        )
        if ranks_wanted == 1:
            return cls.load_part(order, where, None, on_progress)
        config = read_config(folder)
        way = Arrangement(tensor_parallel_size, cfg_parallel_size)
        if counted:
            recommended = read_recommended(folder)
            sizes = {size, *(each.size for each in drawn)}
            demand = Demand.of(requests, max(_image_tokens(each, recommended) for each in sizes))
            way = arrange_model(counted, demand, config, where, number_format.itemsize, towers)
        require_split(config, way.tensor)
        ranks = Ranks(way.tensor, way.guidance, way.splits_und, where)

        def watched(now: LoadProgress) -> None:
            ranks.require_whole()  # nobody waits for the end of what will not be used
            if on_progress is not None:
                on_progress(now)

        try:
            groups = ranks.groups()
            engine = ranks.carry_out(order, lambda: cls.load_part(order, groups.device, groups, watched))
        except BaseException:
            ranks.close()
            raise
        engine._ranks = ranks
        if counted:
            engine._arrangement = way.describe()
        atexit.register(_close, weakref.ref(engine))
        return engine

    @classmethod
    def load_part(
        cls,
        order: Load,
        device: torch.device,
        groups: Groups | None,
        on_progress: Callable[[LoadProgress], None] | None = None,
    ) -> "Engine":
        """The engine of one rank, or of a process that has the model to itself; errors as for `load`."""
        folder, number_format = order.folder, resolve_dtype(order.dtype)
        config = read_config(folder)
        vocabulary = config.transformer.vocabulary
        recommended, tokenizer = read_recommended(folder), Tokenizer(folder)
        if len(tokenizer) > vocabulary:
            raise CheckpointError(
                f"{folder}: the tokenizer has {len(tokenizer)} tokens, the network knows {vocabulary}",
                "tokenizer and weights must belong together: fetch the checkpoint again",
            )
        towers = resolve_quantization(order.quantization, device, number_format)
        adapters = read_adapters(order.loras, config)
        model = PlacedNetwork(
            folder,
            config,
            device,
            number_format,
            towers,
            order.offload,
            order.gpu_memory,
            order.enforce_eager,
            groups,
        )
        tokens = _image_tokens(order.size, recommended)
        smaller = ", or --dtype bfloat16" if order.dtype == "float32" else ""
        hint = f"use --offload auto, a device with more memory{smaller}"
        if groups is not None:
            hint = f"use more GPUs, or ones with more memory{smaller}"
        with memory_errors(f"loading {folder}", lambda: hint):
            model.load(Work(tokens, USUAL_PREFIXES), adapters, order.check_weights, on_progress)
            return cls(model, tokenizer, recommended, groups)

    @property
    def placement(self) -> str:
        """Where the weights are and why, in words; empty where all of them are on the device, or lie as they were told
        to on several."""
        return self._arrangement or self._model.describe()

    def predicted_peak(self, work: Work) -> int:
        """Bytes of the device's memory that this work is predicted to take, the weights included."""
        return self._model.peak(work)

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """Have these LoRAs from now on, and no others; with none the weights are exactly what the files hold.

        Raises:
            CheckpointError: one cannot be read or does not fit, which changes nothing; or the checkpoint's files
                cannot be read any more.
            DeviceMemoryError: the matrices that are read anew do not fit beside the rest.

        A change that is cut off after it has begun, by these or by Ctrl-C, leaves weights that no request is carried
        out with, until another change succeeds.
        """
        if self._ranks is not None:
            self._ranks.carry_out(UseLoras(tuple(loras)), lambda: self._use_loras(loras))
        else:
            self._use_loras(loras)

    def _use_loras(self, loras: Sequence[NamedLora]) -> None:
        adapters = read_adapters(loras, self._model.config)
        self._kept = {}
        self._incomplete = True
        with memory_errors("changing LoRAs", lambda: "load the model with them: --lora"):
            self._model.change_adapters(adapters)
        self._incomplete = False

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        """Those that the weights hold."""
        return tuple(adapter.lora for adapter in self._model.adapters)

    @property
    def recommended(self) -> Recommended:
        """What the checkpoint says about sizes and settings, and the LoRAs about settings."""
        return overridden(self._recommended, [adapter.settings for adapter in self._model.adapters])

    def run(self, request: Request) -> Iterator[Event]:
        """Carry out a request, telling what happens as it happens; `Statistics` comes last.

        Closing the iterator between two events cancels the request and frees its memory, but for the prefixes that
        are kept; the engine stays usable. Results do not depend on what is kept: a picture comes out as the same
        bytes, an answer is the one to the same tokens, read in other portions.

        Raises:
            RequestError: the request cannot be carried out with this checkpoint.
            CheckpointError: a change of LoRAs was cut off.
            PictureError: an input picture cannot be used.
            DeviceMemoryError: it does not fit in the device's memory.
            NumericsError: the result came out as NaN or infinity.
            RankError: a process that shares the model was lost: see `is_lost`.
        """
        if self._ranks is not None:
            self._ranks.require_whole()
        yield from map(Notice, self._model.take_notes())
        if self._ranks is None:
            yield from self.perform(request)
            return
        if self._uneven:
            self._kept = {}
        try:
            yield from self._ranks.lead(Run(request, self._uneven), self.perform(request))
        finally:
            # One rank may have had no memory to keep what another one keeps; they would then read in other portions.
            kept, size = {0: self.kept_lengths, **self._ranks.results}, self._read_together
            self._uneven = any(kept[rank] != kept[rank - rank % size] for rank in kept)

    def perform(self, request: Request) -> Iterator[Event]:
        """What each rank does of `run`."""
        if self._incomplete:
            raise CheckpointError("a change of LoRAs was cut off, and left incomplete weights", "change them again")
        try:
            with memory_errors("this request", self._advice):
                if isinstance(request, AnswerRequest):
                    yield from self._answer(request)
                else:
                    yield from self._draw(request)
        except DeviceMemoryError:
            self._kept = {}
            raise

    def _advice(self) -> str:
        return self._model.advice(self._work)

    def _make_room(self, work: Work) -> Iterator[Event]:
        """Place the weights anew if a request needs more room than there is."""
        self._work = work
        if self._model.fits(work):
            return
        self._kept = {}
        self._model.release()
        self._model.load(work, self._model.adapters)
        yield Notice(f"placed anew, for more room: {self.placement}")

    def _draw(self, request: GenerateRequest | EditRequest) -> Iterator[Event]:
        """Generate and edit: read the branches' prefixes, think, then denoise each picture."""
        settings = request.settings
        layers = self._model.config.transformer.layers
        caching = StepCaching.of(settings.cache_options, layers) if settings.cache_options else None
        if caching and self._model.is_shared:
            raise RequestError("caching is for one GPU: each would decide for itself", "use --cache off")
        images = tuple(map(as_rgb, request.images)) if isinstance(request, EditRequest) else ()
        first_size = images[0].size if images else None
        size = resolve_size(settings.size, self.recommended.trained_sizes, first_size)
        for adapter in self._model.adapters:
            yield from _mismatch(adapter, settings)
        yield from _idle_cache_options(settings)
        if settings.size != "auto":  # an edit that follows its picture's aspect was not asked for a size
            yield from self._size_notice(size)
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
        yield from self._make_room(Work(tokens, tuple(rooms), kept_states))
        lengths = {branch: len(sequence) for branch, sequence in sequences.items()}
        meter = Meter(self._model.runtime, self._model.config)
        with self._keeping() as kept:
            # Where there are several networks each of them thinks for itself: that costs no time, and all of them go
            # on from the same words.
            own = {*self._model.runtime.peers.reads(tuple(texts)), *(["condition"] if settings.think else [])}
            # Whole prefixes only: reading one in other portions rounds otherwise, and the bytes of a picture would
            # depend on what was asked before.
            room = self._model.runtime.room_behind(tokens)
            yield from self._read_branches(sequences, pictures, room, meter, kept, own, partly=False)
            prefixes = {branch: each.prefix.fork() for branch, each in kept.items()}
            think_text = None
            if settings.think:
                think_text = yield from self._think(prefixes["condition"], settings.max_think_tokens, room, meter)
                lengths["condition"] = prefixes["condition"].cache.length
            with torch.inference_mode():
                canvases = self._model.runtime.canvases(prefixes, tokens)
            for index in range(settings.num_images):
                seed = settings.seed + index
                cache = StepCache(caching) if caching else None
                clock, before = LayerClock(layers), meter.denoising.seconds
                steps = denoise(self._model.runtime, canvases, guidance, size, seed, settings, cache)
                for number, step in enumerate(meter.denoising.around(steps), start=1):
                    meter.count_step(step.layers, lengths, tokens)
                    clock.count(step.layers, meter.denoising.seconds - before)
                    before = meter.denoising.seconds
                    yield DenoisingStep(
                        index,
                        settings.num_images,
                        number,
                        settings.num_steps,
                        step.time,
                        step.predicted,
                        step.velocity,
                        self._look,
                    )
                picture = step_picture(step.tokens, size).float().cpu()
                _require_finite(picture, "picture", self.dtype)
                made_with = settings.model_copy(update={"size": format_size(size), "seed": seed, "num_images": 1})
                summary = clock.summary(cache.branches()) if cache else None
                yield Picture(index, settings.num_images, to_image(picture), picture, made_with, think_text, summary)
        yield meter.statistics()

    def _look(self, picture: Tensor, longer_side: int | None) -> Image.Image:
        """`to_image`, of a picture that is there; it does not wait for what the device has been asked for since."""
        if self._aside is None:
            return to_image(picture, longer_side)
        with torch.cuda.stream(self._aside):
            return to_image(picture, longer_side)

    def _think(self, prefix: Prefix, budget: int, room: int, meter: Meter) -> Generator[Event, None, str]:
        """Greedy text until the model closes it; leaves the prefix ready for a picture, with room for its tokens.
        Returns the text."""
        stop = (self._tokenizer.think_end, self._tokenizer.end_of_turn)
        written = yield from self._write(prefix, greedy, budget, stop, ThinkToken, meter)
        # The closing tag belongs to the sequence; an ended turn does not, or the picture would come after it.
        kept = [] if written.last == self._tokenizer.end_of_turn else [written.last]
        rest = kept + self._tokenizer.encode(prompts.AFTER_THINK)
        with torch.inference_mode():
            prefix.cache.reserve(len(rest) + room)
            extend_prefix(self._model.network, prefix, rest)
        yield ThinkText(written.text, written.token_ids, written.finish, meter.text.seconds)
        return written.text

    def _answer(self, request: AnswerRequest) -> Iterator[Event]:
        """Describe and chat."""
        settings = request.settings
        pictures = [prepare_picture(as_rgb(image), self.recommended.answer_input) for image in request.images]
        turns = [*request.history, Message("user", request.prompt)]
        texts: dict[Branch, str] = {"condition": prompts.answer_prompt(turns, len(pictures), request.system)}
        room = min(settings.max_tokens, CACHE_BLOCK)
        stop = (self._tokenizer.end_of_turn,)
        choose = chooser(settings, self._device)
        sequences = self._sequences(texts, pictures)
        yield from self._make_room(Work(0, (len(sequences["condition"]) + settings.max_tokens,)))
        meter = Meter(self._model.runtime, self._model.config)
        with self._keeping() as kept:
            yield from self._read_branches(sequences, pictures, room, meter, kept, set(texts), partly=True)
            prefix = kept["condition"].prefix
            written = yield from self._write(prefix, choose, settings.max_tokens, stop, TextToken, meter)
        yield Answer(written.text, written.token_ids, written.finish, written.first_logits)
        yield meter.statistics()

    def _write(
        self,
        prefix: Prefix,
        choose: Choose,
        budget: int,
        stop: Collection[int],
        event: type[ThinkToken] | type[TextToken],
        meter: Meter,
    ) -> Generator[Event, None, "_Written"]:
        """Write on from a prefix, telling each new token as an event of this kind; those of `stop` are no text."""
        first_logits: list[Tensor] = []

        def choose_checked(logits: Tensor, tokens: list[int]) -> Tensor:
            if not first_logits:
                first_logits.append(logits.cpu())
                _require_finite(first_logits[0], "text", self.dtype)
            return choose(logits, tokens)

        stream = StreamDecoder(self._tokenizer)
        ids: list[int] = []
        last = -1
        text = ""  # of the newest token, which is told when the next one is there: if it is the last, more may belong
        for last in meter.text.around(decode(self._model.runtime, prefix, choose_checked, budget, stop)):
            if last not in stop:
                if ids:
                    yield event(ids[-1], text)
                ids.append(last)
                text = stream.push(last)
        if ids:
            yield event(ids[-1], text + stream.flush())
        meter.count_tokens(len(ids), prefix.cache.length)
        finish: Literal["end", "length"] = "end" if last in stop else "length"
        return _Written(self._tokenizer.decode(ids), tuple(ids), last, finish, first_logits[0])

    @contextmanager
    def _keeping(self) -> Iterator[dict[Branch, KeptPrefix]]:
        """A place for the prefixes that a request reads. They are kept if it is carried out, or given up between two
        events; after an error they may be half-written, and nothing is kept."""
        prefixes: dict[Branch, KeptPrefix] = {}
        try:
            yield prefixes
        except GeneratorExit:
            self._keep(prefixes)
            raise
        self._keep(prefixes)

    def _keep(self, prefixes: dict[Branch, KeptPrefix]) -> None:
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
        meter: Meter,
        prefixes: dict[Branch, KeptPrefix],
        own: Collection[str],
        *,
        partly: bool,
    ) -> Iterator[Event]:
        """Read the prefix of each branch into `prefixes`, with room behind it, except what the last request has read.

        Args:
            pictures: one that several branches read is embedded once.
            own: branches that this rank reads; of the others it is told that they are read, but not how long it took,
                nor what was reused.
            partly: see `Reading`.
        """
        clock = time.perf_counter()
        identities = [PictureIdentity.of(picture) for picture in pictures]
        kept, self._kept = self._kept, {}
        readings: dict[Branch, Reading] = {}
        for branch, sequence in sequences.items():
            seen = identities if branch != "unconditional" else []
            readings[branch] = Reading(sequence, seen, kept.pop(branch, None), partly=partly)
        kept.clear()
        most = max((reading.rest.pictures for branch, reading in readings.items() if branch in own), default=0)
        with torch.inference_mode():
            embedded = [embed_picture(self._model.network, picture) for picture in pictures[len(pictures) - most :]]
        for branch, reading in readings.items():
            if branch not in own:
                yield PrefixRead(branch, len(reading.sequence), reading.sequence.image_tokens, 0.0)
                continue
            unread = embedded[len(embedded) - reading.rest.pictures :]
            with torch.inference_mode():
                prefixes[branch] = reading.read(self._model.network, unread, room)
            synchronize(self._device)
            meter.prefix_tokens += len(reading.rest)
            whole, seconds = reading.sequence, time.perf_counter() - clock
            yield PrefixRead(branch, len(whole), whole.image_tokens, seconds, reading.reused)
            clock = time.perf_counter()

    def _size_notice(self, size: Size) -> Iterator[Event]:
        trained = self.recommended.trained_sizes
        if size not in trained:
            nearest = format_size(nearest_trained(size, trained))
            yield Notice(f"{format_size(size)} is no size this model was trained on; the nearest one is {nearest}")


def _mismatch(adapter: Adapter, settings: ImageSettings) -> Iterator[Event]:
    """A LoRA's own settings that a request does not have."""
    made_for = {name: value for name, value in adapter.settings.items() if name in ImageSettings.model_fields}
    others = {name: value for name, value in made_for.items() if getattr(settings, name) != value}
    if others:
        wanted = ", ".join(f"{name} {value}" for name, value in others.items())
        given = ", ".join(f"{getattr(settings, name)}" for name in others)
        yield Notice(f"the LoRA {adapter.lora.name} is made for {wanted}, not {given}")


def _idle_cache_options(settings: ImageSettings) -> Iterator[Event]:
    """What is said about a cache that is off."""
    names = (f"cache_{field.name}" for field in fields(CacheOptions))
    idle = [name for name in names if getattr(settings, name) is not None]
    if settings.cache == "off" and idle:
        yield Notice(f"{', '.join(idle)}: no effect while cache is off")


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


def _image_tokens(size: str, recommended: Recommended) -> int:
    """Tokens of a picture of this size, as far as it is known before there is one."""
    width, height = resolve_size(size, recommended.trained_sizes, None)
    return width * height // TOKEN_PIXELS**2


def _close(engine: "weakref.ref[Engine]") -> None:
    """At the end of the program."""
    if (alive := engine()) is not None:
        alive.close()


@dataclass(frozen=True)
class _Written:
    """Text that has been written: `last` is the token it ended with, also where that is no part of the text."""

    text: str
    token_ids: tuple[int, ...]
    last: int
    finish: Literal["end", "length"]
    first_logits: Tensor


def _require_finite(values: Tensor, what: str, dtype: str) -> None:
    """A picture of NaN would come out black and a text as one token over and over, and nobody would know why."""
    if not torch.isfinite(values).all():
        others = {"float16": "try --dtype bfloat16 or float32; ", "bfloat16": "try --dtype float32; "}
        raise NumericsError(
            f"the {what} came out as NaN or infinity in {dtype}",
            others.get(dtype, "") + "--check-weights tells whether the weights are damaged",
        )
