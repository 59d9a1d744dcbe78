"""Measurements of earlier runs on this machine, from which the time and the memory of a run are estimated.

The file has no prompts: only models, settings that decide the speed, sizes and figures.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from config.errors import SenseNovaError
from config.later_settings import without_later_defaults
from config.settings import RECORDED_LOAD_SETTINGS, LoadSettings, Settings
from config.sizes import parse_size
from model import Event, Picture, Statistics, format_loras, parse_loras
from sensenova_cli.outputs.picture_record import recorded_model, recorded_weights
from sensenova_cli.system.atomic_files import replace_file
from sensenova_cli.system.data_folder import data_folder
from sensenova_cli.system.plain_files import read_plain_file
from sensenova_cli.system.private_files import make_private, make_private_folder
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.model_source import ModelOnDemand, model_name
from sensenova_cli.turns.run_turn import Outcome, Sink

FILE = "measurements.json"
MAX_ENTRIES = 200
"""Most measurements that the file keeps, newest first."""
MAX_BYTES = 2**20
MAX_KEPT = 2
"""Most times that a run writes its figures of the same kind: a run of thousands of pictures has little to add."""
SPEED_SETTINGS = ("device", "offload", "gpu_memory", "gpus", "tensor_parallel_size", "cfg_parallel_size", "server")
"""Load settings that pictures do not record, and that decide the speed."""

FEWER_COMPUTATIONS = ("cfg_every", "cfg_stop", "half_size_until")
"""Picture settings that leave out computations, besides the step cache."""


@dataclass(frozen=True)
class Measured:
    """The figures of one run.

    Attributes:
        key: the model and the settings that decide the speed, as text; see `speed_key`.
        pixels: pixels of a picture.
        step_seconds: seconds of a denoising step.
        extra_seconds: seconds of a picture besides its steps, such as reading the prompt.
        load_seconds: seconds until the model was loaded.
        peak: peak of memory in bytes, as the engine reports it.
        placement: number format and device, as the engine describes them.
    """

    key: str
    pixels: int
    step_seconds: float
    extra_seconds: float
    load_seconds: float
    peak: int
    placement: str


def speed_key(settings: Settings, load: LoadSettings, kind: str) -> str:
    """Return the model and the settings that decide the speed of a picture, apart from its size.

    Args:
        kind: the task.
    """
    names = {"model": recorded_model(model_name(load)), "weights": recorded_weights(load.weights_file)}
    loaded: dict[str, Any] = {name: getattr(load, name) for name in (*RECORDED_LOAD_SETTINGS, *SPEED_SETTINGS)}
    names_drawn = ("task", "guided", "images", "cache", "think", *FEWER_COMPUTATIONS)
    # Measurements of earlier versions have no settings that came later.
    drawn = without_later_defaults(dict(zip(names_drawn, drawing_settings(settings, kind), strict=True)))
    return json.dumps({**loaded, **names, "lora": format_loras(parse_loras(load.lora)), **drawn}, sort_keys=True)


def drawing_settings(settings: Settings, kind: str) -> tuple[object, ...]:
    """Return what else decides the speed: the task, whether text and pictures guide it, the step cache, whether the
    model thinks first, and the settings that leave out computations."""
    guided, by_images = settings.cfg_scale != 1, kind == "edit" and settings.img_cfg_scale != 1
    fewer = (getattr(settings, name) for name in FEWER_COMPUTATIONS)
    return kind, guided, by_images, settings.cache, settings.think, *fewer


def read_measurements() -> list[Measured]:
    """Return the measurements, newest first; none if the file cannot be read."""
    with contextlib.suppress(SenseNovaError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        content = json.loads(read_plain_file(data_folder() / FILE, MAX_BYTES) or b"[]")
        return [_checked(each) for each in content]
    return []


def keep_measurement(new: Measured) -> None:
    """Add a measurement to the file, in place of an older one of the same kind. If that fails, it is forgotten."""
    with contextlib.suppress(SenseNovaError, OSError):
        others = [each for each in read_measurements() if (each.key, each.pixels) != (new.key, new.pixels)]
        file = data_folder() / FILE
        make_private_folder(file.parent)
        replace_file(file, json.dumps([asdict(each) for each in [new, *others][:MAX_ENTRIES]], indent=1).encode())
        make_private(file)


class MeasuringSink(Sink):
    """Measures the pictures of a run. Figures of a second turn replace those of the first one, which has a warm-up.

    Args:
        source: the model.
    """

    def __init__(self, source: ModelOnDemand) -> None:
        self._source = source
        self._measured: Measured | None = None
        self._kept: Counter[tuple[str, int]] = Counter()

    def begin(self, turn: Turn) -> None:
        """Begin a turn without a picture."""
        super().begin(turn)
        self._size = ""

    def take(self, event: Event) -> None:
        """Take the size of a picture and the figures of the turn."""
        if isinstance(event, Picture):
            self._size = event.settings.size
        if isinstance(event, Statistics) and event.steps and event.denoise_seconds and (size := parse_size(self._size)):
            count = self.turn.settings.num_images
            kind = self.turn.task.kind
            self._measured = Measured(
                speed_key(self.turn.settings, self._source.settings, kind),
                size[0] * size[1],
                event.denoise_seconds / event.steps,
                max(0.0, event.seconds - event.denoise_seconds) / count,
                self._source.load_seconds,
                event.peak_memory,
                self._source.placement,
            )

    def end(self, outcome: Outcome) -> None:
        """Keep the figures."""
        made, self._measured = self._measured, None
        if made is not None and self._kept[made.key, made.pixels] < MAX_KEPT:
            self._kept[made.key, made.pixels] += 1
            keep_measurement(made)


def _checked(content: Any) -> Measured:
    """Return a measurement from JSON, and raise an error if it is not one."""
    made = Measured(**content)
    figures: Sequence[float] = (made.step_seconds, made.extra_seconds, made.load_seconds)
    if not all(isinstance(each, str) for each in (made.key, made.placement)):
        raise TypeError("a text is missing")
    if made.pixels <= 0 or not all(0 <= each < 1e9 for each in figures):
        raise ValueError("a figure is impossible")
    return replace(made, pixels=int(made.pixels), peak=int(made.peak))
