"""The console script, and `python -m sensenova_cli`."""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

INTERRUPTED = 130
"""As in `sensenova_cli.errors`, which takes a moment to import."""


def main() -> None:
    """Run the program and leave with its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Importing takes a while, and nothing has begun that would have to be tidied up.
        signal.signal(number, lambda number, frame: _leave_interrupted())
    _forget_current_folder()
    _share_cores()
    rank = _rank()
    if rank > 0:
        from model import run_rank

        run_rank(rank)
    from sensenova_cli.app import app
    from sensenova_cli.system.interrupts import handle_signals
    from sensenova_cli.system.streams import flush_stdout, prepare_streams

    prepare_streams()
    try:
        handle_signals()
        app()
    except KeyboardInterrupt:  # outside of what `app` looks after
        _leave_interrupted()
    except SystemExit as end:
        if rank == 0:
            from model import release_rank_processes

            release_rank_processes()
        flush_stdout()  # where it fails, that has had its say by now
        # Threads of libraries, or a session's model that is still loading, may be in the middle of something long. The
        # program does not wait for them, and the interpreter cannot shut down around them.
        if end.code == INTERRUPTED or _is_loading():
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        raise


def _is_loading() -> bool:
    """Whether a session has ended while its model was loading."""
    return any(thread.name == "loading" for thread in threading.enumerate())


def _share_cores() -> None:
    """Let PyTorch's CPU threads, which begin later, wait for one another asleep after a moment (GNU OpenMP's default is
    300,000 turns). Where another program of this kind wants the same cores, the threads of both hold up one another
    otherwise: with 1,000 turns a picture of the demo took 1.1 s beside one, instead of 12 to 25 s. Where the cores are
    free, more than 2,000 turns gain nothing that could be measured."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def _rank() -> int:
    """This process's number among those that torchrun has started, or -1."""
    if "RANK" not in os.environ:  # nearly always: without importing anything
        return -1
    from model import launched

    world = launched()
    return world[0] if world else -1


def _leave_interrupted() -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _forget_current_folder() -> None:
    """Keep `model/`, `config.py` or `torch.py` of the user's folder from being imported instead of ours.

    `python -m` and an empty part in PYTHONPATH put the current folder on the module search path.
    """
    home = Path(__file__).resolve().parent.parent
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted, and nothing can be imported from it
        return
    if here != home and here not in _library_folders():
        sys.path[:] = [entry for entry in sys.path if entry and Path(entry).absolute() != here]


def _library_folders() -> set[Path]:
    """Folders that are on the module search path whatever the current folder is."""
    import site
    import sysconfig

    folders = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    # Compiled modules of the standard library have a folder of their own on some systems.
    return {Path(folder) for folder in (*folders, sysconfig.get_config_var("DESTSHARED") or "")}


if __name__ == "__main__":
    main()
