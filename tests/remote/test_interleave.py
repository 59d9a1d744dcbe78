"""`interleave --server`: files, output and records are those of a model on this machine."""

import json
import threading
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.harness import Program
from tests.remote.local_and_remote import Both, both
from tests.remote.test_lost_connections import is_idle, press_when, served, signals
from tests.serve.conftest import Serve, Served, serve
from tests.waiting import PATIENCE, until

__all__ = ["both", "serve", "served", "signals"]

SMALL = ("--size", "64x64", "--num-steps", "2")


@pytest.mark.parametrize(
    "words",
    [
        ("A tale", *SMALL, "-q"),
        ("A tale", *SMALL, "--json", "-q"),
        ("A tale", *SMALL, "--html", "book.html", "-o", "book/", "--no-think", "--max-images", "1", "-q"),
        ("<image> and more", "--image", "in.png", *SMALL, "--system", "Brief.", "--seed", "7", "-q"),
        ("A tale", *SMALL, "--max-tokens", "2"),
        ("A tale", "--num-steps", "2", "-q"),
    ],
)
def test_the_same_results(both: Both, words: tuple[str, ...]) -> None:
    Image.new("RGB", (64, 96), "teal").save("in.png")
    local, remote = both("interleave", *words)
    assert local.outcome.code == 0
    assert remote.comparable == local.comparable


def test_a_picture_is_repeated_on_either_side(both: Both) -> None:
    both("interleave", "A tale", *SMALL)
    local, remote = both("interleave", "--from", "a-tale-43-1.png", "-o", "again/", "-q")
    assert local.outcome.code == 0
    assert remote.comparable == local.comparable
    for name in ("a-tale-42-0.png", "a-tale-43-1.png"):
        assert Path("again", name).read_bytes() == Path(name).read_bytes()


def test_a_session(both: Both) -> None:
    lines = f"/interleave a tale {' '.join(SMALL)}\n/chat and then?\n/continue in winter? {' '.join(SMALL)}\n"
    local, remote = both("repl", "-q", stdin=lines)
    assert local.outcome.code == 0, local.outcome.stderr
    assert remote.comparable == local.comparable


@pytest.mark.usefixtures("signals")
def test_ctrl_c_stops_the_server_and_keeps_what_has_arrived(served: Served) -> None:
    reached, pressed = threading.Event(), threading.Event()
    steps: list[int] = []

    def on_step(number: int) -> None:
        steps.append(number)
        if len(steps) == 3 + 2 * 2 + 1:  # three texts, two pictures of two steps, and a step of the third picture
            reached.set()
            assert pressed.wait(PATIENCE)

    served.engine.story = [["<think>"], ["One."], None, ["Two."], None, ["Three."], None]
    served.engine.on_step = on_step

    def release() -> None:
        until(lambda: served.service.scheduler.running is None or served.service.scheduler.running.stop.requested)
        pressed.set()

    press_when(lambda: reached.is_set() and Path("a-tale-43-1.png").exists(), release)
    outcome = Program()("interleave", "A tale", *SMALL, "--no-think", "--server", served.url)
    assert outcome.code == 130
    shown = "One.\n\n![picture 1](a-tale-42-0.png)\n\nTwo.\n\n![picture 2](a-tale-43-1.png)\n"
    assert outcome.stdout in (shown, shown + "\nThree.\n"), "the last words may still be on their way"
    until(lambda: is_idle(served))
    assert served.engine.request_closed


def test_defaults_follow_the_limits_of_the_server(serve: Serve) -> None:
    server = serve(max_images=1, max_new_tokens=100)
    words = ("interleave", "A tale", *SMALL, "--server", server.url)
    outcome = Program()(*words, "--json")
    assert outcome.code == 0, outcome.stderr
    answer = json.loads(outcome.stdout)
    assert (answer["finish"], answer["settings"]["max_images"], answer["settings"]["max_tokens"]) == ("images", 1, 100)
    for option, value in (("--max-images", "2"), ("--max-tokens", "101")):
        refused = Program()(*words, option, value)
        assert (refused.code, "this server allows" in refused.stderr) == (2, True)


def test_limits_of_the_server(both: Both) -> None:
    _, remote = both("interleave", "A tale", *SMALL, "--max-images", "11")
    assert remote.outcome.code == 2
    assert "this server allows 10 at most" in remote.outcome.stderr
    _, remote = both("interleave", "A tale", "--json", *SMALL, "--max-images", "2")
    assert json.loads(remote.outcome.stdout)["finish"] == "end"
