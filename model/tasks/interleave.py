"""Interleaved answers: the model writes, draws, looks at what it has drawn, and writes on."""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from config.sizes import format_size, resolve_interleave_size
from model.events import Branch, Event, InterleavedAnswer, Notice, PicturePart
from model.image_files import as_rgb
from model.inputs import prompts
from model.inputs.image_tensors import prepare_drawn, prepare_image
from model.inputs.token_sequence import build_sequence
from model.memory.estimate import Workload
from model.requests import InterleaveRequest, Message, count_images
from model.sampling.decode import CACHE_GROWTH, Sampler
from model.sampling.denoise import kept_pictures
from model.sampling.guidance import Guidance, edit_guidance
from model.sampling.prefill import Prefix, embed_image, extend_prefix, prefill
from model.sampling.schedule import time_grid
from model.tasks.context import TaskContext
from model.tasks.draw import PictureSeries, draw_picture, step_cache_config
from model.tasks.interleaved_text import InterleavedText
from model.tasks.notices import drawing_notices, guidance_notices
from model.tasks.prefixes import build_sequences, caching_prefixes, prefill_branches
from model.tasks.statistics import StatisticsRecorder


def interleave(context: TaskContext, request: InterleaveRequest, sampler: Sampler | None = None) -> Iterator[Event]:
    """Run a request for an interleaved answer: text, until the model opens a picture; the picture; more text.

    Text follows the condition branch, which contains everything: the prompt, the answer's text and its pictures. The
    images branch contains pictures only, and the unconditional branch neither. A picture is drawn after the branches
    that its guidance needs.

    Args:
        sampler: picks the tokens, for benchmarks; None for the one of the request's settings.

    Raises:
        RequestError: the request uses a step cache and several ranks share the model.
    """
    settings, text_settings, model = request.settings, request.text_settings, context.model
    step_cache = step_cache_config(context, settings)
    images = tuple(map(as_rgb, request.images))
    recommended = context.recommended.for_interleaving()
    new = images[count_images(request.history) :]
    size = resolve_interleave_size(settings.size, recommended.trained_sizes, new[0].size if new else None)
    yield from drawing_notices(settings, size, recommended, model.adapters)
    pixels = [prepare_image(image, recommended.edit_limits(len(images))) for image in images]
    guidance = edit_guidance(settings)
    texts = _texts(request, guidance)
    yield from guidance_notices(settings, guidance, texts)
    sequences = build_sequences(context, texts, pixels)
    series = PictureSeries(
        size,
        guidance,
        settings,
        step_cache,
        text_settings.max_images,
        request.preview_every,
        request.preview_size,
    )
    lengths = {branch: len(sequence) for branch, sequence in sequences.items()}
    longest = max(*lengths.values(), series.image_tokens + 2)
    yield from context.reserve_memory(_workload(series, lengths, text_settings.max_tokens, longest))
    recorder = StatisticsRecorder(model)
    with caching_prefixes(context.prefix_cache) as cached:
        # With several ranks, each rank writes the text. That takes no extra time, and all get the same tokens.
        local = {"condition", *model.backend.group.prefix_branches(tuple(sequences))}
        # As for other pictures, only whole prefixes are reused: earlier requests must not change the bytes.
        yield from prefill_branches(
            context, sequences, pixels, recorder, cached, reserve=CACHE_GROWTH, local=local, allow_partial=False
        )
        prefixes = {branch: each.prefix.fork() for branch, each in cached.items()}
        branches = _Branches(context, prefixes, lengths, series.image_tokens, recorder)
        text = InterleavedText(context, text_settings, recorder, sampler, sequences["condition"].ids.tolist())
        pictures = 0
        finish: Literal["end", "length", "images"] | None
        while True:
            finish = yield from text.write(prefixes["condition"])
            if finish is None and pictures == series.count:
                finish = "images"
            if finish is not None:
                break
            lengths["condition"] = prefixes["condition"].cache.length
            # The caches grow with each picture, so the weights may have to make room now.
            yield from context.reserve_memory(_workload(series, lengths, text.remaining_tokens, longest))
            with torch.inference_mode():
                branches.open_picture()
                denoise_states = model.backend.denoise_states(prefixes, series.image_tokens)
            drawn = yield from draw_picture(context, series, pictures, denoise_states, lengths, None, recorder)
            del denoise_states  # they may have caches of their own
            text.parts.append(PicturePart(pictures, settings.seed + pictures, format_size(size)))
            pictures += 1
            with torch.inference_mode():
                branches.read_picture(drawn)
    yield from text.close(finish)
    if not pictures:
        ended = "`max_tokens` was reached first" if finish == "length" else "the model ended it without opening one"
        yield Notice(f"the answer has no picture: {ended}")
    yield InterleavedAnswer(tuple(text.parts), finish)
    yield recorder.statistics()


