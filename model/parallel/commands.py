"""What rank 0 has the other ranks do: plain values, which go to them pickled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.settings import LoadSettings
from model.checkpoint.named_lora import NamedLora
from model.events import Branch
from model.requests import Request


@dataclass(frozen=True)
class Load:
    """Load this rank's shard of a checkpoint.

    Attributes:
        folder: of the checkpoint, found and downloaded.
        settings: what the model is loaded with, checked.
        size: of the pictures to have room for, as in the settings.
    """

    folder: Path
    settings: LoadSettings
    size: str


@dataclass(frozen=True)
class Run:
    """Run a request. After each event rank 0 says whether to continue.

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
class ClearCache:
    """Free what is kept of earlier requests."""


Command = Load | Run | UseLoras | ClearCache

CachedTokens = Mapping[Branch, int]
"""What a rank answers when it has carried out an order: the tokens it keeps of each branch."""
