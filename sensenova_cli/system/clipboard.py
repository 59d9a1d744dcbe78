"""The clipboard of the desktop, for pictures and text. Without a desktop, the clipboard of the terminal, for text.

On Wayland wl-copy and wl-paste are used, on X11 xclip, on macOS pbcopy and osascript.
"""

import base64
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sensenova_cli.errors import UsageError
from sensenova_cli.system.desktop import has_desktop
from sensenova_cli.system.streams import CLIPBOARD, MAX_INPUT_BYTES

PATIENCE = 5
"""Seconds in which a program must have copied or pasted something."""
PNG = "image/png"
PICTURE_TYPES = (PNG, "image/jpeg", "image/webp", "image/bmp", "image/tiff", "image/gif")
"""Types of pictures in a clipboard, the best one first."""
MAX_TERMINAL_BYTES = 74_000
"""Most bytes of text for the terminal's clipboard. Some terminals discard longer sequences."""
_INSTALL = "install wl-clipboard (Wayland) or xclip (X11)"


def copy_png(content: bytes) -> bool:
    """Copy a PNG file to the desktop's clipboard; return False if no program can do so."""
    if sys.platform == "darwin":
        return _copy_on_a_mac(content)
    return any(_run([*words, *arguments], content) is not None for words, arguments in _picture_writers())


def can_copy_pictures() -> bool:
    """Return whether a program is there that copies pictures to a desktop's clipboard."""
    if sys.platform == "darwin":
        return shutil.which("osascript") is not None
    return any(shutil.which(words[0]) for words, _ in _picture_writers())


def copy_text(text: str) -> bool:
    """Copy text to the desktop's clipboard, or else to that of the terminal (OSC 52), which many terminals have.

    Returns:
        False if there is neither. Terminals do not say whether they have copied a text.
    """
    encoded = text.encode(errors="backslashreplace")
    if has_desktop():
        tools = [["pbcopy"]] if sys.platform == "darwin" else [["wl-copy"], ["xclip", "-selection", "clipboard"]]
        if any(_run(words, encoded) is not None for words in tools):
            return True
    if not terminal_takes_text() or len(encoded) > MAX_TERMINAL_BYTES:
        return False
    sys.stderr.write(f"\x1b]52;c;{base64.b64encode(encoded).decode()}\x07")
    sys.stderr.flush()
    return True


def can_copy_text() -> bool:
    """Return whether `copy_text` has a way to copy."""
    tools = ("pbcopy",) if sys.platform == "darwin" else ("wl-copy", "xclip")
    return (has_desktop() and any(map(shutil.which, tools))) or terminal_takes_text()


def terminal_takes_text() -> bool:
    """Return whether stderr is a terminal that may have a clipboard."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown", "linux")


def read_clipboard_picture() -> bytes:
    """Return the picture file in the desktop's clipboard.

    Raises:
        UsageError: there is no clipboard, no program that reads it, or no picture in it.
    """
    if not has_desktop():
        raise UsageError("there is no clipboard: no desktop was found", "name a picture file, or - for standard input")
    if sys.platform == "darwin":
        return _paste_on_a_mac()
    readers = [words for words in _readers() if shutil.which(words[0])]
    if not readers:
        raise UsageError("the clipboard cannot be read: no program for it is installed", _INSTALL)
    found: list[str] = []
    for words in readers:
        listed = _run([*words, "--list-types"] if words[0] == "wl-paste" else [*words, "-t", "TARGETS"]) or b""
        types = listed.decode(errors="replace").split()
        for kind in PICTURE_TYPES:
            content = _run([*words, "--type" if words[0] == "wl-paste" else "-t", kind]) if kind in types else None
            if content:
                return content
        found += types
    raise _no_picture(any("text" in kind.lower() or "STRING" in kind for kind in found))


def _no_picture(has_text: bool) -> UsageError:
    what = "there is no picture in the clipboard" + (", only text" if has_text else "")
    return UsageError(what, f"copy a picture first; a file named {CLIPBOARD} is ./{CLIPBOARD}")


def _picture_writers() -> Iterator[tuple[list[str], list[str]]]:
    """Yield the programs that copy pictures, with their arguments, for the desktop that is running."""
    if os.environ.get("WAYLAND_DISPLAY"):
        yield ["wl-copy"], ["--type", PNG]
    if os.environ.get("DISPLAY"):
        yield ["xclip"], ["-selection", "clipboard", "-t", PNG]


def _readers() -> Iterator[list[str]]:
    if os.environ.get("WAYLAND_DISPLAY"):
        yield ["wl-paste", "--no-newline"]
    if os.environ.get("DISPLAY"):
        yield ["xclip", "-selection", "clipboard", "-o"]


def _copy_on_a_mac(content: bytes) -> bool:
    handle, name = tempfile.mkstemp(suffix=".png")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        script = f'set the clipboard to (read (POSIX file "{name}") as «class PNGf»)'
        return _run(["osascript", "-e", script]) is not None
    except OSError:
        return False
    finally:
        Path(name).unlink(missing_ok=True)


def _paste_on_a_mac() -> bytes:
    answer = _run(["osascript", "-e", "the clipboard as «class PNGf»"]) or b""
    digits = re.search(rb"PNGf([0-9A-F]+)", answer)
    if digits is None:
        raise _no_picture(has_text=False)
    return bytes.fromhex(digits[1].decode())


def _run(words: Sequence[str], content: bytes = b"") -> bytes | None:
    """Run a program with content on its standard input; return its output, or None if it is not installed or failed."""
    if shutil.which(words[0]) is None:
        return None
    # A file, because xclip and wl-copy stay in the background and would hold a pipe open.
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                words,
                input=content,
                stdout=output,
                stderr=subprocess.DEVNULL,
                timeout=PATIENCE,
                check=False,
                start_new_session=True,  # what was copied stays when the terminal is closed
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        output.seek(0)
        return output.read(MAX_INPUT_BYTES + 1) if done.returncode == 0 else None
