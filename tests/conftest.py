"""One thread for each test process, and checkpoints that tests share: those of tests/parity/data, and a tiny one of
random numbers."""

import os
import signal
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.preloaded import preloaded_program

if TYPE_CHECKING:
    from model import Engine

# Read when PyTorch is imported, here and in the processes that tests start. The checkpoints are too small for more
# threads to help, and several test processes would hold each other up. One number of threads also gives the same
# floating-point results with any number of test processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of tests/test_weights.py."""
    parser.addoption("--model", help="checkpoint folder or Hub id for tests marked `weights`")
    parser.addoption("--edit-image", help="input picture of the published edit, for tests marked `weights`")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first, so that no process waits for another one's slow test at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


# A shell starts background jobs with SIGINT ignored, and nohup ignores SIGHUP. Programs keep such an order, and those
# that tests start would inherit it.
if threading.current_thread() is threading.main_thread():
    for _number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(_number) is signal.SIG_IGN:
            signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)


FOLDERS_OF_THE_USER = ("SENSENOVA_DATA_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
"""Variables that say where sessions, logs, settings and notes are. Some tests remove those of the program."""


@pytest.fixture(autouse=True, scope="session")
def no_state_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep the user's folders out of fixtures that live longer than a test; return the folder for those of tests."""
    folder = tmp_path_factory.mktemp("users")
    for name in FOLDERS_OF_THE_USER:
        os.environ[name] = str(folder / name)
    return folder


@pytest.fixture(autouse=True)
def no_state_of_other_tests(no_state_of_the_user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own folders, and a program that got no signal yet: no test depends on those before it."""
    # Not tmp_path_factory, which lists all earlier folders for every new one.
    folder = Path(tempfile.mkdtemp(dir=no_state_of_the_user))
    for name in FOLDERS_OF_THE_USER:
        monkeypatch.setenv(name, str(folder / name))
    interrupts = sys.modules.get("sensenova_cli.system.interrupts")
    if interrupts is not None:  # otherwise a command could end as if a test's earlier Ctrl-C were its own
        for name, value in {"_last": None, "_raised": False, "_finished": False}.items():
            monkeypatch.setattr(interrupts, name, value)


PARITY = Path(__file__).parent / "parity" / "data"


@pytest.fixture(scope="session")
def parity_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpack `u1`, `u15` or `a3b` once and give its folder."""
    root = tmp_path_factory.mktemp("checkpoints")

    def unpack(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            with zipfile.ZipFile(PARITY / f"{name}.zip") as archive:
                archive.extractall(root)
        return folder

    return unpack


@pytest.fixture(scope="module")
def parity_engine(parity_checkpoint: Callable[[str], Path]) -> "Callable[[str, str], Engine]":
    """Load a parity checkpoint in float32 on a device, once for a module."""

    @cache
    def load(name: str, device: str) -> "Engine":
        from model import Engine

        return Engine.load(parity_checkpoint(name), device=device, dtype="float32")

    return load


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Path]:
    """An executable `sensenova` that does not import PyTorch for each command; see tests/preloaded.py."""
    with preloaded_program() as program:
        yield program


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 3-layer U1.5 of random numbers; read only: copy it to change it."""
    from model.checkpoint.random_weights import write_tiny_checkpoint

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    write_tiny_checkpoint(folder)
    return folder
