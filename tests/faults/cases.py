"""One case: a command with one fault, in a fork of this process, which has imported the program."""

import base64
import gc
import hashlib
import http.client
import io
import json
import os
import posix
import re
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

import model.opening
from config.settings import LoadSettings
from model import DEMO_MODEL, find_checkpoint
from model.events import Event, Picture
from model.requests import EditRequest, GenerateRequest
from tests.cli.fake_engine import FakeEngine
from tests.faults.commands import COMMANDS, Command
from tests.faults.file_calls import SIGNALS, Fault, Shim

SECONDS = 90.0
"""Time after which a case counts as a hang. A case takes about 0.1 s on a free machine."""
IMPORTS = (
    "sensenova_cli.app", "sensenova_cli.turns.one_shot", "sensenova_cli.turns.interactive", "sensenova_cli.repl.repl",
    "sensenova_cli.repl.prompt", "sensenova_cli.sessions.export", "sensenova_cli.serve.start", "uvicorn", "torch",
    "model.verification", "model.checkpoint.random_weights", "PIL.PngImagePlugin", "jinja2", "markdown_it",
)  # fmt: skip
"""Modules that commands import while they run. Forks find them imported."""


@dataclass(frozen=True)
class Result:
    """The end of a case.

    Attributes:
        code: the exit code; negative for a signal that killed the process, None for a hang.
        finished: checksums of the pixels of the pictures that the engine has finished.
        calls: kind and path of each call, in order.
        folder: everything that the command could read and write.
    """

    code: int | None
    stdout: bytes
    stderr: str
    finished: tuple[str, ...]
    calls: tuple[str, ...]
    folder: Path


def pixels(image: Image.Image) -> str:
    """Return a checksum of a picture's pixels."""
    return hashlib.sha256(repr((image.mode, image.size)).encode() + image.tobytes()).hexdigest()


def import_program() -> None:
    """Import everything that commands import, so that forks do not."""
    from importlib import import_module

    from sensenova_cli.commands import COMMANDS as NAMES
    from sensenova_cli.commands import import_command

    for name in IMPORTS:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith(("sensenova_cli", "model")):
                raise
    for name in NAMES:
        import_command(name)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    import_module("sensenova_cli.__main__")  # installs handlers
    for number, handler in handlers.items():
        signal.signal(number, handler)
    Image.init()
    gc.collect()
    gc.freeze()  # otherwise each fork looks at all these objects, and so copies their memory


def write_template(folder: Path) -> None:
    """Write the files that every command finds."""
    for name in ("here", "user", "data", "home", "tmp", "here/checkpoint"):
        (folder / name).mkdir(parents=True)
    shutil.copy(find_checkpoint(DEMO_MODEL) / "config.json", folder / "here/checkpoint")
    recommended = {"trained_sizes": [[64, 64], [96, 64]], "settings": {"num_steps": 2}}
    (folder / "here/checkpoint/recommended_settings.json").write_text(json.dumps(recommended))
    (folder / "here/sensenova.toml").write_text("seed = 5\n")
    (folder / "here/prompts.txt").write_text("a cat\na dog\n")
    (folder / "here/keep.html").write_text("<html>mine</html>\n")
    for words, stdin in (
        (("generate", "a hat", "-o", "in.png"), ""),
        (("generate", "a hut", "-o", "keep.png"), ""),
        (("repl", "--session", "old"), "a cat\n/edit make it red\n"),
        (("repl", "--session", "other"), "a cat\n/edit make it blue\n"),
    ):
        result = _run_in(folder, Command(words, stdin), None)
        assert result.code == 0, result.stderr


