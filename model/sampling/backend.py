"""How a network runs: its two passes that are repeated, a step's prediction and the reading of one token."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from model.devices import host_memory
from model.events import Branch
from model.network.cache import ScratchCache
from model.network.sensenova import SenseNovaU1
from model.sampling.prefill import DenoiseState, Prefix, read_text


class RankGroup:
    """Other processes that run the same passes: here there are none; `model.parallel` has those of several GPUs.

    All of them call the same methods in the same order.

    Attributes:
        split_heads: whether what reads and writes is split over more of them than what draws. Each then reads every
            branch, and has of it a part of the heads that it draws with.
    """

    split_heads = False

    def broadcast(self, numbers: Tensor) -> Tensor:
        """What the first process has, in all of them."""
        return numbers

    def own(self, branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
        """Those of a step's branches that this process computes, perhaps none. A picture's first branch is its first
        branch in every step: one that is needed alone is computed where it always is."""
        return branches

    def reads(self, branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
        """Those whose prefixes this process reads: the ones it computes, or all of them."""
        return branches if self.split_heads else self.own(branches)

    def denoise_states(self, prefixes: Mapping[Branch, Prefix], image_tokens: int) -> Mapping[Branch, DenoiseState]:
        """What the own branches are drawn on, with room for so many tokens of a picture: the prefixes themselves,
        unless heads are split."""
        for prefix in prefixes.values():
            prefix.cache.reserve(image_tokens)
        return prefixes

    def all_gather(self, branches: tuple[Branch, ...], predicted: Tensor) -> Tensor:
        """The predictions of the own branches, (own, L, D), in their order → of all, (branches, L, D)."""
        return predicted


class Backend:
    """Runs a network as it is written; `model.backends` has one for CUDA.

    Attributes:
        network: what is run.
        peers: other processes that do the same.
        denoises_async, decodes_async: whether a step's prediction, or the reading of a token, returns before the device
            has done it, so that the next one can be asked for.
        layer_by_layer: whether all branches of a step go through a layer before the next one, whose weights may have to
            be brought first. Keys and values of a picture's tokens are then kept of one layer only. The numbers are the
            same.
        note: what a user should know about the first run, or None.
    """

    denoises_async = decodes_async = False
    layer_by_layer = False
    note: str | None = None

    def __init__(self, network: SenseNovaU1, group: RankGroup | None = None) -> None:
        self.network = network
        self.group = group or RankGroup()

    def room_behind(self, image_tokens: int) -> int:
        """Positions to reserve in the KV cache behind a prefix for a picture of `image_tokens` tokens. `denoise_states`
        would also reserve them, but by a second allocation."""
        return 0 if self.layer_by_layer or self.group.split_heads else image_tokens

    def denoise_states(self, prefixes: Mapping[Branch, Prefix], image_tokens: int) -> Mapping[Branch, DenoiseState]:
        """What the pictures of a request, of so many tokens each, are drawn on, one for each own branch; `prefixes` are
        those of the branches that this process reads, in the order of all. They stay as they were, and must do so until
        the last picture is drawn."""
        if not self.layer_by_layer:
            return self.group.denoise_states(prefixes, image_tokens)
        denoise_states: dict[Branch, DenoiseState] = {}
        for branch, prefix in prefixes.items():
            denoise_states[branch] = DenoiseState(ScratchCache(prefix.cache, image_tokens), prefix.next_position)
        return denoise_states

    def captured(self, work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same function, for being called many times.

        Args:
            work: takes a hashable key and tensors, and returns a tensor. Under the same key it does the same things
                with other numbers of the same shapes: it must not look at them, nor at anything else that changes.
        """
        return work

    def logits(self, prefix: Prefix) -> Tensor:
        """Of the token that follows a prefix: (vocabulary,), float32."""
        return self.network.logits(prefix.last_hidden)[0, 0]

    def forward_token(self, prefix: Prefix, token: Tensor) -> tuple[Tensor, Tensor]:
        """`read_text` of one token, () int64.

        Returns:
            The token's hidden state (1, 1, hidden_size), and logits (vocabulary,), float32, of the one that follows.
        """
        hidden = read_text(self.network, prefix, token.view(1))
        return hidden, self.network.logits(hidden)[0, 0]


def record_event(device: torch.device) -> Callable[[], None]:
    """What is returned waits until the device has done all it was asked to up to now, but for nothing later."""
    if device.type == "mps":
        return torch.mps.synchronize
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event.synchronize


def copy_to_host(token: Tensor) -> Callable[[], int]:
    """Start bringing a number, () int64, to the host; what is returned waits for it, but for nothing later."""
    if token.device.type != "cuda":
        return lambda: int(token)
    memory, _ = host_memory(token.nbytes, page_locked=True)
    host = memory.view(torch.long)
    host.copy_(token.view(1), non_blocking=True)
    arrived = record_event(token.device)

    def number() -> int:
        arrived()
        return int(host)

    return number
