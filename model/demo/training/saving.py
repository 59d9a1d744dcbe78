"""Saved trainings: the whole state, to continue, and checkpoints in the official layout."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.checkpoint.layout import ParameterSlice
from model.checkpoint.writer import write_checkpoint
from model.demo.training.known_words import write_known_words
from model.demo.training.learner import Learner
from model.demo.training.network_start import configuration
from model.demo.training.world import SIZES
from model.network.sensenova import SenseNovaU1

STATE_FILE, PROGRESS_FILE = "state.pt", "training.json"
SHARD_BYTES = 12_000_000
LEAST_PIXELS, MOST_PIXELS = (bound(width * height for width, height in SIZES) for bound in (min, max))
SETTINGS = {"num_steps": 24, "cfg_scale": 2.5, "timestep_shift": 3.0}
RECOMMENDED: dict[str, Any] = {
    "settings": {**SETTINGS, "max_tokens": 64, "max_think_tokens": 64},
    "trained_sizes": [list(size) for size in SIZES],
    "answer_input": {"min": LEAST_PIXELS, "max": MOST_PIXELS},
    "edit_input": {"min": LEAST_PIXELS, "max": MOST_PIXELS},
    "interleave": {
        "settings": {**SETTINGS, "max_tokens": 256},
        "trained_sizes": [list(size) for size in SIZES],
    },
}
"""Contents of `recommended_settings.json`. The program learns from it which sizes the demo can draw, and that it can
answer with pictures."""
KEPT = 2
"""Number of checkpoints to keep."""


@dataclass(frozen=True)
class Progress:
    """The progress of a training: steps, and seconds of training over all calls."""

    step: int = 0
    seconds: float = 0.0


def read_progress(folder: Path, start: Path | None) -> Progress:
    """Return the progress of a folder's saved state; without one, that of the checkpoint to start from, if it has any.

    A checkpoint that a stopped training wrote has its progress in `training.json`. So a training can continue on
    another machine from the checkpoint alone, without the optimizer's state, which is seven times as large.
    """
    places = [folder] if (folder / STATE_FILE).exists() else [start] if start else []
    for place in places:
        file = place / PROGRESS_FILE
        if file.exists():
            return Progress(**json.loads(file.read_text(encoding="utf-8")))
    return Progress()


class Saver:
    """Saves a training's state and checkpoints in its folder. A stop while it writes leaves the earlier ones whole."""

    def __init__(self, folder: Path, network: SenseNovaU1, learner: Learner, tokenizer: Tokenizer) -> None:
        self._folder, self._learner, self._tokenizer = folder, learner, tokenizer
        self._names = [name for name, _ in network.named_parameters()]

    def restore(self, progress: Progress, device: torch.device) -> None:
        """Continue from the folder's saved state, or count steps from `progress` if there is none."""
        file = self._folder / STATE_FILE
        if file.exists():
            self._learner.restore(torch.load(file, map_location=device, weights_only=True))
        else:
            self._learner.step = progress.step

    def save(self, seconds: float) -> Path:
        """Save the state and a checkpoint; return the checkpoint's folder.

        Args:
            seconds: time of training over all calls.
        """
        progress = json.dumps(asdict(Progress(self._learner.step, seconds)))
        checkpoint = self._folder / f"step-{self._learner.step:06}"
        if not checkpoint.exists():
            means = dict(zip(self._names, self._learner.means, strict=True))
            write_weights(checkpoint, means, self._tokenizer)
            write_known_words(checkpoint)
            (checkpoint / PROGRESS_FILE).write_text(progress + "\n", encoding="utf-8")
        scratch = self._folder / f"{STATE_FILE}.part"
        torch.save(self._learner.state(), scratch)
        _replace(scratch, self._folder / STATE_FILE)
        scratch = self._folder / f"{PROGRESS_FILE}.part"
        scratch.write_text(progress + "\n", encoding="utf-8")
        _replace(scratch, self._folder / PROGRESS_FILE)
        for old in sorted(self._folder.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old)
        return checkpoint


def _replace(scratch: Path, file: Path) -> None:
    """Give a written file its name, once its contents are on the disk."""
    with scratch.open("rb") as written:
        os.fsync(written.fileno())
    scratch.replace(file)


def write_weights(folder: Path, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Write weights as a checkpoint in the official layout, in bfloat16.

    Args:
        weights: parameter of the network → its values.
    """

    def numbers(name: str, place: ParameterSlice) -> Tensor:
        flat = weights[place.parameter].flatten()[place.offset : place.offset + place.numel]
        return flat.view(place.shape).to("cpu", torch.bfloat16)

    write_checkpoint(
        folder,
        configuration(tokenizer),
        numbers,
        dtype=torch.bfloat16,
        shard_bytes=SHARD_BYTES,
        tokenizer=tokenizer,
        recommended=RECOMMENDED,
    )
