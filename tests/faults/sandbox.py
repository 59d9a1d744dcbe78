"""Sandboxes: folders with a user's files, in which the program runs with a fault, and the check of what is left."""

import importlib
import io
import json
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from PIL import Image

import sensenova_cli
from tests.faults.shim import Fault, Shim

SECONDS = 60.0
"""Time after which a case hangs."""
KNOWN_CODES = frozenset((0, 1, 2, 3, 4, 130))
TURNS_BEFORE = 2
"""Turns of the session that each sandbox contains."""


@dataclass(frozen=True)
class Command:
    """A command line to run.

    Attributes:
        stdin: its standard input.
        draws: the number of pictures that it draws outside of sessions.
        removes: whether it removes the session.
    """

    words: Sequence[str]
    stdin: str = ""
    draws: int = 0
    removes: bool = False

    def __str__(self) -> str:
        return " ".join(self.words)


COMMANDS = (
    Command(("generate", "a dog", "-o", "dog.png"), draws=1),
    Command(("generate", "a dog", "-n", "2", "-o", "out/{index}.png"), draws=2),
    Command(("generate", "a dog", "-o", "mine.png", "-f"), draws=1),
    Command(("generate", "--from", "mine.png", "-o", "again.png"), draws=1),
    Command(("generate", "--prompt-file", "prompts.txt", "-o", "out/"), draws=2),
    Command(("edit", "a hat", "--image", "mine.png", "-o", "hat.png"), draws=1),
    Command(("describe", "mine.png")),
    Command(("chat", "hello", "--json")),
    Command(("info", "mine.png")),
    Command(("repl",), "a dog\n?what is it\n/undo\n/save dog.png\n"),
    Command(("repl", "--session", "theirs"), "/load mine.png\na dog\n/set num_steps 3\n"),
    Command(("sessions", "list")),
    Command(("sessions", "show", "theirs")),
    Command(("sessions", "export", "theirs", "-o", "page.md")),
    Command(("sessions", "export", "theirs", "-o", "page.html")),
    Command(("sessions", "rm", "-y", "theirs"), removes=True),
    Command(("profile", "init", "new.toml")),
    Command(("profile", "list")),
)


@dataclass(frozen=True)
class Result:
    """What a case left.

    Attributes:
        code: the exit code; None if the process was killed because it hung.
        problems: what should not have happened; empty if all is right.
        calls: the number of calls that the shim has counted.
    """

    code: int | None
    stderr: str
    problems: tuple[str, ...]
    calls: int