class _Branches:
    """The branches of an interleaved answer, which grow with its pictures.

    The images branch reads a picture only when the next one is opened. So the text after a picture begins earlier, and
    the last picture is not read without need.
    """

    def __init__(
        self,
        context: TaskContext,
        prefixes: dict[Branch, Prefix],
        lengths: dict[Branch, int],
        image_tokens: int,
        recorder: StatisticsRecorder,
    ) -> None:
        """
        Args:
            prefixes: the prefixes of this rank's branches, which this class replaces by longer ones.
            lengths: tokens of all branches, also of branches on other ranks; this class updates them.
            image_tokens: tokens of each picture.
        """
        self._context, self._recorder = context, recorder
        self._prefixes, self._lengths = prefixes, lengths
        self._image_tokens = image_tokens
        self._unread: Tensor | None = None  # the last picture, which the images branch has not read

    def open_picture(self) -> None:
        """Read `<img>`, so that a picture can be drawn after the branches."""
        # Also for the tokens after the picture, so that the caches are reallocated once.
        room = self._context.model.backend.room_for_picture(self._image_tokens + CACHE_GROWTH)
        self._extend("condition", room)
        unread, self._unread = self._unread, None
        if "images" in self._prefixes and unread is None:
            self._extend("images", room)
        elif "images" in self._prefixes and unread is not None:
            self._read("images", unread, prompts.IMAGE_START, room)
        self._lengths["condition"] = self._prefixes["condition"].cache.length
        if "images" in self._lengths:
            self._lengths["images"] += 1

    def read_picture(self, drawn: Tensor) -> None:
        """Read the picture that has been drawn, as it is, and `</img>`.

        Args:
            drawn: (1, 3, H, W), about −1..1, in the model's dtype.
        """
        embedded = embed_image(self._context.model.network, prepare_drawn(drawn))
        self._read("condition", embedded, "", CACHE_GROWTH)
        if "images" in self._lengths:
            self._unread = embedded
            self._lengths["images"] += self._image_tokens + 1

    def _extend(self, branch: Branch, room: int) -> None:
        """Read `<img>` into a branch, and reserve room after it."""
        prefix = self._prefixes[branch]
        prefix.cache.reserve(1 + room)
        extend_prefix(self._context.model.network, prefix, [self._context.tokenizer.image_start])

    def _read(self, branch: Branch, picture: Tensor, following: str, room: int) -> None:
        """Read a picture, `</img>` and the text that follows it into a branch, which ends with the picture's `<img>`.

        Args:
            picture: from `embed_image`, (rows, columns, hidden_size).
            room: positions to reserve in the KV cache after them.
        """
        model, prefix = self._context.model, self._prefixes[branch]
        text, grids = prompts.IMAGE_SLOT + following, [(picture.shape[0], picture.shape[1])]
        first_position = prefix.next_position - 1
        sequence = build_sequence(text, grids, self._context.tokenizer, model.device, first_position).after(1)
        self._prefixes[branch] = prefill(model.network, sequence, [picture], room, prefix.cache)
        self._recorder.prefix_tokens += len(sequence)


def _texts(request: InterleaveRequest, guidance: Guidance) -> dict[Branch, str]:
    """Return the prompts of the branches that any step needs."""
    settings, images = request.settings, len(request.images)
    turns = [*request.history, Message("user", request.prompt)]
    texts: dict[Branch, str] = {
        "condition": prompts.interleave_prompt(turns, images, request.system, settings.think),
        "images": prompts.images_prompt(images, ""),
        "unconditional": prompts.unconditional_prompt(settings.negative),
    }
    starts = time_grid(settings.num_steps, settings.timestep_shift)[:-1]
    return {branch: texts[branch] for branch in guidance.ever_needed(starts)}


def _workload(
    series: PictureSeries, lengths: Mapping[Branch, int], remaining_tokens: int, longest_read: int
) -> Workload:
    """Return the workload of the next picture and of all text that may still be written."""
    prefixes = {**lengths, "condition": lengths["condition"] + remaining_tokens}
    cached_states = series.step_cache.states_per_branch if series.step_cache else 0
    kept = kept_pictures(series.settings, len(lengths))
    return Workload(series.image_tokens, tuple(prefixes.values()), cached_states, longest_read, kept)
