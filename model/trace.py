"""The tensors of a request, for those who check its numbers: parity tests and benchmarks."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Trace:
    """Tensors that `LocalEngine.run(request, trace)` collects, before the event of the same step, picture or answer.

    Without a trace nothing of this is kept. Use a new one for every request: another run appends to the lists.

    Attributes:
        predicted: the clean picture as predicted at each step, (1, 3, H, W), about −1..1, on the device.
        velocities: of the conditional branch at each step, (1, L, 3·32²), patches channel-last, on the device. Both
            together take 72 MiB a step for a 2048×2048 picture.
        pictures: the values of each picture before clamping, (1, 3, H, W), about −1..1, float32 on the CPU.
        first_logits: of the first token of an answer or a think text, (vocabulary,), float32 on the CPU; None before.
    """

    predicted: list["Tensor"] = field(default_factory=list)
    velocities: list["Tensor"] = field(default_factory=list)
    pictures: list["Tensor"] = field(default_factory=list)
    first_logits: "Tensor | None" = None
