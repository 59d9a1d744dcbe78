"""The entry point of the console script and of `python -m sensenova_cli`."""

from sensenova_cli.system.first_signals import INTERRUPTED, exit_interrupted, exit_on_signals, ignore_signals

exit_on_signals()  # before the other imports, which take a while

import atexit
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from sensenova_cli.system.interpreter import tune_interpreter

COMMANDS_WITH_A_MODEL = ("generate", "edit", "describe", "chat", "repl", "serve", "run", "bench", "verify")
"""Commands that can run on several ranks. The others answer in every process, also if a cluster sets the variables of a
launcher for everybody."""


def main() -> None:
    """Run the program and exit with its exit code."""
    ending = _Ending()
    atexit.register(ending.leave)  # the first function that is registered is called last
    tune_interpreter()
    if os.environ.get("COLUMNS") == "0":  # some programs set it without a terminal; nothing fits into no columns
        del os.environ["COLUMNS"]
    _remove_current_folder()
    _import_own_packages()
    _limit_spinning()
    # Pydantic would read the metadata of all installed packages to find plugins, which takes 0.05 s.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    rank = _rank()
    if rank > 0:
        from model import run_rank

        run_rank(rank)
    from sensenova_cli.app import app
    from sensenova_cli.system.interrupts import handle_signals, was_swallowed
    from sensenova_cli.system.streams import flush_stdout, prepare_streams

    prepare_streams()
    try:
        handle_signals()
        app()
    except KeyboardInterrupt:  # raised outside of `app`, which handles its own
        exit_interrupted()
    except SystemExit as end:
        handled = ignore_signals()  # the results are written, and a signal must not cut them off
        if rank == 0:
            from model import release_rank_processes

            release_rank_processes()
        flush_stdout()  # an earlier write has already reported a failing stdout
        if _number(end.code) == 0 and was_swallowed():
            exit_interrupted()
        # A thread of a library or of a loading model may still be busy for a long time. The interpreter would wait for
        # it at shutdown, so the process exits without a shutdown. Without PyTorch nothing needs a shutdown, which takes
        # up to 0.1 s.
        if end.code == INTERRUPTED or _is_loading() or "torch" not in sys.modules:
            sys.stderr.flush()
            os._exit(_number(end.code))
        ending.code = _number(end.code)
        for number in handled:
            signal.signal(number, ending.leave_now)  # the end may wait for a thread of a library
        raise


class _Ending:
    """The end of the process, after its threads and its atexit functions, but without the teardown of its modules.

    The teardown of PyTorch's modules takes 0.4 s, in which nothing useful happens.

    Attributes:
        code: the exit code; None leaves the end to the interpreter.
    """

    code: int | None = None

    def leave(self) -> None:
        """End the process if the exit code is known."""
        if self.code is not None:
            sys.stderr.flush()
            os._exit(self.code)

    def leave_now(self, number: int, frame: FrameType | None) -> None:
        """End the process quietly. This is a signal handler."""
        os._exit(self.code or 0)


def _number(code: object) -> int:
    """Return the exit code as the interpreter would."""
    return code if isinstance(code, int) else 0 if code is None else 1


def _is_loading() -> bool:
    """Return whether a session ended while its model was still loading."""
    return any(thread.name == "loading" for thread in threading.enumerate())


def _limit_spinning() -> None:
    """Limit how long PyTorch's CPU threads spin while they wait for each other.

    GNU OpenMP spins 300,000 iterations by default, which blocks the cores for other programs of this kind: two demos at
    once took 12 to 25 s for a picture, and 1.1 s with 1,000 iterations. On free cores, more than 2,000 iterations gave
    no measurable gain.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def _rank() -> int:
    """Return this process's rank if a launcher such as torchrun started it for a command with a model, else -1."""
    if "RANK" not in os.environ or not _needs_model(sys.argv[1:]):  # the usual cases need no import
        return -1
    from model import launched

    world = launched()
    return world[0] if world else -1


def _needs_model(words: Sequence[str]) -> bool:
    options = words[: words.index("--")] if "--" in words else words
    if not {"-h", "--help", "--help-all", "--version"}.isdisjoint(options):
        return False
    return next((word for word in words if not word.startswith("-")), "") in COMMANDS_WITH_A_MODEL


def _remove_current_folder() -> None:
    """Remove the current folder from the module search path, so that its `model/` or `torch.py` is not imported.

    `python -m` and an empty entry in PYTHONPATH put the current folder on the path.
    """
    home = Path(__file__).resolve().parent.parent
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the folder was deleted, so nothing can be imported from it
        return
    if here != home and here not in _library_folders():
        sys.path[:] = [entry for entry in sys.path if entry and Path(entry).absolute() != here]


def _import_own_packages() -> None:
    """Import `config` and `model` from the folder of this package, even if a folder on PYTHONPATH has such modules."""
    folder = Path(__file__).resolve().parent.parent
    for name in ("config", "model"):
        found = importlib.util.find_spec(name)
        own = folder / name / "__init__.py"
        if (found is None or found.origin is None or Path(found.origin) != own) and own.exists():
            spec = importlib.util.spec_from_file_location(name, own, submodule_search_locations=[str(own.parent)])
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)


def _library_folders() -> set[Path]:
    """Return the folders that are on the module search path in any current folder."""
    import site
    import sysconfig

    folders = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    # On some systems, compiled modules of the standard library have their own folder.
    return {Path(folder) for folder in (*folders, sysconfig.get_config_var("DESTSHARED") or "")}


if __name__ == "__main__":
    main()
