"""LoRAs as users name them. This module works without PyTorch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NO_LORA = "off"


@dataclass(frozen=True)
class NamedLora:
    """A LoRA's file, folder or Hub id, and the factor that its update is multiplied by."""

    name: str
    strength: float = 1.0

    def __str__(self) -> str:
        return self.name if self.strength == 1 else f"{self.name}:{self.strength:g}"


def parse_loras(text: str | None) -> tuple[NamedLora, ...]:
    """Parse a list of LoRAs like `style.safetensors:0.8, owner/name`. None and `off` mean no LoRA."""
    if text is None or text.strip() == NO_LORA:
        return ()
    return tuple(_parse(part.strip()) for part in text.split(",") if part.strip())


def format_loras(loras: Iterable[NamedLora]) -> str | None:
    """Write LoRAs as `parse_loras` reads them, with absolute paths of files; None if there are none."""
    absolute = []
    for lora in loras:
        path = Path(lora.name).expanduser()
        absolute.append(NamedLora(str(path.absolute()) if path.exists() else lora.name, lora.strength))
    return ", ".join(map(str, absolute)) or None


def _parse(text: str) -> NamedLora:
    name, colon, number = text.rpartition(":")
    try:
        strength = float(number)
    except ValueError:
        return NamedLora(text)
    return NamedLora(name, strength) if colon and math.isfinite(strength) else NamedLora(text)
