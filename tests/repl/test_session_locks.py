"""Sessions that several processes use, and processes that are killed while they write."""

import fcntl
import os
import signal

import pytest
from PIL import Image

from sensenova_cli.errors import SessionError, exit_code
from sensenova_cli.sessions.lock import LOCK_FILE, is_locked
from sensenova_cli.sessions.saved import read_session
from sensenova_cli.sessions.session import Session
from sensenova_cli.sessions.store import find_session
from tests.repl.sessions import MODEL, ask, draw, rich_session, script

pytestmark = pytest.mark.usefixtures("here")


def test_killed_at_any_moment_a_session_loses_at_most_the_turn_in_flight() -> None:
    """A process writes turns as fast as it can and prints the number of each; it is killed at eight moments."""
    code = """
with Session.open(sys.argv[1], MODEL) as session:
    while True:
        turn = draw(session, "A cat that is drawn again and again", 1, 2)
        print(turn.turn, flush=True)
"""
    for moment in range(8):
        name = f"killed-{moment}"
        with script(code, name) as process:
            assert process.stdout is not None
            printed = [process.stdout.readline() for _ in range(3 + moment)]
            process.send_signal(signal.SIGKILL)
            printed += process.stdout.readlines()
        last = int([line for line in printed if line.endswith("\n")][-1])
        saved = read_session(find_session(name))
        assert last <= len(saved.state.turns) <= last + 1
        assert saved.missing == frozenset()
        for number in saved.state.pictures:
            with Image.open(saved.path(number)) as image:
                image.load()
        with Session.open(name, MODEL) as session:
            ask(session, "Still there?")
            folder = session.folder
        assert folder is not None
        assert read_session(folder).problems == ()
        assert list(folder.rglob("*.part")) == []


def test_killed_in_the_middle_of_a_line() -> None:
    """The process stops after half of the bytes of its second turn."""
    code = """
from sensenova_cli.sessions import session as module
with Session.open("cats", MODEL) as session:
    draw(session, "whole")
    def half(file, data):
        os.write(file.fileno(), data[: len(data) // 2])
        print("half", flush=True)
        sys.stdin.read()
    module._write_all = half
    draw(session, "torn")
"""
    with script(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        folder = find_session("cats")
        while_written = read_session(folder)
        process.kill()
    assert while_written.problems == ()
    assert [turn.prompt for turn in while_written.state.turns] == ["whole"]
    saved = read_session(folder)
    assert [turn.prompt for turn in saved.state.turns] == ["whole"]
    assert len(saved.problems) == 1
    with Session.open("cats", MODEL) as session:
        assert session.problems == saved.problems
        draw(session, "next")
    healed = read_session(folder)
    assert ([turn.prompt for turn in healed.state.turns], healed.problems) == (["whole", "next"], ())


def test_two_processes_cannot_write_one_session() -> None:
    code = """
with Session.open("cats", MODEL) as session:
    draw(session, "mine")
    print(session.name, flush=True)
    sys.stdin.readline()
    draw(session, "mine, too")
    print("written", flush=True)
    sys.stdin.readline()
"""
    with script(code) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(SessionError) as problem:
            Session.open("cats", MODEL)
        assert problem.value.what == f"the session cats is in use by process {process.pid}"
        assert exit_code(problem.value) == 2
        assert [turn.prompt for turn in read_session(find_session("cats")).state.turns] == ["mine"]
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        assert len(read_session(find_session("cats")).state.turns) == 2
        process.kill()
    with Session.open("cats", MODEL) as session:
        assert len(session.state.turns) == 2


def test_a_second_attempt_leaves_the_name_of_the_holder() -> None:
    with Session.open("cats", MODEL) as session:
        assert session.folder is not None
        for _ in range(2):
            with pytest.raises(SessionError, match=f"in use by process {os.getpid()}"):
                Session.open("cats", MODEL)
        assert is_locked(session.folder)
    assert not is_locked(session.folder)


def test_a_folder_that_is_replaced_while_it_is_locked_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = rich_session()
    flock = fcntl.flock

    def replace_and_lock(descriptor: int, operation: int) -> None:
        if not folder.with_name("renamed").exists():
            folder.rename(folder.with_name("renamed"))
            folder.mkdir()
            (folder / LOCK_FILE).write_text("1 on elsewhere")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    with pytest.raises(SessionError, match="cats cannot be opened for writing"):
        Session.open("cats", MODEL)
    assert (folder / LOCK_FILE).read_text() == "1 on elsewhere"
    assert not is_locked(folder.with_name("renamed"))


def test_a_lock_file_that_cannot_be_written() -> None:
    folder = rich_session()
    (folder / LOCK_FILE).unlink()
    (folder / LOCK_FILE).mkdir()
    with pytest.raises(SessionError, match="cats cannot be opened for writing") as problem:
        Session.open("cats", MODEL)
    assert "SENSENOVA_DATA_DIR" in problem.value.hint