class Sandboxes:
    """Makes copies of one prepared sandbox, and runs commands in them.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._template = root / "template"
        for name in ("here", "data", "config", "tmp", "checkpoint"):
            (self._template / name).mkdir(parents=True)
        checkpoint = self._template / "checkpoint"
        (checkpoint / "config.json").write_text("{}")
        recommended = {"trained_sizes": [[64, 64]], "settings": {"num_steps": 2}}
        (checkpoint / "recommended_settings.json").write_text(json.dumps(recommended))
        (self._template / "here" / "prompts.txt").write_text("a fox\na pig\n")
        _import_everything()
        first = Command(("generate", "a cat", "-o", "mine.png"))
        session = Command(("repl", "--session", "theirs"), "a cat\na fox\n")
        for command in (first, session):
            result = self.run(command, None, keep=True)
            assert result.code == 0, result.stderr

    def run(self, command: Command, fault: Fault | None, *, keep: bool = False) -> Result:
        """Run a command in a new sandbox, in a forked process.

        Args:
            keep: run it in the template itself, which later sandboxes copy.
        """
        with self._sandbox(keep) as folder:
            before = _contents(folder)
            code = _fork(command, fault, folder)
            stderr = (folder / "stderr").read_text(errors="replace")
            calls = int((folder / "calls").read_text() or "0") if (folder / "calls").exists() else 0
            problems = () if keep else tuple(_problems(command, fault, folder, before, code, stderr))
            return Result(code, stderr, problems, calls)

    @contextmanager
    def _sandbox(self, keep: bool) -> Iterator[Path]:
        # Always the same path, because records and sessions contain it.
        folder = self._root / "sandbox"
        if keep:
            self._template.rename(folder)
        else:
            shutil.copytree(self._template, folder)
        try:
            yield folder
        finally:
            if keep:
                for name in ("stderr", "stdout", "stdin", "calls"):
                    (folder / name).unlink(missing_ok=True)
                folder.rename(self._template)
            else:
                shutil.rmtree(folder)


def _import_everything() -> None:
    """Import the modules of the program, which every child would otherwise import again."""
    for module in pkgutil.walk_packages(sensenova_cli.__path__, "sensenova_cli."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    Image.init()


def _fork(command: Command, fault: Fault | None, folder: Path) -> int | None:
    """Run the command in a child process; return its exit code, or None if it hung."""
    (folder / "stdin").write_text(command.stdin)
    child = os.fork()
    if child == 0:
        _run(command, fault, folder)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run(command: Command, fault: Fault | None, folder: Path) -> NoReturn:
    """Run the command in this process, which is a child, and end it."""
    code = 99
    shim = Shim(str(folder), fault)
    real_exit = os._exit

    def exit_with_count(code: int) -> NoReturn:
        try:
            calls = shim.stop()
            (folder / "calls").write_text(str(calls))
        finally:
            real_exit(code)

    os._exit = exit_with_count  # type: ignore[assignment]
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
            os.dup2(os.open(folder / name, flags | os.O_CREAT, 0o600), number)
        sys.stdin, sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(0, closefd=False)),
            io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8"),
            io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", write_through=True),
        )
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
        sys.__stdout__ = sys.stdout
        os.chdir(folder / "here")
        for name in [name for name in os.environ if name.startswith("SENSENOVA_")]:
            del os.environ[name]
        os.environ |= {
            "SENSENOVA_DATA_DIR": str(folder / "data"),
            "SENSENOVA_CONFIG_DIR": str(folder / "config"),
            "SENSENOVA_MODEL": str(folder / "checkpoint"),
            "TMPDIR": str(folder / "tmp"),
            "NO_COLOR": "1",
        }
        tempfile.tempdir = None
        sys.argv = ["sensenova", *command.words]
        from sensenova_cli.__main__ import main
        from sensenova_cli.system.first_signals import exit_on_signals

        exit_on_signals()  # as the first line of the program does
        shim.install()
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


# What is left


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("stderr", "stdout", "stdin", "calls")
    }


def _problems(
    command: Command, fault: Fault | None, folder: Path, before: dict[str, bytes], code: int | None, stderr: str
) -> Iterator[str]:
    """Yield what should not have happened."""
    if code is None:
        yield "it hangs"
        return
    if code not in KNOWN_CODES:
        yield f"the exit code is {code}"
    if fault is None and code != 0:
        yield f"the exit code is {code} without a fault"
    if fault is not None and fault.signal and code not in (0, 130):
        yield f"the exit code is {code} after a signal"
    if "Traceback" in stderr:
        yield "there is a traceback"
    if "unexpected" in stderr:
        yield "there is an unexpected error"
    if code == 0 and "error:" in stderr and command.words[0] != "repl":
        yield "there is an error, and the exit code is 0"
    after = _contents(folder)
    yield from _lost(command, before, after)
    yield from _damaged(after)
    if command.draws and code == 0:
        made = [name for name in after if name.endswith(".png") and after[name] != before.get(name)]
        if len(made) < command.draws:
            yield f"{command.draws} pictures should be there, and {len(made)} are"
    if "the picture was saved in" in stderr and not any(name.startswith("tmp/") for name in after):
        yield "the picture that was saved elsewhere is not there"


def _lost(command: Command, before: dict[str, bytes], after: dict[str, bytes]) -> Iterator[str]:
    for name, content in before.items():
        if command.removes and name.startswith("data/sessions/theirs/"):
            continue
        if name.endswith(("session.lock", ".part")) or "history" in name:
            continue
        if name == "here/mine.png" and "-f" in command.words:
            if name not in after:
                yield "the picture that is replaced is lost"
            continue
        if name not in after:
            yield f"{name} is lost"
        elif name.endswith("session.jsonl"):
            if not after[name].startswith(content):
                yield f"lines of {name} are lost"
        elif after[name] != content:
            yield f"{name} has changed"
    if command.removes:
        theirs = {name for name in before if name.startswith("data/sessions/theirs/") and "lock" not in name}
        left = theirs & set(after)
        if left and left != theirs:
            yield "half of the session is left in the list"
    document, pictures = "here/page.md" in after, [name for name in after if name.startswith("here/page-pictures/")]
    if document != bool(pictures):
        yield "the exported document and its pictures are not both there"


def _damaged(after: dict[str, bytes]) -> Iterator[str]:
    for name, content in after.items():
        if name.endswith(".png"):
            try:
                with Image.open(io.BytesIO(content)) as image:
                    image.load()
            except Exception as error:
                yield f"{name} is half-written: {error}"
        if name.endswith("session.jsonl"):
            lines = content.split(b"\n")
            if lines.pop():
                yield f"the last line of {name} is incomplete"
            for line in lines:
                try:
                    json.loads(line)
                except ValueError:
                    yield f"a line of {name} is damaged"
        if name.endswith(".html") and not content.rstrip().endswith(b"</html>"):
            yield f"{name} is half-written"