@contextmanager
def run_case(command: Command, fault: Fault | None, template: Path) -> Iterator[Result]:
    """Run a command with a fault in a copy of the template; the copy is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=template.parent))
    try:
        shutil.copytree(template, folder, dirs_exist_ok=True)
        yield _run_in(folder, command, fault)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_again(result: Result, *words: str) -> Result:
    """Run another command, without a fault, in the folder of a result."""
    return _run_in(result.folder, Command(words), None)


def _run_in(folder: Path, command: Command, fault: Fault | None) -> Result:
    for name in ("stdin", "stdout", "stderr", "calls", "finished"):
        (folder / f"{name}.log").write_text(command.stdin if name == "stdin" else "")
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _become_program(folder, command, fault)
    if command.asks:
        _ask(folder, child)
    code = _wait(child)
    (stdout, stderr, calls, finished) = (
        (folder / f"{name}.log").read_bytes() for name in ("stdout", "stderr", "calls", "finished")
    )
    return Result(
        code,
        stdout,
        stderr.decode(errors="replace"),
        tuple(finished.decode().split()),
        tuple(calls.decode(errors="replace").splitlines()),
        folder,
    )


def _wait(child: int) -> int | None:
    """Wait for a process and return its exit code; kill it if it hangs."""
    handle = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([handle], [], [], SECONDS)
        if not ended:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become_program(folder: Path, command: Command, fault: Fault | None) -> NoReturn:
    """Run the program in this process, which is a fork, and end it."""
    try:
        calls = os.open(folder / "calls.log", os.O_WRONLY | os.O_APPEND)
        finished = os.open(folder / "finished.log", os.O_WRONLY | os.O_APPEND)
        _redirect(folder)
        _set_environment(folder)
        here = folder / "here"
        os.chdir(here)
        shim = Shim(folder, folder / "tmp", fault, lambda call: _note(calls, call))

        class Engine(FakeEngine):
            """A fake engine that notes the pictures that it has finished."""

            def _draw(self, request: GenerateRequest | EditRequest) -> Iterator[Event]:
                for event in super()._draw(request):
                    if isinstance(event, Picture):
                        _note(finished, pixels(event.image))
                    yield event

        def open_engine(settings: LoadSettings, **options: Any) -> Engine:
            shim.call("load", "engine")
            engine = Engine(find_checkpoint(settings.model or DEMO_MODEL))
            engine.on_step = lambda number: shim.call("step", "engine")
            engine.predict = lambda longer_side: Image.new("RGB", (longer_side, longer_side))
            return engine

        model.opening.open_engine = open_engine  # type: ignore[assignment]
        sys.argv = ["sensenova", *command.words]
        from sensenova_cli.__main__ import main
        from sensenova_cli.system.first_signals import exit_on_signals

        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        exit_on_signals()
        shim.install()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        threading._shutdown()  # type: ignore[attr-defined]  # the interpreter also waits for threads
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1 if code else 0)
    except BaseException:
        posix.write(2, traceback.format_exc().encode())
        os._exit(99)
    raise AssertionError("unreachable")


def _note(descriptor: int, text: str) -> None:
    posix.write(descriptor, f"{text}\n".encode(errors="replace"))


def _redirect(folder: Path) -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_RDONLY if name == "stdin" else os.O_WRONLY | os.O_APPEND
        opened = os.open(folder / f"{name}.log", flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), "utf-8")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(  # type: ignore[misc]
        io.BufferedWriter(io.FileIO(2, "w")), "utf-8", line_buffering=True
    )


def _set_environment(folder: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("SENSENOVA_", "XDG_", "PYTEST_", "NO_COLOR", "FORCE_COLOR", "RANK", "WORLD_SIZE")):
            del os.environ[name]
    os.environ |= {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "SENSENOVA_CONFIG_DIR": str(folder / "user"),
        "SENSENOVA_DATA_DIR": str(folder / "data"),
        "SENSENOVA_MODEL": str(folder / "here/checkpoint"),
        "SENSENOVA_DTYPE": "float32",
        "COLUMNS": "100",
    }
    tempfile.tempdir = None


def _ask(folder: Path, child: int) -> None:
    """Send a server two requests once it says where it is, then SIGTERM."""
    address = None
    end = time.monotonic() + SECONDS
    while address is None and time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        address = re.search(r"http://127\.0\.0\.1:(\d+)", (folder / "stderr.log").read_text(errors="replace"))
        time.sleep(0.005)
    body = json.dumps({"prompt": "a cat", "size": "64x64", "response_format": "b64_json"})
    for path, text in (("/v1/images/generations", body), ("/v1/models", None)):
        if address is None:
            break
        connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=SECONDS)
        try:
            connection.request(
                "POST" if text else "GET", path, text, {"Content-Type": "application/json"} if text else {}
            )
            answer = json.loads(connection.getresponse().read())
            for number, picture in enumerate(answer.get("data", []) if text else []):
                (folder / f"answer-{number}.png").write_bytes(base64.b64decode(picture["b64_json"]))
        except (OSError, http.client.HTTPException, json.JSONDecodeError):  # the server has ended
            break
        finally:
            connection.close()
    try:
        os.kill(child, signal.SIGTERM)
    except ProcessLookupError:
        return


def find_command(name: str) -> Command:
    """Return the command with this command line."""
    return next(command for command in COMMANDS if command.name == name)
