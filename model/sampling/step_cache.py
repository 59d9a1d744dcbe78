"""Layers that are skipped where a picture's steps change little: DBCache and TaylorSeer, by the library cache-dit.

The first layers of the gen tower run in every step. Where what they add differs little from what they added in the last
full step, the layers behind them are skipped: what those added is repeated, or continued as a Taylor series. Only what
a step computes is concerned. Prefixes and texts are read in full, and a skipped layer leaves nothing out of the cache
of keys and values, where those of image tokens are never kept.

Of the library we take what decides and what is kept: `CachedContextManager`, with a context of its own for each
guidance branch. Its `CachedBlocks` and `BlockAdapter`, which patch a pipeline's module list, cannot serve: they tell
branches apart by whether a call is an odd or an even one, decide for a batch as a whole, and call one block after
another, where ours go through fused kernels and CUDA graphs many at a time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from config.step_cache import CacheOptions
from model.errors import RequestError
from model.events import Branch, BranchCaching
from model.step_cache_library import cache_library

RunLayers = Callable[[tuple[Branch, ...], range, Tensor], Tensor]
"""Runs some layers over the hidden states of some branches, (branches, L, hidden_size) → the same."""

STATES_WITHIN_A_STEP = 6


@dataclass(frozen=True)
class StepCaching:
    """How pictures are cached: everything of a `StepCache` that is no picture's own.

    Attributes:
        library: `cache_dit.caching.cache_contexts`.
        decision: its `DBCacheConfig`.
        calibrator: its `TaylorSeerCalibratorConfig`, or None where what skipped layers added is repeated.
        first, middle, last: layers; the middle ones are those that are skipped.
    """

    library: Any
    decision: Any
    calibrator: Any
    first: range
    middle: range
    last: range

    @classmethod
    def of(cls, options: CacheOptions, layers: int) -> "StepCaching":
        """For a tower of so many layers; imports the library.

        Raises:
            RequestError: the options leave no layer to skip, or the library cannot be imported.
        """
        kept = options.first_layers + options.last_layers
        if kept >= layers:
            raise RequestError(
                f"cache_first_layers {options.first_layers} and cache_last_layers {options.last_layers} leave no layer "
                f"to skip: this model has {layers}",
                f"together they may be {layers - 1} at most",
            )
        library = cache_library()
        decision = library.DBCacheConfig(
            Fn_compute_blocks=options.first_layers,
            Bn_compute_blocks=options.last_layers,
            residual_diff_threshold=options.threshold,
            max_warmup_steps=options.warmup_steps,
            max_continuous_cached_steps=options.longest_run,
            enable_separate_cfg=False,  # our contexts are one branch's each
        )
        calibrator = None
        if options.taylor_order:
            calibrator = library.TaylorSeerCalibratorConfig(
                enable_encoder_calibrator=False, taylorseer_order=options.taylor_order
            )
        first, last = range(options.first_layers), range(layers - options.last_layers, layers)
        return cls(library, decision, calibrator, first, range(first.stop, last.start), last)

    @property
    def kept_states(self) -> int:
        """Hidden states, (L, hidden_size), that are there of each branch at most: what the first layers added, what the
        middle ones did or its two last series, and within a step what comes out of each part and is compared."""
        series = 2 * (self.calibrator.taylorseer_order + 1) if self.calibrator else 1
        return 1 + series + STATES_WITHIN_A_STEP


class StepCache:
    """What one picture keeps from step to step: a new picture needs a new one.

    Attributes:
        computed: layers that the last step ran, by branch.
    """

    def __init__(self, caching: StepCaching) -> None:
        self._caching = caching
        self._contexts = caching.library.CachedContextManager("picture", persistent_context=True)
        self._seen: list[Branch] = []
        self.computed: dict[Branch, int] = {}

    def forward(self, branches: tuple[Branch, ...], hidden: Tensor, run: RunLayers) -> Tensor:
        """One step of these branches through the tower: (branches, L, hidden_size) → the same, before the final norm.

        Each branch decides for itself, also in a batch: the middle layers then run for those that need them.
        """
        caching = self._caching
        entering, hidden = hidden, run(branches, caching.first, hidden)
        added = (hidden - entering).split(1)
        # Lists, not generators: the frames of an error would keep what those iterate over.
        reusing = [self._can_reuse(branch, each) for branch, each in zip(branches, added, strict=True)]
        results = list(hidden.split(1))
        needed = [index for index, reused in enumerate(reusing) if not reused]
        if needed:
            computing = tuple(branches[index] for index in needed)
            before = hidden if len(needed) == len(branches) else hidden[needed]
            after = run(computing, caching.middle, before)
            for index, result, residual in zip(needed, after.split(1), (after - before).split(1), strict=True):
                self._enter(branches[index])
                self._contexts.set_Fn_buffer(added[index], prefix="first_Fn")
                self._contexts.set_Bn_buffer(residual, prefix="middle_Bn")
                results[index] = result
        for index, branch in enumerate(branches):
            if reusing[index]:
                self._enter(branch)
                self._contexts.add_cached_step()
                results[index], _ = self._contexts.apply_cache(results[index], prefix="middle_Bn")
            self.computed[branch] = caching.last.stop - (len(caching.middle) if reusing[index] else 0)
        hidden = results[0] if len(results) == 1 else torch.cat(results)
        return run(branches, caching.last, hidden) if caching.last else hidden

    def branches(self) -> tuple[BranchCaching, ...]:
        """What has been computed and reused so far, in the order in which the branches first came."""
        told = []
        for branch in self._seen:
            context = self._contexts.get_context(branch)
            reused = len(context.get_cached_steps())
            # Where nothing was compared the library notes a number that is none: zero or below. A ratio to zero is
            # infinite, which JSON cannot hold.
            differences = tuple(each for each in context.get_residual_diffs().values() if 0 < each < math.inf)
            told.append(BranchCaching(branch, context.executed_steps - reused, reused, differences))
        return tuple(told)

    def _can_reuse(self, branch: Branch, added: Tensor) -> bool:
        self._enter(branch)
        self._contexts.mark_step_begin()
        return self._contexts.can_cache(added, prefix="first_Fn")

    def _enter(self, branch: Branch) -> None:
        if branch not in self._seen:
            self._seen.append(branch)
        caching = self._caching
        self._contexts.set_context(branch, cache_config=caching.decision, calibrator_config=caching.calibrator)
