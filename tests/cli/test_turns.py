"""The path of every turn: when settings are merged, requests checked and the model opened, and on which thread."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from config.settings import LoadSettings
from config.sources import Layers, read_layers
from model import Card, Engine, Event, NumericsError, Picture, Request
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.system.interrupts import Stop
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.run_turn import Frontend, Outcome, Sink, run_turns
from sensenova_cli.turns.tasks import AnswerTask, PictureTask
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import REPOSITORY, Program
from tests.waiting import PATIENCE


class RecordingSink(Sink):
    """A sink that records all calls."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.events: list[Event] = []
        self.outcomes: list[Outcome] = []

    def begin(self, turn: Turn) -> None:
        super().begin(turn)
        self.turns.append(turn)

    def take(self, event: Event) -> None:
        self.events.append(event)

    def end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @property
    def pictures(self) -> list[Image.Image]:
        return [event.image for event in self.events if isinstance(event, Picture)]


class FakeSource:
    """A model source that records the order of calls."""

    settings = LoadSettings()

    def __init__(self, checkpoint: Path) -> None:
        self.engine = FakeEngine(checkpoint)
        self.calls: list[str] = []

    def card(self, view: TurnView) -> Card:
        self.calls.append("card")
        return self.engine.card

    def open(self, requests: Sequence[Request], view: TurnView) -> Engine:
        self.calls.append(f"open for {len(requests)}")
        return self.engine


@pytest.fixture
def source(home: Path) -> FakeSource:
    return FakeSource(home.parent / "checkpoint")


@pytest.fixture
def view(home: Path) -> TurnView:
    return TurnView(quiet=True)


def frontend(view: TurnView, sink: RecordingSink, stop: Stop | None = None) -> Frontend:
    return Frontend(view, lambda turns: [sink], stop or Stop())


def test_a_turn_runs_on_any_thread_and_can_be_stopped_from_another(source: FakeSource, view: TurnView) -> None:
    stop, sink, raised = Stop(), RecordingSink(), []
    reached = threading.Event()

    def on_step(number: int) -> None:
        if number == 2:
            reached.set()
            assert stopped.wait(PATIENCE)

    def work() -> None:
        tasks = [PictureTask("generate", Prompt("a cat")), AnswerTask("chat", "hello")]
        try:
            run_turns(tasks, read_layers(), source, frontend(view, sink, stop))
        except BaseException as error:
            raised.append(error)

    stopped = threading.Event()
    source.engine.on_step = on_step
    thread = threading.Thread(target=work)
    thread.start()
    assert reached.wait(PATIENCE)
    stop.request()
    stopped.set()
    thread.join(PATIENCE)
    assert [type(error) for error in raised] == [KeyboardInterrupt]
    assert [outcome.status for outcome in sink.outcomes] == ["cancelled"]
    assert source.engine.request_closed and sink.pictures == []


def test_turns_can_finish_on_another_thread(source: FakeSource, view: TurnView) -> None:
    sink = RecordingSink()
    tasks = [PictureTask("generate", Prompt("a cat")), AnswerTask("chat", "hello")]
    thread = threading.Thread(target=run_turns, args=(tasks, read_layers(), source, frontend(view, sink)))
    thread.start()
    thread.join(PATIENCE)
    assert [outcome.status for outcome in sink.outcomes] == ["done", "done"]
    assert [turn.prompt for turn in sink.turns] == ["a cat", "hello"]
    assert len(sink.pictures) == 1


def test_everything_is_checked_before_the_model_is_opened(source: FakeSource, view: TurnView) -> None:
    sink = RecordingSink()
    tasks = [PictureTask("generate", Prompt("a cat")), PictureTask("generate", Prompt("a <image> cat"))]
    with pytest.raises(Exception, match="1 <image> placeholders for 0 picture"):
        run_turns(tasks, read_layers(), source, frontend(view, sink))
    assert source.calls == ["card"]

    def refuse(turns: Sequence[Turn]) -> list[RecordingSink]:
        raise OSError("nothing can be written there")

    with pytest.raises(OSError, match="nothing can be written"):
        run_turns(tasks[:1], read_layers(), source, Frontend(view, refuse, Stop()))
    assert source.calls == ["card", "card"]
    run_turns(tasks[:1], read_layers(), source, frontend(view, sink))
    assert source.calls[2:] == ["card", "open for 1"]


def test_sinks_learn_how_a_turn_failed(source: FakeSource, view: TurnView) -> None:
    def on_step(number: int) -> None:
        raise NumericsError("the picture came out as NaN", "try again")

    source.engine.on_step = on_step
    sink = RecordingSink()
    with pytest.raises(NumericsError):
        run_turns([PictureTask("generate", Prompt("a cat"))], read_layers(), source, frontend(view, sink))
    assert [(outcome.status, outcome.reason) for outcome in sink.outcomes] == [
        ("failed", "the picture came out as NaN")
    ]


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record reads and merges of settings, in order."""
    calls: list[str] = []
    resolve: Callable[..., object] = Layers.resolve

    def counted(self: Layers, *arguments: object) -> object:
        calls.append("merge")
        return resolve(self, *arguments)

    def read(*arguments: object, **options: object) -> Layers:
        calls.append("read")
        return read_layers(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Layers, "resolve", counted)
    monkeypatch.setattr("config.sources.read_layers", read)
    return calls


def test_a_command_reads_and_merges_its_settings_once(program: Program, home: Path, merges: list[str]) -> None:
    Image.new("RGB", (64, 64), "red").save(home / "red.png")
    for words in (
        ["generate", "a cat", "--width", "96"],
        ["edit", "make it blue", "--image", "red.png"],
        ["describe", "red.png"],
        ["chat", "hello", "--json"],
        ["run", "--prompt", "a cat", "--image", "red.png"],
    ):
        merges.clear()
        assert program(*words).code == 0
        assert merges == ["read", "merge"], words


def test_a_card_with_loras_is_read_without_pytorch(home: Path) -> None:
    save_file({"a": np.zeros(1, np.float32)}, home / "a.safetensors", {"num_inference_steps": "8"})
    code = (
        "import sys; from config.settings import LoadSettings; from model import read_card; "
        "card = read_card(LoadSettings(model='demo', lora='a.safetensors')); "
        "print(card.recommended.settings['num_steps'], {'torch', 'transformers'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "8 set()\n"
