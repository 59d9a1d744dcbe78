"""Real processes: pipes that close, folders with modules of our names, terminals of every kind."""

import contextlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pexpect
import pyte
import pytest
from PIL import Image

from tests.cli.harness import REPOSITORY, Program, start
from tests.waiting import PATIENCE

PROGRAM = f"{sys.executable} -m tests.cli.fake_program"


def test_a_reader_that_goes_away(home: Path) -> None:
    process = start("generate", "x", "-n", "50", FAKE_STEP_SECONDS="0.1")
    assert process.stdout is not None
    assert process.stdout.readline() == b"x-42.png\n"
    process.stdout.close()
    assert process.stderr is not None
    stderr = process.stderr.read()
    assert process.wait(timeout=PATIENCE) == 1
    assert b"Traceback" not in stderr
    assert b"error" not in stderr
    assert b"Exception ignored" not in stderr
    names = {path.name for path in home.iterdir()}
    assert {"x-42.png"} <= names < {f"x-{seed}.png" for seed in range(42, 92)}
    for name in names:
        Image.open(home / name).load()


def test_an_answer_whose_reader_goes_away(home: Path) -> None:
    process = start("chat", "x", "-q", FAKE_STEP_SECONDS="0.1")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(timeout=PATIENCE) == 1


def test_pictures_through_a_pipe(home: Path) -> None:
    command = (
        f"{sys.executable} -m tests.cli.fake_program generate 'A cat' -o - -q | "
        f"{sys.executable} -m tests.cli.fake_program edit 'add a hat' --image - -q"
    )
    done = subprocess.run(
        command,
        shell=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "add-a-hat-43.png\n"


@pytest.mark.parametrize("python_path", [str(REPOSITORY), f":{REPOSITORY}", f"{REPOSITORY}:", f".:{REPOSITORY}"])
def test_a_folder_with_modules_of_our_names(home: Path, python_path: str) -> None:
    for name in ("model", "config", "torch", "typer", "PIL"):
        (home / name).mkdir()
        (home / name / "__init__.py").write_text("raise SystemExit('the wrong one')")
    (home / "config.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        [sys.executable, "-m", "sensenova_cli", "generate", "x", "--size", "1x1"],
        env={**os.environ, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "both sides must be multiples of 32" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("words", "files"), [("generate x", ["x-42.png"]), ("chat hello", [])])
def test_a_full_disk_behind_stdout(home: Path, words: str, files: list[str]) -> None:
    done = subprocess.run(
        f"{PROGRAM} {words} -q > /dev/full",
        shell=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    what, hint = done.stderr.splitlines()
    assert what == "error: stdout cannot be written: No space left on device"
    assert hint == "hint: free some disk space, or redirect the results elsewhere; files that were written are complete"
    assert [path.name for path in home.iterdir()] == files


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("words", "texts"), [("--json", ["Once a kite", "The end"]), ("", ["Once a kite"])])
def test_a_full_disk_behind_stdout_does_not_cost_the_page(home: Path, words: str, texts: list[str]) -> None:
    done = _shell(f"{PROGRAM} interleave x {words} --html book.html -q > /dev/full")
    assert done.returncode == 1
    assert "stdout cannot be written" in done.stderr
    page = (home / "book.html").read_text()
    assert all(text in page for text in texts)
    assert page.count("<img") == len(list(home.glob("*.png"))) > 0


def test_a_page_says_that_the_reader_of_the_document_has_ended(home: Path) -> None:
    _shell(f"FAKE_STEP_SECONDS=0.02 {PROGRAM} interleave x --html book.html -q | head -1")
    assert "cancelled: the reader of stdout has ended" in (home / "book.html").read_text()


def test_messages_whose_reader_goes_away_do_not_cost_the_pictures(home: Path) -> None:
    process = start("generate", "x", "-n", "2", FAKE_STEP_SECONDS="0.05")
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"loading ")
    process.stderr.close()
    assert process.stdout is not None
    assert process.stdout.read() == b"x-42.png\nx-43.png\n"
    assert process.wait(timeout=PATIENCE) == 0
    assert {path.name for path in home.iterdir()} == {"x-42.png", "x-43.png"}


def test_one_reader_of_both_streams_goes_away(home: Path) -> None:
    done = _shell(f"{{ {PROGRAM} generate x; echo $? > code; }} 2>&1 | head -1")
    assert done.stdout.startswith("loading ")
    assert (home / "code").read_text() == "1\n", "the name of the picture could not be told"
    Image.open(home / "x-42.png").load()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("generate x", 0),
        ("generate x --size 33x33", 2),
        ("generate x --size 33x33 --debug", 2),
        ("profile show --model owner/name", 0),
    ],
)
def test_a_full_disk_behind_stderr_changes_nothing(home: Path, words: str, code: int) -> None:
    done = _shell(f"{PROGRAM} {words} 2> /dev/full")
    assert done.returncode == code
    assert (home / "x-42.png").exists() == (words == "generate x")


