"""Connections that end, stall or garble, servers that die, and Ctrl-C: nothing hangs, nothing is half-written."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.errors import SenseNovaError
from model.errors import DeviceMemoryError, NumericsError, RequestError
from model.remote import native
from model.remote.http import Connection
from sensenova_cli.system.first_signals import SIGNALS
from sensenova_cli.system.interrupts import handle_signals
from tests.cli.harness import REPOSITORY, Outcome, Program
from tests.remote.bad_servers import listening, read_request
from tests.remote.local_and_remote import environment
from tests.remote.proxy import Cut, Harm, Proxy, proxying
from tests.repl.terminal import Terminal
from tests.serve.conftest import Serve, Served, home, serve  # noqa: F401  # fixtures
from tests.waiting import PATIENCE, until

EVENTS = ("queued", "queued", "prefix", "prefix", "step", "step", "step", "step", "picture", "statistics")
"""Events of a picture of four steps."""
FIRST_OF_EACH_KIND = tuple(EVENTS.index(kind) for kind in dict.fromkeys(EVENTS))
THINKING = EVENTS[:4] + ("think_token",) * 4 + ("think",) + EVENTS[4:]
ANSWER = ("queued", "queued", "prefix", "token", "token", "token", "token", "answer", "statistics")


@pytest.fixture
def signals() -> Iterator[None]:
    """Signals as the program handles them."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handle_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def proxy(served: Served) -> Iterator[Proxy]:
    """A proxy in front of the server."""
    with proxying(lambda: int(served.url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def served(serve: Serve) -> Served:  # noqa: F811
    """A server on a fake engine."""
    return serve()


def draw(url: str, *words: str) -> Outcome:
    """Ask for a picture."""
    return Program()("generate", "a cat", "--num-steps", "4", "-o", "cat.png", "--server", url, *words)


@pytest.fixture
def expected(served: Served) -> bytes:
    """The picture without any disturbance."""
    assert draw(served.url).code == 0
    content = Path("cat.png").read_bytes()
    Path("cat.png").unlink()
    return content


def is_idle(served: Served) -> bool:
    """Whether no request runs."""
    return served.service.scheduler.running is None


def after_the_end(served: Served, harm: Harm) -> Harm:
    """Return a harm that waits until the server has finished the request."""

    def wait_and_harm(content: bytes) -> bytes:
        until(lambda: is_idle(served))
        return harm(content)

    return wait_and_harm


def cut(content: bytes) -> bytes:
    """End the connection before the event."""
    raise Cut


def cut_in_the_middle(content: bytes) -> bytes:
    """End the connection inside the event."""
    raise Cut(content[:20])


def garble_the_name(content: bytes) -> bytes:
    """Change the first line."""
    return content[:7] + b"#" + content[8:]


def garble_the_data(content: bytes) -> bytes:
    """Change the start of the JSON."""
    return content.replace(b'data: {"', b'data: }"', 1)


def merge_lines(content: bytes) -> bytes:
    """Remove an end of a line."""
    return content.replace(b"\n", b" ", 1)


HARMS = (cut, cut_in_the_middle, garble_the_name, garble_the_data, merge_lines)


@pytest.mark.parametrize("at", range(len(EVENTS)))
@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_picture_that_was_finished_meanwhile_is_fetched(
    served: Served, proxy: Proxy, expected: bytes, harm: Harm, at: int
) -> None:
    proxy.at, proxy.harm = at, after_the_end(served, harm)
    outcome = draw(proxy.url)
    assert proxy.harmed.is_set(), "the proxy found no such event"
    assert (outcome.code, outcome.stdout) == (0, "cat.png\n"), outcome.stderr
    assert Path("cat.png").read_bytes() == expected
    assert len(served.engine.requests) == 2, "the request was sent again"


@pytest.mark.parametrize("at", range(EVENTS.index("picture") - 1))
@pytest.mark.parametrize("harm", [cut, cut_in_the_middle])
def test_a_picture_that_was_not_finished_is_an_error(served: Served, proxy: Proxy, harm: Harm, at: int) -> None:
    """The server cannot go beyond the event before the cut."""

    def on_step(number: int) -> None:
        if at >= EVENTS.index("step") and number <= at - EVENTS.index("step") + 1:
            return
        until(lambda: proxy.harmed.is_set())
        job = served.service.scheduler.running
        if job is not None:
            until(lambda: job.stop.requested)

    served.engine.on_step = on_step
    proxy.at, proxy.harm = at, harm
    outcome = draw(proxy.url)
    assert outcome.code == 1
    assert outcome.stderr.splitlines()[-2].startswith(f"error: the connection to {proxy.url} was lost")
    assert outcome.stderr.splitlines()[-1].startswith("hint: ")
    assert not list(Path.cwd().iterdir())
    until(lambda: is_idle(served))
    assert served.metric('requests_total{end="cancelled"}') == 1


@pytest.mark.parametrize("at", FIRST_OF_EACH_KIND)
def test_a_stalled_connection_is_given_up(
    served: Served, proxy: Proxy, expected: bytes, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays open, and nothing arrives any more; the result is fetched on another one."""
    monkeypatch.setattr(native, "SILENCE_SECONDS", 1.0)
    ended = threading.Event()

    def stall(content: bytes) -> bytes:
        ended.wait(PATIENCE)
        raise Cut

    proxy.at, proxy.harm = at, stall
    outcome = draw(proxy.url)
    ended.set()
    assert (outcome.code, outcome.stdout) == (0, "cat.png\n"), outcome.stderr
    assert Path("cat.png").read_bytes() == expected


@pytest.mark.parametrize("at", FIRST_OF_EACH_KIND)
def test_a_delay_changes_nothing(served: Served, proxy: Proxy, expected: bytes, at: int) -> None:
    def delay(content: bytes) -> bytes:
        time.sleep(0.2)  # longer than the client waits before it looks for Ctrl-C
        return content

    proxy.at, proxy.harm = at, delay
    outcome = draw(proxy.url)
    assert (outcome.code, outcome.stdout) == (0, "cat.png\n"), outcome.stderr
    assert Path("cat.png").read_bytes() == expected
    assert "lost" not in outcome.stderr


def test_a_flipped_bit_in_a_picture_is_noticed(served: Served, proxy: Proxy, expected: bytes) -> None:
    """At every place of the event, by its distance from the start."""
    for place in range(60, 700, 40):

        def flip(content: bytes, place: int = place) -> bytes:
            return content[:place] + (b"A" if content[place : place + 1] != b"A" else b"B") + content[place + 1 :]

        proxy.at, proxy.harm = EVENTS.index("picture"), after_the_end(served, flip)
        proxy.harmed.clear()
        outcome = draw(proxy.url, "-f")
        assert (outcome.code, outcome.stdout) == (0, "cat.png\n"), outcome.stderr
        assert Path("cat.png").read_bytes() == expected, f"a wrong picture was accepted, {place}"


@pytest.mark.parametrize("at", range(len(THINKING)))
@pytest.mark.parametrize("harm", [cut, garble_the_data])
def test_think_text_is_printed_once(served: Served, proxy: Proxy, harm: Harm, at: int) -> None:
    proxy.at, proxy.harm = at, after_the_end(served, harm)
    outcome = draw(proxy.url, "--think", "--print-think")
    assert proxy.harmed.is_set()
    assert (outcome.code, outcome.stdout) == (0, "A cat sits.\nIt purrs.\ncat.png\n"), outcome.stderr


@pytest.mark.parametrize("at", range(len(ANSWER)))
@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_an_answer_is_completed(served: Served, proxy: Proxy, harm: Harm, at: int) -> None:
    proxy.at, proxy.harm = at, after_the_end(served, harm)
    outcome = Program()("chat", "Hello", "--server", proxy.url)
    assert proxy.harmed.is_set()
    assert (outcome.code, outcome.stdout) == (0, "It is a cat.\n"), outcome.stderr


def test_finished_pictures_are_kept_if_the_others_are_not(served: Served, proxy: Proxy) -> None:
    """The connection is lost before the first picture arrives, and the server stops in the second one."""
    steps = []

    def on_step(number: int) -> None:
        steps.append(number)
        if len(steps) == 6:
            proxy.harmed.wait(PATIENCE)
            job = served.service.scheduler.running
            assert job is not None
            until(lambda: job.stop.requested)

    served.engine.on_step = on_step
    proxy.at, proxy.harm = EVENTS.index("picture"), cut
    outcome = Program()("generate", "a cat", "-n", "3", "--num-steps", "4", "--server", proxy.url)
    assert (outcome.code, outcome.stdout) == (1, "a-cat-42.png\n"), outcome.stderr
    assert [each.name for each in Path.cwd().iterdir()] == ["a-cat-42.png"]


@pytest.mark.parametrize(("kind", "code"), [(DeviceMemoryError, 4), (RequestError, 2), (NumericsError, 1)])
def test_an_error_that_happened_meanwhile_is_shown(
    served: Served, proxy: Proxy, kind: type[SenseNovaError], code: int
) -> None:
    def on_step(number: int) -> None:
        if number == 3:
            raise kind("the picture is too large for the device")

    served.engine.on_step = on_step
    proxy.at, proxy.harm = 3, after_the_end(served, cut)
    outcome = draw(proxy.url)
    assert outcome.code == code
    assert "the picture is too large for the device" in outcome.stderr


@pytest.mark.parametrize("path", ["models", "info", "pictures", "run"])
def test_a_connection_lost_before_the_request(served: Served, proxy: Proxy, path: str) -> None:
    """The server is reached, and goes away at one of the first questions."""
    Program()("generate", "a cat", "-o", "made.png", "--server", served.url)

    class Watching(list[str]):
        def append(self, line: str) -> None:
            if path in line:
                proxy.refuses = True
                raise OSError
            super().append(line)

    proxy.requests = Watching()
    outcome = Program()("edit", "--image", "made.png", "make it blue", "-o", "blue.png", "--server", proxy.url)
    assert outcome.code == 1
    assert outcome.stderr.splitlines()[-2].startswith("error: "), outcome.stderr
    assert "unexpected" not in outcome.stderr
    assert not Path("blue.png").exists()


# Ctrl-C


def press_when(condition: Callable[[], bool], then: Callable[[], None] = lambda: None) -> threading.Thread:
    """Press Ctrl-C once a condition holds."""

    def press() -> None:
        until(condition)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        then()

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    return thread


def expect_interrupted(outcome: Outcome) -> None:
    assert (outcome.code, outcome.stdout) == (130, ""), outcome.stderr
    assert outcome.stderr.splitlines()[-1] == "interrupted"
    assert not list(Path.cwd().iterdir())


@pytest.mark.usefixtures("signals", "home")
def test_ctrl_c_while_connecting() -> None:
    asked = threading.Event()

    def silent(connection: Any) -> None:
        read_request(connection)
        asked.set()
        time.sleep(PATIENCE)

    with listening(silent) as port:
        press_when(asked.is_set)
        expect_interrupted(draw(f"http://127.0.0.1:{port}"))


@pytest.mark.usefixtures("signals")
def test_ctrl_c_while_the_server_loads(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    ended = threading.Event()
    asked: list[Connection] = []
    ask_for_state = Connection.state

    def state(connection: Connection) -> Mapping[str, Any]:
        asked.append(connection)
        return ask_for_state(connection)

    def open_model(on_progress: Any) -> Any:
        assert ended.wait(PATIENCE)
        raise RuntimeError

    loading = serve(open_model=open_model)
    monkeypatch.setattr(Connection, "state", state)
    press_when(lambda: len(asked) > 2)
    expect_interrupted(draw(loading.url))
    assert loading.service.scheduler.state == "loading"
    ended.set()


@pytest.mark.usefixtures("signals")
def test_ctrl_c_in_the_queue(served: Served) -> None:
    served.gate.clear()
    with served.client().stream("POST", "/v1/sensenova/run", json={"request": "generate", "prompt": "a dog"}) as other:
        until(lambda: len(served.engine.requests) == 1)
        press_when(lambda: len(served.service.scheduler.waiting) == 1)
        outcome = draw(served.url)
        expect_interrupted(outcome)
        assert "1 request is before this one" in outcome.stderr
        until(lambda: not served.service.scheduler.waiting)
        served.gate.set()
        other.read()
    assert len(served.engine.requests) == 1, "the request ran although it was cancelled"


@pytest.mark.usefixtures("signals")
def test_ctrl_c_while_the_queue_is_full(serve: Serve) -> None:  # noqa: F811
    served = serve(max_queue=0)
    served.gate.clear()
    with served.client().stream("POST", "/v1/sensenova/run", json={"request": "generate", "prompt": "a dog"}) as other:
        until(lambda: len(served.engine.requests) == 1)
        press_when(lambda: served.metric('requests_total{end="refused"}') >= 1)
        expect_interrupted(draw(served.url))
        served.gate.set()
        other.read()


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("words", [(), ("--think",)])
@pytest.mark.parametrize("step", [1, 3])
def test_ctrl_c_in_a_step(served: Served, words: tuple[str, ...], step: int) -> None:
    reached, pressed = threading.Event(), threading.Event()
    steps = []

    def on_step(number: int) -> None:
        steps.append(number)
        if number == step:
            reached.set()
            assert pressed.wait(PATIENCE)

    served.engine.on_step = on_step

    def release() -> None:
        until(lambda: served.service.scheduler.running is None or served.service.scheduler.running.stop.requested)
        pressed.set()

    press_when(reached.is_set, release)
    expect_interrupted(draw(served.url, *words))
    until(lambda: is_idle(served))
    assert steps[-1] <= step, "the server went on"
    assert served.engine.request_closed


@pytest.mark.usefixtures("signals")
def test_ctrl_c_in_an_answer(served: Served) -> None:
    reached, pressed = threading.Event(), threading.Event()

    def on_step(number: int) -> None:
        if number == 3:
            reached.set()
            assert pressed.wait(PATIENCE)

    served.engine.on_step = on_step

    def release() -> None:
        until(lambda: served.service.scheduler.running is None or served.service.scheduler.running.stop.requested)
        pressed.set()

    press_when(reached.is_set, release)
    outcome = Program()("chat", "Hello", "--server", served.url)
    assert outcome.code == 130
    assert outcome.stdout in ("", "\n", "It \n", "It is \n"), "the last words may still be on their way"
    until(lambda: is_idle(served))
    assert served.engine.request_closed


# Sessions


@pytest.mark.slow
def test_ctrl_c_in_a_session(served: Served, tmp_path: Path) -> None:
    """In the queue, in a step and in an answer: the turn ends, on the server too, and the session goes on."""
    served.gate.clear()
    terminal = Terminal("repl", "--preview", "off", "--server", served.url, folder=tmp_path)
    other = served.client().stream("POST", "/v1/sensenova/run", json={"request": "generate", "prompt": "a dog"})
    with other as running:
        until(lambda: len(served.engine.requests) == 1)
        terminal.wait_for_prompt()
        terminal.type("a cat")
        terminal.wait_for("waiting for 1 other request")
        terminal.child.send("\x03")
        terminal.wait_for("interrupted")
        until(lambda: not served.service.scheduler.waiting)
        served.gate.set()
        running.read()
    for number, line in enumerate(("a cat", "/chat hello"), start=2):
        served.gate.clear()
        terminal.wait_for_prompt()
        terminal.type(line)
        until(lambda number=number: len(served.engine.requests) == number)  # type: ignore[misc]
        terminal.wait_for(line, count=2 if number == 2 else 1)
        terminal.child.send("\x03")
        until(lambda: is_idle(served) or served.service.scheduler.running.stop.requested)  # type: ignore[union-attr]
        served.gate.set()
        terminal.wait_for("interrupted", count=number)
        until(lambda: is_idle(served))
    terminal.wait_for_prompt()
    terminal.type("a red cat")
    terminal.wait_for("picture 1")
    assert terminal.leave() == 0, terminal.text
    assert "error" not in terminal.text


def session(url: str, lines: Iterator[str]) -> Outcome:
    """Run a session whose lines are made one by one, each when the one before has ended."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sensenova_cli.repl.run_session._joined", lambda stream: lines)
        return Program()("repl", "--session", "cats", "--server", url)


def test_a_session_goes_on_when_the_server_is_back(served: Served, proxy: Proxy) -> None:
    def lines() -> Iterator[str]:
        yield "a cat"
        proxy.refuses = True
        proxy.at, proxy.harm = 5, cut
        served.gate.clear()
        threading.Timer(0.5, served.gate.set).start()
        yield "make it blue"
        proxy.harmed.set()
        yield "make it green"  # the server is still away
        proxy.refuses = False
        yield "make it red"
        yield "? what is it"

    outcome = session(proxy.url, lines())
    *pictures, answer = outcome.stdout.splitlines()
    assert [Path(each).name for each in pictures] == ["001-a-cat-42.png", "002-make-it-red-43.png"], outcome.stderr
    assert answer == "It is a cat."
    assert outcome.stderr.count("error: ") == 2
    assert outcome.code == 1


def test_a_session_does_not_go_on_with_another_model(served: Served) -> None:
    """The server was started again with another model, which would be missing in the records."""

    def lines() -> Iterator[str]:
        yield "a cat"
        served.service.name = "other"
        yield "make it blue"
        yield "make it red"

    outcome = session(served.url, lines())
    assert f"error: the server at {served.url} has loaded another model meanwhile" in outcome.stderr
    assert [Path(each).name for each in outcome.stdout.splitlines()] == ["001-a-cat-42.png", "002-make-it-red-43.png"]
    assert "other is ready" in outcome.stderr


def test_pictures_that_the_server_has_forgotten_are_uploaded_again(served: Served) -> None:
    def lines() -> Iterator[str]:
        yield "a cat"
        yield "make it blue"
        yield "/use 1"
        served.service.pictures._files.clear()
        yield "make it red"

    outcome = session(served.url, lines())
    assert outcome.code == 0, outcome.stderr
    assert len(outcome.stdout.splitlines()) == 3


def test_a_server_without_room_for_pictures_gets_them_with_the_request(serve: Serve) -> None:  # noqa: F811
    served = serve(keep_memory="1KiB")
    Program()("generate", "a cat", "-o", "made.png", "--server", served.url)
    outcome = Program()("edit", "--image", "made.png", "make it blue", "-o", "blue.png", "--server", served.url)
    assert (outcome.code, outcome.stdout) == (0, "blue.png\n"), outcome.stderr


# A server that is killed


@contextmanager
def serving_at(port: int, folder: Path, step_seconds: str = "0") -> Iterator["subprocess.Popen[str]"]:
    """Run `sensenova serve` on a fake engine in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.fake_program", "serve", "--port", str(port)],
        cwd=folder,
        text=True,
        stderr=subprocess.PIPE,
        env={**environment(folder), "PYTHONPATH": str(REPOSITORY), "FAKE_STEP_SECONDS": step_seconds},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("serving "):
            break
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def kill_in_a_step(process: "subprocess.Popen[str]") -> None:
    """Kill a server once a step of a second or more has begun, which its engine announces."""

    def kill() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if "a step has begun" in line:
                process.kill()
                return

    threading.Thread(target=kill, daemon=True).start()


def test_a_server_that_is_killed_in_a_picture(home: Path, tmp_path: Path) -> None:  # noqa: F811
    port = free_port()
    with serving_at(port, tmp_path, "600") as process:
        kill_in_a_step(process)
        outcome = draw(f"http://127.0.0.1:{port}")
    assert (outcome.code, outcome.stdout) == (1, ""), outcome.stderr
    error, hint = outcome.stderr.splitlines()[-2:]
    assert error.startswith(f"error: the connection to http://127.0.0.1:{port} was lost")
    assert hint == "hint: run it again when the server is back"
    assert not list(home.iterdir())


def test_a_session_whose_server_is_killed_and_started_again(home: Path, tmp_path: Path) -> None:  # noqa: F811
    port = free_port()
    first = ExitStack()
    first.enter_context(serving_at(port, tmp_path))

    def lines() -> Iterator[str]:
        with first:
            yield "a cat"
            yield "? what is it"
        with serving_at(port, tmp_path, "600") as process:
            kill_in_a_step(process)
            yield "make it blue"  # of the server that was started again
        yield "make it green"  # there is no server
        with serving_at(port, tmp_path):
            yield "make it red"
            yield "? and now"

    outcome = session(f"http://127.0.0.1:{port}", lines())
    paths = [Path(each) for each in outcome.stdout.splitlines() if each.endswith(".png")]
    assert [each.name for each in paths] == ["001-a-cat-42.png", "002-make-it-red-43.png"], outcome.stderr
    assert outcome.stdout.count("It is a cat.") == 2
    assert outcome.stderr.count("error: ") == 2, outcome.stderr
    assert outcome.code == 1, "two lines failed"
    log = [json.loads(line) for line in (paths[0].parents[1] / "session.jsonl").read_text().splitlines()]
    assert [each["status"] for each in log if "prompt" in each] == ["done", "done", "failed", "done", "done"]
