"""Interleaved answers on a server with a real model, seen from the library: the same events as here."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from config.settings import ImageSettings, LoadSettings, TextSettings
from model import (
    Engine,
    Event,
    InterleavedAnswer,
    InterleaveRequest,
    Message,
    Picture,
    PicturePart,
    PrefixRead,
    RequestError,
    Statistics,
    Waiting,
    open_engine,
)
from model.remote.failures import DamagedAnswerError
from model.remote.native import _Received
from sensenova_cli.serve.guard import Guard
from tests.parity.cases import case_id
from tests.parity.interleaved import interleave_request, interleaved_cases, scripted_checkpoint
from tests.remote.conftest import KIND
from tests.remote.fake_omni import FakeOmni
from tests.serve.conftest import serving

CASE = next(case for case in interleaved_cases() if case_id(case) == "u1/think")
RED = Image.new("RGB", (64, 64), "red")


@pytest.fixture
def engines(home: Path, parity_checkpoint: Callable[[str], Path], tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """A model in this process, and the same model on a server."""
    folder = scripted_checkpoint(CASE, parity_checkpoint("u1"), tmp_path / "scripted")
    local, on_server = (Engine.load(folder, device="cpu", dtype="float32", size="64x64") for _ in range(2))
    with serving(folder, Guard(), lambda on_progress: on_server) as served:
        yield local, open_engine(LoadSettings(server=served.url))


def comparable(events: list[Event]) -> list[Any]:
    """Return the events without their times, and pictures as bytes."""
    found: list[Any] = []
    for event in events:
        if isinstance(event, Picture):
            found.append((event.index, event.count, event.image.tobytes(), event.settings))
        elif not isinstance(event, Waiting | Statistics):
            found.append(replace(event, seconds=0.0) if hasattr(event, "seconds") else event)
    return found


def test_the_same_events(engines: tuple[Engine, Engine]) -> None:
    request = replace(interleave_request(CASE), preview_every=1)
    here, there = (list(engine.run(request)) for engine in engines)
    assert any(isinstance(event, InterleavedAnswer) for event in here)
    assert comparable(there) == comparable(here)


def test_earlier_answers_travel_with_their_pictures(engines: tuple[Engine, Engine]) -> None:
    history = (Message("user", "a kite, like <image>"), Message("assistant", "It flies.", (3,)))
    settings = ImageSettings(size="64x64", num_steps=1)
    text = TextSettings(max_tokens=3, seed=settings.seed)
    request = InterleaveRequest("more", (RED, RED, RED), settings, text, "be brief", history)
    here, there = (list(engine.run(request)) for engine in engines)
    assert next(event for event in here if isinstance(event, PrefixRead)).image_tokens == 3 * 256
    assert comparable(there) == comparable(here)


def test_a_picture_that_is_missing_is_noticed() -> None:
    received = _Received(InterleaveRequest("a book"))
    received.take(InterleavedAnswer((PicturePart(0, 42, "64x64"),), "end"))
    with pytest.raises(DamagedAnswerError, match="a result is missing"):
        received.take(Statistics(0, 0, 0, 0.0, 0.0, 0.0, 0, "cpu"))


def test_a_server_without_interleaved_answers_says_so(newer: FakeOmni) -> None:
    engine = open_engine(LoadSettings(server=newer.url))
    with pytest.raises(RequestError, match=f"{KIND} does not run interleaved answers") as raised:
        next(engine.run(InterleaveRequest("a book")))
    assert "use a server that `sensenova serve` has started" in raised.value.hint
