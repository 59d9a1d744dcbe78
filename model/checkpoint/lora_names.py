"""Names of tensors in LoRA files: which layer of the model a tensor updates, and which part of the update it is.

PEFT, kohya's scripts and diffusers name the same tensors in their own ways. A name counts if exactly one layer fits.
"""

import re
from collections.abc import Collection
from typing import Literal

Part = Literal["down", "up", "alpha"]

PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.")
"""Prefixes of every name in some files: PEFT's, ComfyUI's, and that of diffusers' pipelines."""
KOHYA_PREFIXES = ("lora_unet_", "lora_te_")
"""Prefixes of kohya's names, in which underscores replace dots."""
ROOTS = ("", "language_model.", "language_model.model.")
"""What a file may leave out at the start of every name, because only that part of the model was trained: nothing, the
language model's prefix, or the prefix of its layers."""
ENDS: dict[Part, re.Pattern[str]] = {
    "down": re.compile(r"\.lora_(?:down|A|A\.[^.]+)\.weight$"),
    "up": re.compile(r"\.lora_(?:up|B|B\.[^.]+)\.weight$"),
    "alpha": re.compile(r"\.alpha$"),
}
"""How names end: lora_A and lora_B are PEFT's, perhaps with the adapter's name."""


def split_name(name: str) -> tuple[str, Part] | None:
    """Split a tensor's name into the layer's name in the file and the part of its update; None for other tensors."""
    for part, end in ENDS.items():
        if found := end.search(name):
            return name[: found.start()], part
    return None


class LayerNames:
    """Finds layers of a model by the names that LoRA files give them."""

    def __init__(self, layers: Collection[str]) -> None:
        """
        Args:
            layers: official names, without `.weight`.
        """
        self._layers = layers
        self._underscored: dict[str, str | None] | None = None

    def official(self, name: str) -> str | None:
        """Return the official name of a layer; None if no layer has that name, or several have."""
        prefix = next((prefix for prefix in KOHYA_PREFIXES if name.startswith(prefix)), None)
        if prefix is not None:
            return self._kohya(name.removeprefix(prefix))
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        found = [root + name for root in ROOTS if root + name in self._layers]
        return found[0] if len(found) == 1 else None

    def _kohya(self, name: str) -> str | None:
        if self._underscored is None:
            self._underscored = {}
            for layer in self._layers:
                for root in ROOTS:
                    if layer.startswith(root):
                        key = layer.removeprefix(root).replace(".", "_")
                        self._underscored[key] = None if key in self._underscored else layer
        return self._underscored.get(name)
