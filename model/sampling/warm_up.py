"""Warm-up: the passes of a first request run once while the weights load, so that their kernels are loaded by then.

A process loads each kernel from its library, or from the cache of compiled kernels, when the kernel first runs. For an
8B model on a GPU this takes a second, in which a request would wait.
"""

import threading
from collections.abc import Callable, Iterator

import torch

from config.settings import ImageSettings
from config.sizes import TOKEN_PIXELS, Size
from model.events import Branch
from model.inputs.token_sequence import TokenSequence
from model.network.attention import Segment
from model.network.rope import text_positions
from model.requests import FirstUse
from model.sampling.backend import Backend
from model.sampling.decode import decode, greedy
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefill import Prefix, prefill

PROMPT_TOKENS: dict[Branch, int] = {"condition": 512, "unconditional": 16}
"""Tokens of each branch. Libraries choose kernels by the number of rows, so these are those of a usual request."""
GUIDED_SCALE = 4.0
DECODED_TOKENS = 3
"""The first token compiles and captures the pass, and the others replay it."""


def warm_up(backend: Backend, use: FirstUse, size: Size, cancelled: threading.Event) -> None:
    """Run each pass of a first request once. The weights may still be uninitialized, since results are discarded.

    Do nothing if a pass needs results on the host. Errors are ignored: the first request runs
    the same passes, and reports the error.

    Args:
        size: width and height of the picture in pixels.
        cancelled: ends the warm-up before its next pass.
    """
    if not (backend.denoises_async and backend.decodes_async):
        return
    try:
        for run in _passes(backend, use, size):
            if cancelled.is_set():
                return
            run()
    except Exception:
        return


def _passes(backend: Backend, use: FirstUse, size: Size) -> Iterator[Callable[[], object]]:
    """Yield the passes one by one. They run on the backend's device."""
    guidance = generate_guidance(ImageSettings(cfg_scale=GUIDED_SCALE if use.guided else 1.0))
    tokens = size[0] * size[1] // TOKEN_PIXELS**2
    room = backend.room_for_picture(tokens) if use.draws else DECODED_TOKENS
    prefixes: dict[Branch, Prefix] = {}
    for branch in guidance.branches if use.draws else ("condition",):

        def read(branch: Branch = branch) -> None:
            prefixes[branch] = _prefix(backend, PROMPT_TOKENS[branch], room)

        yield read
    if use.writes:
        yield lambda: list(decode(backend, prefixes["condition"].fork(), greedy, DECODED_TOKENS, ()))
    if use.draws:
        settings = ImageSettings(num_steps=1)

        def step() -> None:
            with torch.inference_mode():
                states = backend.denoise_states(prefixes, tokens)
            for each in denoise(backend, states, guidance, size, 0, settings):
                each.wait()

        yield step


@torch.inference_mode()
def _prefix(backend: Backend, count: int, room: int) -> Prefix:
    """Prefill token 0, `count` times, and keep `room` positions free."""
    device = backend.network.device
    ids = torch.zeros(count, dtype=torch.long, device=device)
    sequence = TokenSequence(ids, text_positions(0, count, device), (Segment(count, causal=True),), count)
    prefix = prefill(backend.network, sequence, [], room)
    backend.logits(prefix)
    return prefix
