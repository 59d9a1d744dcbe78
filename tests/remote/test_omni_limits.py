"""What a vLLM-Omni server cannot do: settings that are refused, failures, cancelling, and waiting without progress."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from config.settings import ImageSettings, LoadSettings
from model.events import Picture, Waiting
from model.opening import open_engine
from model.requests import GenerateRequest
from sensenova_cli.render.waiting import LiveWaiting
from tests.cli.harness import REPOSITORY
from tests.remote.conftest import DRAWS, KIND, done, run
from tests.remote.fake_omni import MODEL, FakeOmni, Mistake
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("home")


def posts(fake: FakeOmni) -> int:
    return sum(path.startswith("POST") for path in fake.paths)


REFUSED = [
    ("generate x --max-think-tokens 9", "--max-think-tokens", "--max-think-tokens 1024"),
    ("generate x --negative blurry", "--negative", "leave it out"),
    ("generate x --noise cpu", "--noise", "--noise device"),
    ("generate x --cache-threshold 0.1", "--cache-threshold", "leave it out"),
    ("edit --image in.png x --input-pixels native", "--input-pixels", "--input-pixels auto"),
    ("describe in.png --do-sample --top-p 0.5", "--top-p", "--top-p 1.0"),
    ("chat hi --do-sample --top-k 3", "--top-k", "--top-k 0"),
    ("chat hi --repetition-penalty 1.1", "--repetition-penalty", "--repetition-penalty 1.0"),
    ("chat hi --system brief", "system messages", "leave it out"),
    ("generate x --lora style.safetensors", "LoRAs", "leave --lora out"),
    ("interleave tale --json", "does not run interleaved answers", "--server off"),
    ("generate x --model other/model", f"has the model {MODEL}, not other/model", "leave --model out"),
]


@pytest.mark.parametrize(("line", "what", "way_out"), REFUSED)
def test_what_the_server_cannot_do_is_refused(newer: FakeOmni, line: str, what: str, way_out: str) -> None:
    Image.new("RGB", (32, 32)).save("in.png")
    outcome = run(newer, *line.split())
    assert outcome.code == 2, outcome.stderr
    assert KIND in outcome.stderr and what in outcome.stderr and way_out in outcome.stderr
    assert posts(newer) == 0 and outcome.stdout == ""
    assert sorted(path.name for path in Path().iterdir()) == ["in.png"]


def test_a_preset_of_the_step_cache_is_refused(newer: FakeOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses it, also if the library is not installed here."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = run(newer, "generate", "x", "--cache", "balanced")
    assert outcome.code == 2 and f"{KIND} has no setting --cache" in outcome.stderr and posts(newer) == 0


def test_a_refused_setting_of_a_profile_can_be_put_back(newer: FakeOmni) -> None:
    Path("sensenova.toml").write_text('noise = "cpu"\n')
    outcome = run(newer, "generate", "x", "--size", "64x64")
    assert outcome.code == 2 and "use --noise device" in outcome.stderr
    assert run(newer, "generate", "x", "--size", "64x64", "--noise", "device").code == 0


def test_a_profile_for_edits_does_not_stop_other_commands(newer: FakeOmni) -> None:
    Path("sensenova.toml").write_text('input_pixels = "native"\n')
    done(newer, "generate", "x", "--size", "64x64", "-o", "x.png")
    outcome = run(newer, "edit", "--image", "x.png", "red")
    assert outcome.code == 2 and "use --input-pixels auto" in outcome.stderr


def test_settings_at_their_defaults_are_not_refused(newer: FakeOmni) -> None:
    done(newer, "generate", "x", "--size", "64x64", "--noise", "device", "--cache", "off", "--max-think-tokens", "1024")
    done(newer, "chat", "x", "--top-p", "1", "--lora", "off")


def test_a_session_goes_on_after_a_refusal(newer: FakeOmni) -> None:
    outcome = run(newer, "repl", stdin="a cat --noise cpu\na cat --size 64x64\n/lora style.safetensors\n")
    assert f"{KIND} has no setting noise" in outcome.stderr and "use /set noise device" in outcome.stderr
    assert f"{KIND} merges LoRAs only when it starts" in outcome.stderr
    assert len(newer.drawn) == 1


def error(status: int, message: str, kind: str = "BadRequestError", **more: Any) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": kind, "code": status}, **more}


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}

FAILURES: list[tuple[Any, int, str]] = [
    (error(400, "size must be positive"), 2, f"{KIND} refuses the request: size must be positive"),
    ((400, {"detail": "bad seed"}), 2, f"{KIND} refuses the request: bad seed"),
    ((422, {"detail": [{"loc": ["body", "size"], "msg": "wrong size"}, {"msg": "no"}]}), 2, "wrong size; no"),
    (error(404, "The model `x` does not exist."), 2, "does not exist"),
    (error(500, "Image generation failed: 3 channels expected"), 1, "Image generation failed: 3 channels expected"),
    (error(500, "Image generation failed: CUDA out of memory. Tried to allocate 20.00 GiB"), 4, "out of memory"),
    ((503, {"detail": "no engine"}), 1, "cannot run this now: no engine"),
]


@pytest.mark.parametrize(("failure", "code", "words"), FAILURES)
def test_errors_of_the_server(newer: FakeOmni, failure: Any, code: int, words: str) -> None:
    def fail(arguments: dict[str, Any]) -> None:
        raise Mistake(*failure)

    newer.fault = fail
    for line in ("generate cat --size 64x64", "chat hi"):
        outcome = run(newer, *line.split())
        assert outcome.code == code, outcome.stderr
        assert words in outcome.stderr and "Traceback" not in outcome.stderr
        assert outcome.stdout == "" and list(Path().iterdir()) == []


def chat_answer(message: Any) -> bytes:
    return json.dumps({"choices": [{"message": message}], "metrics": None}).encode()


@pytest.mark.parametrize(("raw", "words"), [
    ((502, "text/html", b"<html>Bad Gateway</html>"), "error 502"),
    ((200, "text/html", b"<html>Log in</html>"), "is not JSON"),
    ((200, "application/json", b'{"choices": []}'), "no choices"),
    ((200, "application/json", b"[1]"), "no choices"),
    ((200, "application/json", b'{"choices": [1]}'), "no content"),
    ((200, "application/json", chat_answer({"content": "I cannot draw."})), f"{KIND} answered without a picture"),
    ((200, "application/json", chat_answer({"content": [PICTURE]})), "damaged picture"),
    ((200, "application/json", chat_answer({"content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]})),
     "damaged picture"),
])  # fmt: skip
def test_answers_that_are_not_as_documented(newer: FakeOmni, raw: Any, words: str) -> None:
    newer.raw = raw
    outcome = run(newer, "generate", "cat", "--size", "64x64")
    assert outcome.code == 1 and words in outcome.stderr, outcome.stderr
    assert "Traceback" not in outcome.stderr and list(Path().iterdir()) == []


def test_a_picture_as_the_answer_to_a_question(newer: FakeOmni) -> None:
    newer.raw = (200, "application/json", chat_answer({"content": [PICTURE]}))
    outcome = run(newer, "chat", "hi")
    assert outcome.code == 1 and f"{KIND} answered a question without text" in outcome.stderr


def test_a_dead_engine(newer: FakeOmni) -> None:
    newer.is_alive = False
    outcome = run(newer, "generate", "cat", "--size", "64x64")
    assert outcome.code == 1 and "EngineCore encountered an issue" in outcome.stderr


def test_a_lost_connection_ends_the_turn_and_the_session_goes_on(newer: FakeOmni) -> None:
    newer.drops = 1
    outcome = run(newer, "repl", stdin="a cat --size 64x64\na dog --size 64x64\n")
    assert outcome.code == 1 and f"the connection to {newer.url} was lost" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert len(outcome.stdout.splitlines()) == 1 and newer.prompts == ["a dog"]
    newer.drops = 1
    one_shot = run(newer, "generate", "a cat", "--size", "64x64")
    assert one_shot.code == 1 and "was lost" in one_shot.stderr and one_shot.stdout == ""


def test_pictures_before_a_failure_are_saved(newer: FakeOmni) -> None:
    def fail(arguments: dict[str, Any]) -> None:
        if arguments["seed"] == 44:
            raise RuntimeError("boom")

    newer.fault = fail
    outcome = run(newer, "generate", "cat", "-n", "3", "--size", "64x64", "-o", "{seed}.png")
    assert outcome.code == 1 and outcome.stdout.split() == ["42.png", "43.png"]
    assert "Image generation failed: boom" in outcome.stderr


def test_a_cancelled_request_closes_its_connection_before_the_answer_begins(newer: FakeOmni) -> None:
    newer.gate.clear()
    engine = open_engine(LoadSettings(server=newer.url))
    events: Any = engine.run(GenerateRequest("a cat", ImageSettings(size="64x64")))
    assert any(isinstance(event, Waiting) for event in events)
    assert newer.started.wait(PATIENCE)
    events.close()
    assert newer.gone.wait(PATIENCE), "the server still thinks that somebody waits"
    newer.gate.set()
    again = list(engine.run(GenerateRequest("a cat", ImageSettings(size="64x64"))))
    assert any(isinstance(event, Picture) for event in again), "the engine stays usable"
    engine.close()


def test_ctrl_c_ends_at_once_and_says_that_the_server_may_go_on(newer: FakeOmni) -> None:
    newer.gate.clear()
    process = subprocess.Popen(
        [sys.executable, "-m", "sensenova_cli", "generate", "cat", "--size", "64x64", "--server", newer.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert newer.started.wait(PATIENCE)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and stdout == ""
    assert f"{KIND} may go on with the cancelled request, and the next request then waits for it" in stderr
    assert newer.gone.wait(PATIENCE)


def test_waiting_shows_elapsed_time_and_an_estimate(newer: FakeOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensenova_cli.render.waiting.INTERVAL", 0.01)
    newer.fault = lambda arguments: threading.Event().wait(0.6)
    lines = done(newer, "generate", "cat", "-n", "2", "--size", "64x64").stderr.splitlines()
    assert any(re.fullmatch(r"picture 1 of 2: \d+ s", line) for line in lines)
    assert any(re.fullmatch(r"picture 2 of 2: \d+ s of about \d+ s", line) for line in lines)
    assert not any(line.startswith("picture 1") and "about" in line for line in lines)
    assert not any(re.match(r"picture.*: (step \d|\d+ steps)", line) for line in lines), "no step is known"
    assert any(re.fullmatch(r"answer: \d+ s", line) for line in done(newer, "chat", "hi").stderr.splitlines())


def test_a_short_wait_prints_nothing_in_a_pipe(newer: FakeOmni) -> None:
    newer.fault = lambda arguments: threading.Event().wait(0.6)
    assert "picture" not in done(newer, "generate", "cat", "--size", "64x64").stderr.replace(DRAWS, "").replace(
        "sends a picture", ""
    )


def test_the_row_on_a_screen_is_removed_in_the_end() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60)
    row = LiveWaiting(console, "picture 2 of 4", time.perf_counter() - 12, 34.0)
    row.update()
    row.close()
    assert "picture 2 of 4: 12 s of about 34 s" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K"), "the row is erased"
