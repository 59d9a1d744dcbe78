"""The whole program as a process of its own, on the fake engine: `python -m tests.cli.fake_program generate …`.

FAKE_STEP_SECONDS makes each step take that long, from one second on saying so on stderr; FAKE_LOAD_SECONDS the
loading. FAKE_PREVIEW is the colour of previews; without it nobody may ask for one.
"""

import os
import time
from typing import Any

from PIL import Image

import model.engine
from config.settings import LoadSettings
from model import DEMO_MODEL, find_checkpoint
from sensenova_cli.__main__ import main
from tests.cli.fake_engine import FakeEngine


def open_engine(settings: LoadSettings, **options: object) -> Any:
    time.sleep(float(os.environ.get("FAKE_LOAD_SECONDS", "0")))
    engine = FakeEngine(find_checkpoint(settings.model or DEMO_MODEL))
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
    model.engine.open_engine = open_engine
    main()
