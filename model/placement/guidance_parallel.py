"""Guidance parallelism: the branches of a step on different ranks, and one exchange of what they predict."""

import torch
from torch import Tensor

from model.events import Branch
from model.placement.groups import Groups
from model.sampling.runtime import Peers


class GuidancePeers(Peers):
    """The other ranks, as the picture loop and the text loop see them."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def agree(self, numbers: Tensor) -> Tensor:
        return self._groups.agree(numbers.clone())  # not onto a view that something else looks at

    def own(self, branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
        return branches[self._groups.position.branches]

    def exchange(self, branches: tuple[Branch, ...], predicted: Tensor) -> Tensor:
        groups = self._groups.position.guidance
        if groups == 1:
            return predicted
        most = -(-len(branches) // groups)
        if len(predicted) < most:  # an exchange is of equal parts
            missing = predicted.new_zeros(most - len(predicted), *predicted.shape[1:])
            predicted = torch.cat([predicted, missing])
        every = self._groups.exchange(predicted)
        # Branch i is number i // groups of network i % groups. Slices, which a CUDA graph can hold, not an index.
        places = [number % groups * most + number // groups for number in range(len(branches))]
        return every if places == list(range(len(every))) else torch.cat([every[place, None] for place in places])
