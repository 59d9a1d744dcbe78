"""Signals to real processes: at any moment between the start and the end, and at the prompt of a terminal."""

import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.cli.harness import REPOSITORY
from tests.faults.file_calls import SIGNALS
from tests.faults.oracle import CODES, TRACEBACK, Finding
from tests.repl.terminal import Terminal

SECONDS = 120.0
"""Time after which a process counts as one that hangs."""
WORDS = (
    ("sensenova_cli", "--version"),
    ("sensenova_cli", "profile", "show"),
    ("sensenova_cli", "sessions", "list"),
    ("tests.cli.fake_program", "generate", "a cat", "--size", "64x64", "--num-steps", "2"),
    ("tests.cli.fake_program", "chat", "hello"),
)
"""Module and command line of each start."""


def signal_starts(seed: int) -> Iterator[tuple[str, list[Finding]]]:
    """Start the program without end, each time with a signal at another moment; yield a description and findings."""
    chance = random.Random(seed)
    lengths: dict[Sequence[str], float] = {}
    while True:
        words = chance.choice(WORDS)
        if words not in lengths:
            lengths[words] = _start(words, 0, 0.0)[1]
        number, moment = chance.choice(SIGNALS), chance.uniform(0, 1.1) * lengths[words]
        (found, _) = _start(words, number, moment)
        yield f"{' '.join(words)}: {number.name} after {moment:.2f} s", found


def _start(words: Sequence[str], number: int, moment: float) -> tuple[list[Finding], float]:
    """Run one process. Return the findings, and the seconds that it ran after it had installed its handlers."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SENSENOVA_")}
        environment |= {
            "PYTHONPATH": str(REPOSITORY),
            "SENSENOVA_CONFIG_DIR": folder,
            "SENSENOVA_DATA_DIR": folder,
            "SENSENOVA_MODEL": "demo",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        # Before the program's first line, the interpreter ends as it always does.
        while process.poll() is None and not _handles_signals(process.pid):
            time.sleep(0.002)
        began = time.monotonic()
        if number:
            handle = os.pidfd_open(process.pid)
            select.select([handle], [], [], moment)
            os.close(handle)
            process.send_signal(number)
        try:
            stdout, stderr = (text.decode(errors="replace") for text in process.communicate(timeout=SECONDS))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return [("hang", "the program did not end")], SECONDS
        length = time.monotonic() - began
        return _judged(process.returncode, stderr, stdout, Path(folder)), length


def _judged(code: int, stderr: str, stdout: str, folder: Path) -> list[Finding]:
    found: list[Finding] = []
    if code not in CODES:
        found.append(("exit code", f"{code}: {stderr[-300:]}"))
    if TRACEBACK.search(stderr):
        found.append(("traceback", stderr[-1500:]))
    elif "unexpected" in stderr:
        found.append(("unexpected", stderr[-300:]))
    if code == 0 and not stdout + stderr:
        found.append(("loss", "exit code 0 without a result"))
    found += [("leftover", path.name) for path in folder.rglob("*.part")]
    return found


def _handles_signals(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGHUP - 1) & 1)


def signal_terminals(seed: int) -> Iterator[tuple[str, list[Finding]]]:
    """Start sessions on terminals without end; each gets a line and a signal at another moment."""
    chance = random.Random(seed)
    while True:
        number, moment = chance.choice(SIGNALS), chance.uniform(0, 2)
        with tempfile.TemporaryDirectory() as folder:
            terminal = Terminal(
                "repl", folder=Path(folder), module="tests.cli.fake_program", SENSENOVA_MODEL="demo", FAKE_PREVIEW="red"
            )
            terminal.wait_for_prompt()
            terminal.type(chance.choice(("a cat --size 64x64 --num-steps 2", "/help", "")))
            end = time.monotonic() + moment
            while time.monotonic() < end:
                terminal.read()
            terminal.child.kill(number)
            found: list[Finding] = []
            try:
                code = terminal.leave() if number == signal.SIGINT else terminal.end()
            except AssertionError as error:
                found.append(("hang", str(error)[-300:]))
                terminal.child.close(force=True)
            else:
                found += _judged(code if code is not None else -1, terminal.text, "a screen", Path(folder))
            yield f"a terminal: {number.name} after {moment:.2f} s", found
