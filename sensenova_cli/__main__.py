"""The console script, and `python -m sensenova_cli`."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the program and leave with its exit code."""
    _forget_current_folder()
    from sensenova_cli.app import app
    from sensenova_cli.errors import INTERRUPTED
    from sensenova_cli.interrupts import end_on_signals

    end_on_signals()
    _open_closed_streams()
    if hasattr(sys.stdout, "reconfigure"):
        # File names may hold bytes that are no text; they leave as they came.
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        app()
    except SystemExit as end:
        _flush_quietly()
        if end.code == INTERRUPTED:
            # Threads of libraries may be in the middle of something long; nobody waits for them now.
            os._exit(INTERRUPTED)
        raise


def _forget_current_folder() -> None:
    """Keep `model/`, `config.py` or `torch.py` of the user's folder from being imported instead of ours.

    `python -m` and an empty part in PYTHONPATH put the current folder on the module search path.
    """
    home = Path(__file__).resolve().parent.parent
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted, and nothing can be imported from it
        return
    if here != home:
        sys.path[:] = [entry for entry in sys.path if entry and Path(entry).absolute() != here]


def _open_closed_streams() -> None:
    """Where stdout or stderr was closed by whoever started the program, what is printed goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # stays open to the end


def _flush_quietly() -> None:
    """Flush stdout; where its reader has gone or the disk is full, that has had its say by now."""
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter flushes once more while it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr.flush()


if __name__ == "__main__":
    main()
