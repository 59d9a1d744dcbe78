"""The prefill of a request's branches, which reuses tokens of the last request's prefixes."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from config.sizes import TOKEN_PIXELS
from model.devices import synchronize
from model.events import Branch, Event, PrefixRead
from model.inputs.token_sequence import TokenSequence, build_sequence
from model.memory.errors import ran_out_of_memory
from model.sampling.prefill import embed_image
from model.sampling.prefix_cache import CachedPrefix, ImageIdentity, Prefill, PrefixCache
from model.tasks.context import TaskContext
from model.tasks.statistics import StatisticsRecorder


def build_sequences(
    context: TaskContext, texts: Mapping[Branch, str], pixels: Sequence[Tensor]
) -> dict[Branch, TokenSequence]:
    """Tokenize the branches' texts with the input images in them; the unconditional branch has no images.

    Args:
        pixels: the input images, from `prepare_image`.
    """
    grids = [(image.shape[-2] // TOKEN_PIXELS, image.shape[-1] // TOKEN_PIXELS) for image in pixels]
    return {
        branch: build_sequence(
            text, grids if branch != "unconditional" else [], context.tokenizer, context.model.device
        )
        for branch, text in texts.items()
    }


@contextmanager
def caching_prefixes(prefix_cache: PrefixCache) -> Iterator[dict[Branch, CachedPrefix]]:
    """Provide a dictionary for a request's prefixes, and store them in the cache when the request ends.

    They are also stored when the request is cancelled between two events. After an error a prefix may be incomplete,
    so none is stored.
    """
    prefixes: dict[Branch, CachedPrefix] = {}
    try:
        yield prefixes
    except GeneratorExit:
        _store(prefix_cache, prefixes)
        raise
    _store(prefix_cache, prefixes)


def _store(prefix_cache: PrefixCache, prefixes: dict[Branch, CachedPrefix]) -> None:
    try:
        with torch.inference_mode():
            prefix_cache.store(prefixes)
    except (MemoryError, RuntimeError) as error:
        # The cache only saves time, so the request succeeds without it.
        if not ran_out_of_memory(error):
            raise


def prefill_branches(
    context: TaskContext,
    sequences: Mapping[Branch, TokenSequence],
    pixels: Sequence[Tensor],
    recorder: StatisticsRecorder,
    prefixes: dict[Branch, CachedPrefix],
    *,
    reserve: int,
    local: Collection[Branch],
    allow_partial: bool,
) -> Iterator[Event]:
    """Prefill each branch into `prefixes` and yield its `PrefixRead`. Tokens in the prefix cache are reused.

    A CPU prefills a long text in chunks, and yields a `Waiting` after each, so that the request can be cancelled.

    Args:
        pixels: the input images. An image that several branches need is embedded once.
        prefixes: an empty dictionary, from `caching_prefixes`.
        reserve: positions to reserve in the KV cache after each prefix.
        local: branches that this rank prefills. The events of the others have no time and no reused tokens.
        allow_partial: see `Prefill`.
    """
    model = context.model
    clock = time.perf_counter()
    identities = [ImageIdentity.of(image) for image in pixels]
    cached = context.prefix_cache.take()
    prefills: dict[Branch, Prefill] = {}
    for branch, sequence in sequences.items():
        images = identities if branch != "unconditional" else []
        prefills[branch] = Prefill(sequence, images, cached.pop(branch, None), allow_partial=allow_partial)
    cached.clear()  # free prefixes that cannot be reused before new memory is allocated
    most = max((prefill.rest.images for branch, prefill in prefills.items() if branch in local), default=0)
    with torch.inference_mode():
        embedded = [embed_image(model.network, image) for image in pixels[len(pixels) - most :]]
    for branch, prefill in prefills.items():
        whole = prefill.sequence
        if branch not in local:
            yield PrefixRead(branch, len(whole), whole.image_tokens, 0.0)
            continue
        images_left = embedded[len(embedded) - prefill.rest.images :]
        prefixes[branch] = yield from prefill.run(model.network, images_left, reserve, model.backend.prefills_in_chunks)
        synchronize(model.device)
        recorder.prefix_tokens += len(prefill.rest)
        yield PrefixRead(branch, len(whole), whole.image_tokens, time.perf_counter() - clock, prefill.reused)
        clock = time.perf_counter()
