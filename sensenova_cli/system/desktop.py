"""The desktop: a program that shows files, and the clipboard. Without a desktop, the clipboard of the terminal."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PATIENCE = 5
"""Seconds in which a program must have copied something."""
IMAGE_TYPES = {".png": "image/png", ".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".webp": "image/webp"}
APPLE_TYPES = {".png": "PNGf", ".jpeg": "JPEG", ".jpg": "JPEG"}


def open_file(path: Path) -> bool:
    """Show a file or folder with the program that the desktop has for it; return False if there is no desktop."""
    name = "open" if sys.platform == "darwin" else "xdg-open"
    if shutil.which(name) is None or not _has_desktop():
        return False
    try:
        subprocess.Popen(
            [name, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal must not end it
        )
    except OSError:
        return False
    return True


def copy_picture(path: Path) -> bool:
    """Copy a picture file to the desktop's clipboard; return False if no program can do so."""
    kind = IMAGE_TYPES.get(path.suffix.lower())
    if kind is None or not _has_desktop():
        return False
    if sys.platform == "darwin":
        apple = APPLE_TYPES.get(path.suffix.lower())
        quoted = str(path).replace("\\", "\\\\").replace('"', '\\"')
        words = ["osascript", "-e", f'set the clipboard to (read (POSIX file "{quoted}") as «class {apple}»)']
        return apple is not None and _run(words)
    if os.environ.get("WAYLAND_DISPLAY") and _run(["wl-copy", "--type", kind], path.read_bytes()):
        return True
    return _run(["xclip", "-selection", "clipboard", "-t", kind, "-i", str(path)])


def copy_text(text: str) -> None:
    """Copy text to the desktop's clipboard, or else to that of the terminal (OSC 52), which many terminals have."""
    if _has_desktop():
        tools = [["pbcopy"]] if sys.platform == "darwin" else [["wl-copy"], ["xclip", "-selection", "clipboard"]]
        if any(_run(words, text.encode()) for words in tools):
            return
    if sys.stderr.isatty():
        sys.stderr.write(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07")
        sys.stderr.flush()


def _has_desktop() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _run(words: Sequence[str], content: bytes = b"") -> bool:
    """Run a program with content on its standard input; return whether it is installed and succeeded."""
    if shutil.which(words[0]) is None:
        return False
    try:
        # The output goes nowhere, because xclip stays and would hold a pipe open.
        done = subprocess.run(
            words, input=content, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
