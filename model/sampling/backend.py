"""The plain backend, which denoises steps and decodes tokens in PyTorch, and the group of ranks that take part."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from model.device_kinds import DeviceKind
from model.events import Branch
from model.network.attention import Segment
from model.network.cache import LongerCache, ScratchCache
from model.network.operations import RowGroup
from model.network.rope import attention_rotary, text_positions
from model.network.sensenova import SenseNovaU1
from model.sampling.prefill import DenoiseState, Prefix, forward_text

ONE_TOKEN = [Segment(1, causal=True)]


class RankGroup:
    """The ranks that run the same passes. This class is for a single process; `model.parallel` has one for several.

    All ranks call the same methods in the same order.

    Attributes:
        splits_heads: whether the understanding tower is split over more ranks than the generation tower. Each rank then
            prefills every branch, but only with a part of the heads that it denoises with.
        is_single: whether there is only this process.
    """

    splits_heads = False
    is_single = True

    def broadcast(self, numbers: Tensor) -> Tensor:
        """Return rank 0's numbers on every rank."""
        return numbers

    def own_branches(self, branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
        """Return the branches of a step that this rank computes, perhaps none. Branch 0 stays on the same rank in every
        step, so unguided steps run there."""
        return branches

    def prefix_branches(self, branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
        """Return the branches that this rank prefills: its own, or all if heads are split."""
        return branches if self.splits_heads else self.own_branches(branches)

    def denoise_states(self, prefixes: Mapping[Branch, Prefix], image_tokens: int) -> Mapping[Branch, DenoiseState]:
        """Return the denoise states of this rank's branches, with room for `image_tokens` tokens. They are the prefixes
        themselves, unless heads are split."""
        for prefix in prefixes.values():
            prefix.cache.reserve(image_tokens)
        return prefixes

    def all_gather(self, branches: tuple[Branch, ...], predicted: Tensor) -> Tensor:
        """Gather predictions: this rank's branches in their order, (own, L, D) → all branches, (branches, L, D)."""
        return predicted


class Backend:
    """A backend that runs a network in plain PyTorch. `model.backends` has one for CUDA.

    Attributes:
        network: the network to run.
        group: the ranks that take part.
        denoises_async, decodes_async: whether a step, or a token, returns before the device has finished it, so that
            the next one can be launched.
        layer_by_layer: whether all branches of a step finish a layer before the next layer starts, whose weights may
            have to be loaded first. Then only one layer's keys and values of the picture are stored. Results are equal.
        looks_up: whether texts use prompt lookup. It saves passes, each of which loads weights; a pass that loads none
            takes longer with several tokens.
        note: a notice for the user about the first run, or None.
    """

    denoises_async = decodes_async = False
    layer_by_layer = False
    note: str | None = None

    def __init__(self, network: SenseNovaU1, group: RankGroup | None = None) -> None:
        self.network = network
        self.group = group or RankGroup()
        self.looks_up = not (network.und.blocks.fit_together and network.lm_head.is_resident)

    def room_for_picture(self, image_tokens: int) -> int:
        """Return the number of positions to reserve after a prefix for a picture of `image_tokens` tokens.
        `denoise_states` would reserve them too, but with a second allocation."""
        return 0 if self.layer_by_layer or self.group.splits_heads else image_tokens

    def denoise_states(self, prefixes: Mapping[Branch, Prefix], image_tokens: int) -> Mapping[Branch, DenoiseState]:
        """Return the denoise states of a request's pictures, one for each of this rank's branches.

        Args:
            prefixes: the prefixes of the branches that this rank prefills, in the order of all branches. They must stay
                unchanged until the last picture is finished.
            image_tokens: tokens of each picture.
        """
        if not self.layer_by_layer:
            return self.group.denoise_states(prefixes, image_tokens)
        states: dict[Branch, DenoiseState] = {}
        for branch, prefix in prefixes.items():
            states[branch] = DenoiseState(ScratchCache(prefix.cache, image_tokens), prefix.next_position)
        return states

    def captured(self, work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return a function that gives the same results as `work` and is faster when it is called many times.

        Args:
            work: takes a hashable key and tensors, and returns a tensor. For one key it runs the same operations on
                tensors of the same shapes. It must not read their values on the host, nor anything else that changes.
        """
        return work

    def logits(self, prefix: Prefix) -> Tensor:
        """Return the logits of the token after a prefix: (vocabulary,), float32."""
        return self.network.logits(prefix.last_hidden)[0, 0]

    def forward_token(self, prefix: Prefix, token: Tensor) -> tuple[Tensor, Tensor]:
        """Run `forward_text` on one token, () int64.

        Returns:
            The token's hidden state (1, 1, hidden_size), and the logits of the next token (vocabulary,), float32.
        """
        hidden = forward_text(self.network, prefix, token.view(1))
        return hidden, self.network.logits(hidden)[0, 0]

    def forward_tokens(self, prefix: Prefix, tokens: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Run several tokens after a prefix, which has room for them; return for each what `forward_token` does.

        The weights of each layer are loaded once. Each token is computed on its own, by the operations of a pass of one
        token: products of several rows round differently, so the text would depend on the number of rows.
        """
        network, transformer, operations = self.network, self.network.config.transformer, self.network.und.operations
        embedded = network.embed_tokens(torch.tensor(list(tokens), dtype=torch.long, device=network.device))
        batches: list[list[RowGroup]] = []
        for index in range(len(tokens)):
            positions = text_positions(prefix.next_position + index, 1, network.device)
            rotary = attention_rotary(positions, transformer, network.dtype)
            cache = LongerCache(prefix.cache, index)
            batches += operations.row_groups(embedded[None, index : index + 1], [rotary], [cache], ONE_TOKEN)
        network.und.run_blocks(batches, [prefix.cache], ONE_TOKEN, operations)
        hidden = [groups[0].result()[None] for groups in batches]
        return list(zip(hidden, network.logits_of_each(hidden), strict=True))

    @property
    def prefills_in_chunks(self) -> bool:
        """Whether a long text is prefilled in chunks, so that a slow prefill can be cancelled between them.

        Ranks take their events together, and some of them prefill other tokens. A pass that has to load weights would
        load them for each chunk.
        """
        is_slow = not DeviceKind.of(self.network.device).is_gpu
        return is_slow and self.group.is_single and self.network.und.blocks.fit_together

    @property
    def attention_kernel(self) -> str:
        """The name of the kernel that computes a picture's attention."""
        network = self.network
        return network.gen.operations.kernel_name(network.config.transformer, network.device, network.dtype)
