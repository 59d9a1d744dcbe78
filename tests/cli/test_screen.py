"""What goes where when stderr is a screen and stdout is not."""

import os
import sys
from pathlib import Path

import pexpect

from tests.cli.harness import REPOSITORY


def run_on_a_screen(command: str) -> str:
    """A shell command line on a terminal; what the terminal got."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm-256color"}
    return str(
        pexpect.run(
            f"bash -c {command!r}",
            env=environment,
            timeout=60,
            encoding="utf-8",
            dimensions=(24, 100),
            withexitstatus=False,
        )
    )


def test_think_text_for_a_file_goes_into_the_file(home: Path) -> None:
    screen = run_on_a_screen(
        f"{sys.executable} -m tests.cli.fake_program generate x --think --print-think -o a.png > out.txt"
    )
    assert (home / "out.txt").read_text() == "A cat sits.\nIt purrs.\na.png\n"
    assert "purrs" not in screen
    assert "thought for 4 tokens" in screen


def test_a_name_with_brackets_is_shown_as_it_is(home: Path) -> None:
    Path("b[").mkdir()
    Path(os.environ["SENSENOVA_MODEL"]).rename("b[/x]")
    screen = run_on_a_screen(f"{sys.executable} -m tests.cli.fake_program generate x --model b[/x] -o a.png")
    assert "b[/x]" in screen
    assert (home / "a.png").exists()
