"""The step cache: skips layers in denoising steps that change little (DBCache and TaylorSeer, from cache-dit).

The first layers of the generation tower run in every step. If their residual is close to that of the last full step,
the middle layers are skipped: their last residual is added again, or a Taylor series continues it. Prefill and text are
not affected. The KV cache of the prefix stays complete, because denoising steps add nothing to it.

From the library we use `CachedContextManager`, which decides and stores residuals, with one context for each guidance
branch. We cannot use its `CachedBlocks` and `BlockAdapter`, which patch a pipeline's module list: they distinguish
branches by whether a call is odd or even, decide for a whole batch at once, and call the blocks one by one, while our
fused kernels and CUDA graphs run many layers at once.
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
from model.step_cache_library import import_cache_library

RunLayers = Callable[[tuple[Branch, ...], range, Tensor], Tensor]
"""Runs some layers over the hidden states of some branches, (branches, L, hidden_size) → same shape."""

STATES_WITHIN_A_STEP = 6
"""The most hidden states of the current step: outputs of the ranges of layers, and residuals that are compared."""


@dataclass(frozen=True)
class StepCacheConfig:
    """The configuration of step caches: everything in a `StepCache` that several pictures share.

    Attributes:
        library: the module `cache_dit.caching.cache_contexts`.
        cache_config: a `DBCacheConfig` of the library.
        calibrator_config: a `TaylorSeerCalibratorConfig`; None repeats the last residual of skipped layers.
        first, middle, last: ranges of layers. Only the middle ones are skipped.
    """

    library: Any
    cache_config: Any
    calibrator_config: Any
    first: range
    middle: range
    last: range

    @classmethod
    def of(cls, options: CacheOptions, layers: int) -> "StepCacheConfig":
        """Return the configuration for a tower with `layers` layers. Imports the library.

        Raises:
            RequestError: the options leave no layer to skip, or the library cannot be imported.
        """
        if options.first_layers + options.last_layers >= layers:
            raise RequestError(
                f"cache_first_layers {options.first_layers} and cache_last_layers {options.last_layers} leave no layer "
                f"to skip: this model has {layers}",
                f"set them so that their sum is at most {layers - 1}",
            )
        library = import_cache_library()
        cache_config = library.DBCacheConfig(
            Fn_compute_blocks=options.first_layers,
            Bn_compute_blocks=options.last_layers,
            residual_diff_threshold=options.threshold,
            max_warmup_steps=options.warmup_steps,
            max_continuous_cached_steps=options.longest_run,
            enable_separate_cfg=False,  # each branch has its own context
        )
        calibrator_config = None
        if options.taylor_order:
            calibrator_config = library.TaylorSeerCalibratorConfig(
                enable_encoder_calibrator=False, taylorseer_order=options.taylor_order
            )
        first, last = range(options.first_layers), range(layers - options.last_layers, layers)
        return cls(library, cache_config, calibrator_config, first, range(first.stop, last.start), last)

    @property
    def states_per_branch(self) -> int:
        """The most hidden states, (L, hidden_size), that a branch has in memory.

        They are the residual of the first layers, the residual of the middle layers or its last two Taylor series, and
        the states of the current step.
        """
        series = 2 * (self.calibrator_config.taylorseer_order + 1) if self.calibrator_config else 1
        return 1 + series + STATES_WITHIN_A_STEP


class StepCache:
    """The step cache of one picture. Each picture needs a new one.

    Attributes:
        computed: layers that the last step computed, by branch.
    """

    def __init__(self, config: StepCacheConfig) -> None:
        self._config = config
        self._contexts = config.library.CachedContextManager("picture", persistent_context=True)
        self._branches: list[Branch] = []
        self.computed: dict[Branch, int] = {}

    def forward(self, branches: tuple[Branch, ...], hidden: Tensor, run: RunLayers) -> Tensor:
        """Run one step of these branches through the tower: (branches, L, hidden_size) → same shape, before the final
        norm.

        The library decides for each branch separately, also within a batch. The middle layers then run for the branches
        that need them.

        Args:
            run: runs layers.
        """
        config = self._config
        entering, hidden = hidden, run(branches, config.first, hidden)
        residuals = (hidden - entering).split(1)
        # Neither a comprehension nor a generator: an error in it would keep the stored residuals alive.
        reusing = []
        for branch, residual in zip(branches, residuals, strict=True):
            reusing.append(self._can_reuse(branch, residual))
        results = list(hidden.split(1))
        needed = [index for index, reused in enumerate(reusing) if not reused]
        if needed:
            computing = tuple(branches[index] for index in needed)
            before = hidden if len(needed) == len(branches) else hidden[needed]
            after = run(computing, config.middle, before)
            middle_residuals = (after - before).split(1)
            for index, result, residual in zip(needed, after.split(1), middle_residuals, strict=True):
                self._select(branches[index])
                self._contexts.set_Fn_buffer(residuals[index], prefix="first_Fn")
                self._contexts.set_Bn_buffer(residual, prefix="middle_Bn")
                results[index] = result
        for index, branch in enumerate(branches):
            if reusing[index]:
                self._select(branch)
                self._contexts.add_cached_step()
                results[index], _ = self._contexts.apply_cache(results[index], prefix="middle_Bn")
            self.computed[branch] = config.last.stop - (len(config.middle) if reusing[index] else 0)
        hidden = results[0] if len(results) == 1 else torch.cat(results)
        return run(branches, config.last, hidden) if config.last else hidden

    def summaries(self) -> tuple[BranchCaching, ...]:
        """Return a summary of each branch's steps so far, in the order of the branches' first steps."""
        summaries = []
        for branch in self._branches:
            context = self._contexts.get_context(branch)
            reused = len(context.get_cached_steps())
            # The library records zero or a negative number for a step that it did not compare. A ratio to zero is
            # infinite, which JSON cannot represent.
            differences = tuple(each for each in context.get_residual_diffs().values() if 0 < each < math.inf)
            summaries.append(BranchCaching(branch, context.executed_steps - reused, reused, differences))
        return tuple(summaries)

    def _can_reuse(self, branch: Branch, residual: Tensor) -> bool:
        """Ask the library whether a branch may skip the middle layers, given the residual of its first layers."""
        self._select(branch)
        self._contexts.mark_step_begin()
        return self._contexts.can_cache(residual, prefix="first_Fn")

    def _select(self, branch: Branch) -> None:
        """Select the branch's context for the library's next calls."""
        if branch not in self._branches:
            self._branches.append(branch)
        config = self._config
        self._contexts.set_context(branch, cache_config=config.cache_config, calibrator_config=config.calibrator_config)
