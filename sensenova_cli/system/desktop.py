"""The desktop: a program that shows files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sensenova_cli.errors import UsageError


def has_desktop() -> bool:
    """Return whether a desktop is running that this program can reach."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def require_viewer() -> None:
    """Raise UsageError if there is no desktop, or no program that opens files on it."""
    name = _opener()
    if not has_desktop():
        raise UsageError("no desktop was found that could open the picture", "leave --open out")
    if shutil.which(name) is None:
        raise UsageError(f"the program {name}, which opens files, is not installed", "install it, or leave --open out")


def open_file(path: Path) -> bool:
    """Show a file or folder with the program that the desktop has for it; return False if there is no desktop."""
    name = _opener()
    if shutil.which(name) is None or not has_desktop():
        return False
    try:
        subprocess.Popen(
            [name, str(path.absolute())],  # absolute: a name must not be read as an option
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal must not end it
        )
    except OSError:
        return False
    return True


def _opener() -> str:
    return "open" if sys.platform == "darwin" else "xdg-open"
