"""Traces: tensors of a request, for parity tests and benchmarks."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Trace:
    """Tensors that `LocalEngine.run(request, trace)` adds before it yields the event of the same step or picture.

    Without a trace these tensors are discarded. Use a new trace for each request: a run appends to the lists.

    Attributes:
        predicted: the clean picture that each step predicts, (1, 3, H, W), about −1..1, on the device.
        velocities: velocity of the conditional branch at each step, (1, L, 3·32²), channels last in a patch, on the
            device. Both lists together take 72 MiB per step of a 2048×2048 picture.
        pictures: pixels of each picture before clamping, (1, 3, H, W), about −1..1, float32 on the CPU.
        first_logits: logits of the first token of an answer or a think text, (vocabulary,), float32 on the CPU.
        picture_logits: logits of the token after each picture of an interleaved answer, also float32 on the CPU.
    """

    predicted: list["Tensor"] = field(default_factory=list)
    velocities: list["Tensor"] = field(default_factory=list)
    pictures: list["Tensor"] = field(default_factory=list)
    first_logits: "Tensor | None" = None
    picture_logits: list["Tensor"] = field(default_factory=list)
