"""The entry point of the console script and of `python -m sensenova_cli`."""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

INTERRUPTED = 130
"""The same value as in `sensenova_cli.errors`, whose import takes a while."""


def main() -> None:
    """Run the program and exit with its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Importing takes a while. Until then an interrupt can exit at once, because nothing needs cleanup.
        signal.signal(number, lambda number, frame: _exit_interrupted())
    _remove_current_folder()
    _limit_spinning()
    # Pydantic would read the metadata of all installed packages to find plugins, which takes 0.05 s.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
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
    except KeyboardInterrupt:  # raised outside of `app`, which handles its own
        _exit_interrupted()
    except SystemExit as end:
        if rank == 0:
            from model import release_rank_processes

            release_rank_processes()
        flush_stdout()  # an earlier write has already reported a failing stdout
        # A thread of a library or of a loading model may still be busy for a long time. The interpreter would wait for
        # it at shutdown, so the process exits without a shutdown. Without PyTorch nothing needs a shutdown, which takes
        # up to 0.1 s.
        if end.code == INTERRUPTED or _is_loading() or "torch" not in sys.modules:
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        raise


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
    """Return this process's rank if a launcher such as torchrun started it, else -1."""
    if "RANK" not in os.environ:  # the usual case needs no import
        return -1
    from model import launched

    world = launched()
    return world[0] if world else -1


def _exit_interrupted() -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


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


def _library_folders() -> set[Path]:
    """Return the folders that are on the module search path in any current folder."""
    import site
    import sysconfig

    folders = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    # On some systems, compiled modules of the standard library have their own folder.
    return {Path(folder) for folder in (*folders, sysconfig.get_config_var("DESTSHARED") or "")}


if __name__ == "__main__":
    main()
