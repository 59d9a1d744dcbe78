"""The runner: one process's loaded model, which runs requests."""

from collections.abc import Callable, Iterator, Sequence

import torch

from config.recommended import Recommended, read_recommended
from config.sizes import TOKEN_PIXELS, fit_pixels, format_size, resolve_interleave_size, resolve_size
from model.checkpoint.lora import read_adapters
from model.checkpoint.lora_files import override_settings
from model.checkpoint.named_lora import NamedLora, parse_loras
from model.devices import new_stream
from model.errors import CheckpointError, DeviceMemoryError
from model.events import Event, LoadProgress
from model.inputs.tokenizer import Tokenizer
from model.loaded_model import LoadedModel
from model.memory.errors import memory_errors
from model.memory.estimate import USUAL_PREFIXES, Workload
from model.network.configuration import read_config
from model.parallel.collectives import ProcessGroups
from model.parallel.commands import Load
from model.requests import AnswerRequest, EditRequest, GenerateRequest, InterleaveRequest, Request, writes_text
from model.sampling.prefix_cache import PrefixCache
from model.tasks.answer import answer
from model.tasks.context import TaskContext
from model.tasks.draw import draw
from model.tasks.interleave import interleave
from model.timings import PLACE, process_timings
from model.trace import Trace

LETTERS_PER_TOKEN = 2
"""Fewer than usual. If a text has more tokens, the weights may have to make room for the request."""
TEMPLATE_TOKENS = 64
"""Tokens of a conversation that no one typed."""


class Runner:
    """One process's loaded model, whole or a rank's shard of it, which runs requests.

    Attributes:
        prefix_cache: the prefixes of the last request.
    """

    def __init__(self, model: LoadedModel, tokenizer: Tokenizer, recommended: Recommended) -> None:
        """Use `Runner.load`."""
        self.model = model
        self.prefix_cache = PrefixCache()
        self._tokenizer = tokenizer
        self._recommended = recommended
        self._weights_are_incomplete = False
        self._preview_stream = new_stream(model.device)

    @classmethod
    def load(
        cls,
        command: Load,
        device: torch.device,
        groups: ProcessGroups | None,
        on_progress: Callable[[LoadProgress], None] | None = None,
    ) -> "Runner":
        """Load this process's part of a checkpoint. Errors are those of `Engine.load`.

        Args:
            groups: the process groups of the ranks that share the model; None if no other rank does.
        """
        with process_timings.phase(PLACE):
            return cls._load(command, device, groups, on_progress)

    @classmethod
    def _load(
        cls,
        command: Load,
        device: torch.device,
        groups: ProcessGroups | None,
        on_progress: Callable[[LoadProgress], None] | None,
    ) -> "Runner":
        folder, settings = command.folder, command.settings
        config = read_config(folder)
        vocabulary = config.transformer.vocabulary
        recommended, tokenizer = read_recommended(folder), Tokenizer(folder)
        if len(tokenizer) > vocabulary:
            raise CheckpointError(
                f"{folder}: the tokenizer has {len(tokenizer)} tokens, but the network knows only {vocabulary}",
                "tokenizer and weights must belong together: download the checkpoint again",
            )
        model = LoadedModel(folder, config, device, settings, groups)
        adapters = read_adapters(parse_loras(settings.lora), config)
        if command.first_use.draws:
            workload = Workload(image_tokens(command.size, recommended), USUAL_PREFIXES)
        else:
            workload = Workload(0, (command.text_tokens,))
        smaller = ", or `dtype=bfloat16`" if settings.dtype == "float32" else ""
        hint = f"use `offload=auto`, a device with more memory{smaller}"
        if groups is not None:
            hint = f"use more GPUs, or ones with more memory{smaller}"
        with memory_errors(f"loading {folder}", lambda: hint):
            size = resolve_size(command.size, recommended.trained_sizes, None)
            model.load(workload, adapters, settings.check_weights, on_progress, (command.first_use, size))
        return cls(model, tokenizer, recommended)

    @property
    def dtype(self) -> str:
        """See `LocalEngine.dtype`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def recommended(self) -> Recommended:
        """The checkpoint's recommended settings, with those of the merged LoRAs."""
        return override_settings(self._recommended, [adapter.settings for adapter in self.model.adapters])

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        """See `Engine.loras`."""
        return tuple(adapter.lora for adapter in self.model.adapters)

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """See `Engine.use_loras`."""
        adapters = read_adapters(loras, self.model.config)
        self.prefix_cache.clear()
        self._weights_are_incomplete = True
        with memory_errors("changing LoRAs", lambda: "load the model with them: `lora`"):
            self.model.replace_adapters(adapters)
        self._weights_are_incomplete = False

    def run(self, request: Request, trace: Trace | None = None) -> Iterator[Event]:
        """Run a request and yield its events. Arguments and errors are those of `LocalEngine.run`."""
        if self._weights_are_incomplete:
            raise CheckpointError(
                "an earlier change of LoRAs was interrupted, so the weights are incomplete", "change the LoRAs again"
            )
        if writes_text(request):
            self.model.require_head()
        context = TaskContext(
            self.model, self._tokenizer, self.recommended, self.prefix_cache, self._preview_stream, trace
        )
        try:
            with memory_errors("this request", context.advice):
                match request:
                    case AnswerRequest():
                        yield from answer(context, request)
                    case InterleaveRequest():
                        yield from interleave(context, request)
                    case _:
                        yield from draw(context, request)
        except DeviceMemoryError:
            self.prefix_cache.clear()
            raise

    def close(self) -> None:
        """Free the model's memory. The runner cannot be used afterwards."""
        self.prefix_cache.clear()
        self.model.release()


def picture_size(request: GenerateRequest | EditRequest | InterleaveRequest, recommended: Recommended) -> str:
    """Return the `size` setting of a request; for an interleaved answer in pixels, because its `auto` differs."""
    if not isinstance(request, InterleaveRequest):
        return request.settings.size
    first = next((image.size for image in request.new_images), None)
    trained = recommended.interleave.trained_sizes
    return format_size(resolve_interleave_size(request.settings.size, trained, first))


def image_tokens(size: str, recommended: Recommended) -> int:
    """Return the tokens of a picture of this `size` setting, if no input picture changes it."""
    width, height = resolve_size(size, recommended.trained_sizes, None)
    return width * height // TOKEN_PIXELS**2


def text_tokens(request: AnswerRequest, recommended: Recommended) -> int:
    """Return about the most tokens that a conversation and its answer have, before its text is tokenized."""
    letters = sum(len(turn.text) for turn in request.history) + len(request.prompt) + len(request.system)
    limits = recommended.answer_input
    sizes = [fit_pixels(image.size, limits.min, limits.max) for image in request.images]
    images = sum(width * height // TOKEN_PIXELS**2 for width, height in sizes)
    return images + letters // LETTERS_PER_TOKEN + TEMPLATE_TOKENS + request.settings.max_tokens