def test_a_terminal_that_is_busy_and_set_not_to_wait(home: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.fake_program", "generate", "x"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=writer,
        check=False,
    )
    os.close(reader)
    os.close(writer)
    assert done.returncode == 0
    assert (home / "x-42.png").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("info - <&-", "standard input is closed"),
        ("edit x --image - <&-", "standard input is closed"),
        ("edit x --image - 0> written", "standard input cannot be read: Bad file descriptor"),
        ("generate x -o - >&-", "stdout is closed, so the picture would go nowhere"),
    ],
)
def test_closed_streams_are_an_error_where_they_are_needed(home: Path, command: str, message: str) -> None:
    done = _shell(f"{PROGRAM} {command}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}\n")


@pytest.mark.parametrize("name", ["stdlib", "purelib"])
def test_started_from_a_folder_of_python_itself(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sensenova_cli", "generate", "x", "--size", "1x1"],
        cwd=sysconfig.get_path(name),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "both sides must be multiples of 32" in done.stderr


def test_json_alone_is_on_stdout(program: Program) -> None:
    outcome = program("generate", "x", "--think", "--print-think", "--json", "-n", "2")
    results = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [result["path"] for result in results] == ["x-42.png", "x-43.png"]
    assert results[0]["think_text"] == "A cat sits.\nIt purrs."


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(home: Path, closed: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(f"{PROGRAM} generate x {closed}", shell=True, env=environment, check=False)
    assert done.returncode == 0
    assert (home / "x-42.png").exists()


def _shell(command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command line in the current folder."""
    return subprocess.run(
        command,
        shell=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def _screen(command: str, *, columns: int = 80, **environment: str) -> tuple[str, str, int]:
    """Run a command in a terminal; what the screen shows at the end, every byte written, and the exit code."""
    screen = pyte.Screen(columns, 40)
    stream = pyte.Stream(screen)
    child = pexpect.spawn(
        "/bin/sh",
        ["-c", command],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "TERM": "xterm-256color",
            "FAKE_STEP_SECONDS": "0.05",
            "FAKE_PREVIEW": "red",
            **environment,
        },
        dimensions=(40, columns),
        encoding="utf-8",
        timeout=PATIENCE,
    )
    child.expect(pexpect.EOF)
    written = child.before or ""
    stream.feed(written)
    child.close()
    return "\n".join(line.rstrip() for line in screen.display).rstrip(), written, child.exitstatus or 0


@pytest.fixture
def wide(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the terminal say how wide it is."""
    monkeypatch.delenv("COLUMNS")


@pytest.mark.slow
@pytest.mark.usefixtures("wide")
def test_on_a_terminal_a_bar_comes_and_goes(home: Path) -> None:
    shown, written, code = _screen(f"{PROGRAM} generate x --num-steps 8 -n 2 --no-preview")
    assert code == 0
    assert "picture 2 of 2" in written
    assert "steps/s" in written
    assert "━" in written
    assert "━" not in shown
    assert shown.splitlines()[-3:-1] == ["x-42.png", "x-43.png"]
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l"), "the cursor stayed hidden"


@pytest.mark.slow
@pytest.mark.usefixtures("wide")
def test_think_text_on_a_terminal_streams_whole_lines(home: Path) -> None:
    shown, written, _ = _screen(f"{PROGRAM} generate x --think --num-steps 2")
    assert re.search(r"thinking: [1-4] tokens", written)
    assert "A cat sits.\nIt purrs.\nthought for 0.5 s (4 tokens)" in shown
    assert shown.count("purrs") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("wide")
def test_a_narrow_terminal_is_not_overrun(home: Path) -> None:
    shown, written, code = _screen(f"{PROGRAM} generate x --think --num-steps 8", columns=30)
    assert code == 0
    assert "x-42.png" in shown.splitlines()
    assert "━" not in written


@pytest.mark.slow
@pytest.mark.usefixtures("wide")
def test_a_dumb_terminal_gets_plain_lines(home: Path) -> None:
    shown, written, _ = _screen(f"{PROGRAM} generate x --num-steps 8", TERM="dumb")
    assert "\x1b" not in written
    assert "picture: step 4 of 8" in shown


@pytest.mark.slow
@pytest.mark.usefixtures("wide")
def test_no_color_on_a_terminal(home: Path) -> None:
    _, written, _ = _screen(f"{PROGRAM} generate --num-steps 8", NO_COLOR="1")
    assert "error:" in written
    assert "\x1b[1;31m" not in written


@pytest.mark.slow
@pytest.mark.usefixtures("wide")
def test_png_bytes_are_refused_on_a_terminal(home: Path) -> None:
    shown, _, code = _screen(f"{PROGRAM} generate x -o -")
    assert code == 2
    assert "PNG bytes would garble the terminal" in shown


@pytest.mark.slow
@pytest.mark.usefixtures("wide")
def test_ctrl_c_on_a_terminal(home: Path) -> None:
    child = pexpect.spawn(
        sys.executable,
        ["-m", "tests.cli.fake_program", "generate", "x", "--num-steps", "500"],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "TERM": "xterm-256color",
            "FAKE_STEP_SECONDS": "0.2",
            "FAKE_PREVIEW": "red",
        },
        dimensions=(40, 100),
        encoding="utf-8",
        timeout=PATIENCE,
    )
    child.expect("/500")
    child.sendintr()
    child.expect("Ctrl-C again quits at once")
    child.expect("interrupted")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert list(home.iterdir()) == []
