"""The program on the fake engine, for a process of its own: `python -m tests.cli.fake_program generate …`.

Environment variables: FAKE_STEP_SECONDS is the time of a step; a step of a second or more announces itself on stderr.
FAKE_LOAD_SECONDS is the time of loading. FAKE_PREVIEW is the color of previews; without it a preview is an error.
Lines of progress are printed at once, also for short work.
"""

import os
import time
from typing import Any

from PIL import Image

import model.opening
from config.settings import LoadSettings
from model import DEMO_MODEL, find_checkpoint
from sensenova_cli.__main__ import main
from sensenova_cli.render import progress
from tests.cli.fake_engine import FakeEngine


def open_engine(settings: LoadSettings, **options: object) -> Any:
    time.sleep(float(os.environ.get("FAKE_LOAD_SECONDS", "0")))
    engine = FakeEngine(find_checkpoint(settings.model or DEMO_MODEL), settings.dtype)
    engine.on_step = take_a_step
    if "FAKE_PREVIEW" in os.environ:
        engine.predict = lambda longer_side: Image.new("RGB", (longer_side, longer_side), os.environ["FAKE_PREVIEW"])
    return engine


def take_a_step(number: int) -> None:
    seconds = float(os.environ.get("FAKE_STEP_SECONDS", "0"))
    if seconds >= 1:
        os.write(2, b"a step has begun\n")
    time.sleep(seconds)


if __name__ == "__main__":
    model.opening.open_engine = open_engine
    progress.SHORT_SECONDS = 0.0
    main()
