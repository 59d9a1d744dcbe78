"""Start-up of the library: loading in a new process, and the first and second request.

    python -m model.bench.startup '{"model": "demo", "dtype": "float32"}' 256x256

prints the seconds of `measure_startup` as JSON. `sensenova bench startup` runs it several times.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from config.errors import SenseNovaError
from config.settings import ImageSettings, LoadSettings
from model.engine import LocalEngine
from model.events import DenoisingStep, Event, ThinkToken
from model.opening import open_engine
from model.requests import GenerateRequest
from model.timings import IMPORTS, READ, process_timings

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

    from model.checkpoint.layout import ParameterSlice

PROMPTS = ("a red circle on a blue background", "a green square on a white background")
"""Two prompts that share no prefix beyond the system message."""
STEPS = 4


def measure_startup(settings: LoadSettings, size: str) -> dict[str, float]:
    """Load a model, draw two pictures and think once; return the seconds of each part by its name."""
    clock = time.perf_counter()
    engine = open_engine(settings, size=size)
    loaded = time.perf_counter() - clock
    seconds = {
        "imports of the library": process_timings.phases()[IMPORTS],
        "loading, with the imports": loaded,
        "reading of the weights": process_timings.phases()[READ],
    }
    for name, prompt in zip(("first", "second"), PROMPTS, strict=True):
        request = GenerateRequest(prompt, ImageSettings(size=size, num_steps=STEPS))
        seconds[f"{name} picture, to its first step"] = _seconds_to(engine, request, DenoisingStep)
    think = GenerateRequest(PROMPTS[0], ImageSettings(size=size, num_steps=1, think=True, max_think_tokens=2))
    seconds["first think token"] = _seconds_to(engine, think, ThinkToken)
    engine.close()
    return seconds


def _seconds_to(engine: Any, request: GenerateRequest, kind: type[Event]) -> float:
    """Run a request and return the seconds until its first event of a kind. Run its other steps, too."""
    assert isinstance(engine, LocalEngine)
    clock, seconds = time.perf_counter(), 0.0
    with closing(cast("Generator[Event]", engine.run(request))) as events:
        for event in events:
            if isinstance(event, kind) and not seconds:
                seconds = time.perf_counter() - clock
    return seconds


@contextmanager
def temporary_checkpoint(shape: str) -> Iterator[Path]:
    """Write a checkpoint of zeros with a published model's shape to a temporary folder: 35 GB for an 8B model.

    Raises:
        SenseNovaError: it cannot be written.
    """
    import torch
    from safetensors import SafetensorError

    from model.checkpoint.random_weights import SHAPES, byte_tokenizer, config_fields
    from model.checkpoint.writer import write_checkpoint

    def zeros(name: str, place: "ParameterSlice") -> "Tensor":
        return torch.zeros(place.shape, dtype=torch.bfloat16)

    with TemporaryDirectory(prefix="sensenova-startup-") as scratch:
        folder = Path(scratch) / shape
        try:
            write_checkpoint(
                folder, config_fields(**SHAPES[shape]), zeros, dtype=torch.bfloat16, tokenizer=byte_tokenizer()
            )
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SenseNovaError(
                f"a checkpoint cannot be written to {scratch}: {reason}", "set TMPDIR to a place with 36 GB of room"
            ) from error
        yield folder


if __name__ == "__main__":
    print(json.dumps(measure_startup(LoadSettings.model_validate(json.loads(sys.argv[1])), sys.argv[2])))
