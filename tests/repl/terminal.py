"""The whole program on a terminal of its own: what is typed, and what stands on the screen."""

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

WHERE = "\x1b[6n"
EMPTY_PROMPT = re.compile("(draw|edit|chat) › ")
PATIENCE = 90
"""Seconds for something to appear on a busy machine."""


class Terminal:
    """A pseudo-terminal on which `sensenova …` runs.

    Args:
        words: the command line; `python -m` of `module`.
        folder: where it is started, and what it keeps is below.
    """

    def __init__(
        self,
        *words: str,
        folder: Path,
        columns: int = 100,
        rows: int = 40,
        module: str = "sensenova_cli",
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
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", module, *words],
            cwd=folder,
            env=environment,
            dimensions=(rows, columns),
            encoding="utf-8",
            timeout=PATIENCE,
        )
        self.raw = ""

    def read(self, seconds: float = 0.05) -> None:
        """Take in what has been written."""
        try:
            text = self.child.read_nonblocking(1 << 16, timeout=seconds)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return
        self.raw += text
        before, *asked = text.split(WHERE)
        self._stream.feed(before)
        for part in asked:
            # prompt-toolkit asks where the cursor is, to know how much room there is below it.
            self.child.send(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")
            self._stream.feed(part)

    @property
    def lines(self) -> list[str]:
        """All that has been written, scrolled away or not."""
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
        """Until a text stands on the screen so many times."""
        deadline = time.monotonic() + PATIENCE
        while self.text.count(text) < count:
            self.read()
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} did not come {count} times:\n{self.text}")
            if not self.child.isalive():
                self.read(1)
                assert self.text.count(text) >= count, f"the program ended without {text!r}:\n{self.text}"

    def wait_for_toolbar(self, text: str) -> None:
        """Until the prompt is there again with this in its toolbar."""
        self._wait_until(lambda: text in self.toolbar, f"{text!r} is not in the toolbar")

    def type(self, line: str) -> None:
        """Type a line and Enter."""
        self.child.send(line + "\r")

    def wait_for_prompt(self) -> None:
        """Until an empty prompt waits: keys that come before it can be lost, Ctrl-D always is."""
        self._wait_until(lambda: bool(EMPTY_PROMPT.fullmatch(self._before_cursor)), "no prompt waits")

    @property
    def _before_cursor(self) -> str:
        return self.screen.display[self.screen.cursor.y][: self.screen.cursor.x]

    def _wait_until(self, is_so: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            self.read()
            if time.monotonic() > deadline or not self.child.isalive():
                raise AssertionError(f"{otherwise}:\n{self.text}")

    def leave(self) -> int | None:
        """Ctrl-D at the next prompt, and the exit code."""
        self.wait_for_prompt()
        self.child.send("\x04")
        return self.end()

    def end(self) -> int | None:
        """Wait for the end, and give the exit code, negative for a signal."""
        deadline = time.monotonic() + PATIENCE
        while self.child.isalive() and time.monotonic() < deadline:
            self.read()
        self.read(0.2)
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -(self.child.signalstatus or 0)
