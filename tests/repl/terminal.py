"""The program on a pseudo-terminal: typed keys, and the text on the screen."""

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte

from tests.cli.harness import REPOSITORY
from tests.cli.test_screen import OF_TERMINALS
from tests.waiting import PATIENCE

WHERE = "\x1b[6n"
EMPTY_PROMPT = re.compile("(draw|edit|chat) › ")


class Terminal:
    """A pseudo-terminal on which `sensenova …` runs.

    Args:
        words: the command line after `python -m MODULE`.
        folder: the current folder; settings and data are stored below it.
        shell: run this line in an interactive bash instead, with PROGRAM for `python -m MODULE`.
    """

    def __init__(
        self,
        *words: str,
        folder: Path,
        columns: int = 100,
        rows: int = 40,
        module: str = "sensenova_cli",
        shell: str = "",
        **variables: str,
    ) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in OF_TERMINALS and not name.startswith("SENSENOVA_") and name != "NO_COLOR"
        }
        environment |= {
            "SENSENOVA_CONFIG_DIR": str(folder / "settings"),
            "SENSENOVA_DATA_DIR": str(folder / "data"),
            # CPUs without instructions for bfloat16 need 25 times as long for the demo's pictures in it.
            "SENSENOVA_DTYPE": "float32",
            "PYTHONPATH": str(REPOSITORY),
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            **variables,
        }
        self.screen = pyte.HistoryScreen(columns, rows, history=5000, ratio=0.5)
        self._stream = pyte.Stream(self.screen)
        command = ["bash", "--norc", "-i"] if shell else [sys.executable, "-m", module, *words]
        self.child = pexpect.spawn(
            command[0],
            command[1:],
            cwd=folder,
            env=environment,
            dimensions=(rows, columns),
            encoding="utf-8",
            timeout=PATIENCE,
        )
        self.raw = ""
        if shell:
            self.child.sendline(shell.replace("PROGRAM", f"{sys.executable} -m {module}"))

    def read(self, seconds: float = 0.05) -> None:
        """Read the output so far."""
        try:
            text = self.child.read_nonblocking(1 << 16, timeout=seconds)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return
        self.raw += text
        before, *asked = text.split(WHERE)
        self._stream.feed(before)
        for part in asked:
            # prompt-toolkit asks for the cursor position, to know the room below it.
            self.child.send(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")
            self._stream.feed(part)

    @property
    def lines(self) -> list[str]:
        """All lines, including those that scrolled away."""
        gone = ["".join(row[column].data for column in range(self.screen.columns)) for row in self.screen.history.top]
        return [line.rstrip() for line in (*gone, *self.screen.display)]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def toolbar(self) -> str:
        """The last line that is not empty."""
        return next((line for line in reversed(self.lines) if line), "")

    def wait_for(self, text: str, *, count: int = 1) -> None:
        """Wait until a text is on the screen `count` times."""
        deadline = time.monotonic() + PATIENCE
        while self.text.count(text) < count:
            self.read()
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} did not appear {count} times:\n{self.text}")
            if not self.child.isalive():
                self.read(1)
                assert self.text.count(text) >= count, f"the program ended without {text!r}:\n{self.text}"

    def wait_for_toolbar(self, text: str) -> None:
        """Wait until the prompt's toolbar contains a text."""
        self._wait_until(lambda: text in self.toolbar, f"{text!r} is not in the toolbar")

    def type(self, line: str) -> None:
        """Type a line and Enter."""
        self.child.send(line + "\r")

    def wait_for_prompt(self) -> None:
        """Wait for an empty prompt. Earlier keys can be lost; Ctrl-D always is."""
        self._wait_until(lambda: bool(EMPTY_PROMPT.fullmatch(self._before_cursor)), "there is no empty prompt")

    @property
    def _before_cursor(self) -> str:
        return self.screen.display[self.screen.cursor.y][: self.screen.cursor.x]

    def _wait_until(self, condition: Callable[[], bool], message: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.read()
            if time.monotonic() > deadline or not self.child.isalive():
                raise AssertionError(f"{message}:\n{self.text}")

    def leave(self) -> int | None:
        """Press Ctrl-D at the next prompt, and return the exit code."""
        self.wait_for_prompt()
        self.child.send("\x04")
        return self.end()

    def end(self) -> int | None:
        """Wait for the end of the program, and return its exit code, negative for a signal."""
        deadline = time.monotonic() + PATIENCE
        while self.child.isalive() and time.monotonic() < deadline:
            self.read()
        self.read(0.2)
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -(self.child.signalstatus or 0)
