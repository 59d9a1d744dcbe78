"""LoRAs as users name them. This module works without PyTorch."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from config.model_names import full_name

NO_LORA = "off"


@dataclass(frozen=True)
class NamedLora:
    """A LoRA's file, folder or Hub id, and the factor that its update is multiplied by."""

    name: str
    strength: float = 1.0

    def __str__(self) -> str:
        return self.name if self.strength == 1 else f"{self.name}:{self.strength:g}"


def parse_loras(text: str | None) -> tuple[NamedLora, ...]:
    """Parse a list of LoRAs like `style.safetensors:0.8, owner/name`. None and `off` mean no LoRA.

    A comma in a name is written as `\\,`. A comma in the name of an existing file needs no backslash.
    """
    if text is None or text.strip() == NO_LORA:
        return ()
    parts = [part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text)]
    found: list[NamedLora] = []
    while parts:
        # The longest run of parts that is a file; else one part.
        runs = (_parse(",".join(parts[:length]).strip()) for length in range(len(parts), 1, -1))
        lora = next((run for run in runs if _exists(run.name)), None)
        if lora is not None:
            del parts[: lora.name.count(",") + 1]
            found.append(lora)
        elif part := parts.pop(0).strip():
            found.append(_parse(part))
    return tuple(found)


def format_loras(loras: Iterable[NamedLora]) -> str | None:
    """Write LoRAs as `parse_loras` reads them, with absolute paths of files; None if there are none."""
    absolute = []
    for lora in loras:
        path = Path(lora.name).expanduser()
        absolute.append(NamedLora(str(path.absolute()) if path.exists() else lora.name, lora.strength))
    return ", ".join(str(lora).replace(",", "\\,") for lora in absolute) or None


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a file name, ~nobody, a NUL
        return False


def _parse(text: str) -> NamedLora:
    name, colon, number = text.rpartition(":")
    try:
        strength = float(number)
    except ValueError:
        return NamedLora(full_name(text))
    return NamedLora(full_name(name), strength) if colon and math.isfinite(strength) else NamedLora(full_name(text))
