"""What rank 0 has the other ranks do: plain values, which go to them pickled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.events import Branch
from model.requests import Request
from model.weights.named_lora import NamedLora


@dataclass(frozen=True)
class Load:
    """Load the own part of a checkpoint; the arguments are those of `Engine.load`, found and checked."""

    folder: Path
    dtype: str
    check_weights: bool
    quantization: str
    loras: Sequence[NamedLora]
    enforce_eager: bool
    offload: str
    gpu_memory: int | None
    size: str


@dataclass(frozen=True)
class Run:
    """Carry out a request, told after each event whether to go on.

    Attributes:
        forget: what is kept of earlier requests first.
    """

    request: Request
    forget: bool


@dataclass(frozen=True)
class UseLoras:
    """Have these LoRAs and no others."""

    loras: Sequence[NamedLora]


@dataclass(frozen=True)
class Forget:
    """Free what is kept of earlier requests."""


Order = Load | Run | UseLoras | Forget

Kept = Mapping[Branch, int]
"""What a rank answers when it has carried out an order: the tokens it keeps of each branch."""
