"""The guidance of one picture in fewer passes: branches that are not computed in every step, and guidance that ends.

Both rules leave out passes of the branches other than "condition":

- With `cfg_every` N, the first four guided steps and then every Nth one compute all branches. The others reuse the last
  differences: they estimate the branches as i ≈ c − (c − i) and u ≈ c − (c − u), with their own c in front.
- With `cfg_stop`, guidance ends once the branches agree: all later steps compute c alone, and follow it. This is
  Adaptive Guidance (Castillo et al. 2023, arXiv:2312.12487) with a relative difference in place of a cosine.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from model.devices import copy_to_host
from model.events import Branch
from model.sampling.guidance import Guidance, Velocities

FIRST_STEPS = 4
"""Guided steps that always compute all branches. They decide what the picture shows: with every third step from the
start on, the demo draws another picture of some prompts (docs/caching.md)."""
MEASURED_STEPS_BEFORE = 2
"""A step may end guidance if a step this far before it, or further, measured that the branches agree. With asynchronous
steps the device has then finished the measurement, and still has a step to run while the host reads it. The number is
the same on every device, so that a picture's record always names the same steps."""


class PictureGuidance:
    """The guidance of one picture's steps, which are taken in order: `begin_step`, then `velocity`.

    With the defaults of `cfg_every` and `cfg_stop`, branches and velocities are those of `Guidance`.
    """

    def __init__(self, guidance: Guidance, broadcast: Callable[[Tensor], Tensor]) -> None:
        """
        Args:
            broadcast: returns rank 0's numbers, as `RankGroup.broadcast`: all ranks must end guidance in the same step.
        """
        self._guidance = guidance
        self._broadcast = broadcast
        self._step, self._time = 0, 0.0
        self._guided_steps = self._estimated_in_a_row = 0
        self._is_estimated = self._has_ended = False
        self._differences: dict[Branch, Tensor] = {}
        self._measured: list[tuple[int, Callable[[], int]]] = []

    def begin_step(self, number: int, time: float) -> tuple[Branch, ...]:
        """Return the branches that step `number` (from 0), which starts at `time`, has to compute."""
        self._step, self._time, self._is_estimated = number, time, False
        branches = self._guidance.needed(number, time)
        if len(branches) == 1 or self._ends_before(number):
            return branches[:1]
        is_late, is_due = self._guided_steps >= FIRST_STEPS, self._estimated_in_a_row == self._guidance.every - 1
        self._is_estimated = is_late and not is_due and bool(self._differences)
        self._guided_steps += 1
        self._estimated_in_a_row = self._estimated_in_a_row + 1 if self._is_estimated else 0
        return branches[:1] if self._is_estimated else branches

    def velocity(self, velocities: Velocities) -> Tensor:
        """Return the velocity of the step that has begun, given the velocities of the branches that it computed.

        Args:
            velocities: (1, L, 3·32²) each, float32.
        """
        condition = velocities["condition"]
        if self._has_ended:
            return condition
        if self._is_estimated:
            velocities = {"condition": condition}
            velocities |= {branch: condition - difference for branch, difference in self._differences.items()}
        elif len(velocities) > 1 and (self._guidance.every > 1 or self._guidance.stop):
            differences: dict[Branch, Tensor] = {}
            for branch in self._guidance.branches[1:]:
                differences[branch] = condition - velocities[branch]
            if self._guidance.stop:
                self._measure(condition, differences)
            if self._guidance.every > 1:
                self._differences = differences
        return self._guidance.velocity(self._step, self._time, velocities)

    def change_size(self) -> None:
        """Forget the differences, which have the size of the steps before. The next guided step computes all
        branches."""
        self._differences.clear()

    def _measure(self, condition: Tensor, differences: Velocities) -> None:
        """Start to measure whether the branches agree: whether ‖c − i‖ and ‖c − u‖ are below `stop`·‖c‖."""
        most = torch.stack([difference.norm() for difference in differences.values()]).max()
        agree = self._broadcast((most < self._guidance.stop * condition.norm()).long())
        self._measured.append((self._step, copy_to_host(agree)))

    def _ends_before(self, number: int) -> bool:
        """Return whether guidance has ended when this step begins. Read each measurement once, when its time comes."""
        while self._measured and self._measured[0][0] <= number - MEASURED_STEPS_BEFORE:
            _, agree = self._measured.pop(0)
            self._has_ended = self._has_ended or bool(agree())
        return self._has_ended
