"""Which way of showing pictures a terminal has, as far as its environment tells.

The terminal itself is never asked: its answer comes on standard input, between the keys that a user types ahead.
"""

import fcntl
import struct
import termios
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal

from rich.console import Console

from config.settings import PreviewChoice
from sensenova_cli.errors import UsageError

Method = Literal["kitty", "iterm2", "sixel", "blocks"]

DEFAULT_CELL = (10, 20)
"""Width and height of a character cell in pixels where the terminal does not tell: twice as high as wide."""

_BY_TERM: tuple[tuple[str, Method], ...] = (("kitty", "kitty"), ("ghostty", "kitty"), ("wezterm", "iterm2"))
_BY_PROGRAM: Mapping[str, Method] = {"iTerm.app": "iterm2", "WezTerm": "iterm2", "ghostty": "kitty"}


def choose_method(setting: PreviewChoice, console: Console, environment: Mapping[str, str]) -> Method | None:
    """How pictures are shown on a console; None where they are not.

    Nothing is shown, whatever the setting says, where the console is no terminal, a dumb one, or without colours.

    Raises:
        UsageError: the setting names a protocol whose package is not installed.
    """
    if setting == "off" or not _is_colour_screen(console):
        return None
    if setting == "auto":
        return _detect(environment) or ("blocks" if has_blocks(console) else None)
    if setting == "blocks":
        return "blocks" if _has_unicode(console) else None
    if setting == "sixel" and find_spec("textual_image") is None:
        raise UsageError(
            "preview sixel needs the package textual-image, which is not installed",
            "pip install 'sensenova[sixel]', or take `preview=blocks`",
        )
    return setting


def has_blocks(console: Console) -> bool:
    """Whether half blocks come out well: with 256 colours or more, and a character set that has them.

    With 16 colours a picture is unrecognisable.
    """
    return _is_colour_screen(console) and _has_unicode(console) and console.color_system in ("256", "truecolor")


def cell_size(console: Console) -> tuple[int, int]:
    """Width and height of a character cell in pixels, as the kernel knows them from the terminal, or the default."""
    try:
        answer = fcntl.ioctl(console.file.fileno(), termios.TIOCGWINSZ, bytes(8))
    except (OSError, ValueError):  # no terminal, or no file at all
        return DEFAULT_CELL
    rows, columns, width, height = struct.unpack("HHHH", answer)
    if not (rows and columns):
        return DEFAULT_CELL
    cell = (width // columns, height // rows)
    # Some terminals tell nonsense, or nothing, and no font is wider than high or four times as high.
    return cell if 0 < cell[0] <= cell[1] <= 4 * cell[0] else DEFAULT_CELL


def _is_colour_screen(console: Console) -> bool:
    # Rich believes FORCE_COLOR and the like; a picture in a pipe would be rubbish even so.
    is_screen = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
    return is_screen and not console.no_color and console.color_system is not None


def _has_unicode(console: Console) -> bool:
    return (getattr(console.file, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def _detect(environment: Mapping[str, str]) -> Method | None:
    """The protocol of the terminal that is nearest to the program, as far as it is known to have one."""
    term = environment.get("TERM", "").lower()
    if any(environment.get(name) for name in ("TMUX", "STY", "ZELLIJ")) or term.startswith(("screen", "tmux")):
        # The variables of the outer terminal are still there, but what it understands is swallowed here. tmux can be
        # told to pass it through; the picture then knows nothing of panes and scrolling: it stands where the outer
        # cursor happens to be, stays when the window is changed, and covers other panes.
        return None
    # A terminal that was started from another one inherits its variables, but nearly every one sets TERM.
    for part, method in _BY_TERM:
        if part in term:
            return method
    if program := environment.get("TERM_PROGRAM"):
        # Not those of VS Code and Konsole: the one has pictures off by default, the other draws only parts of them.
        return _BY_PROGRAM.get(program)
    if not term.startswith("xterm") or environment.get("VTE_VERSION") or environment.get("KONSOLE_VERSION"):
        return None  # what follows would be inherited
    if environment.get("KITTY_WINDOW_ID"):  # kitty's TERM can be configured
        return "kitty"
    if environment.get("WEZTERM_PANE") or environment.get("LC_TERMINAL") == "iTerm2":  # the latter goes through ssh
        return "iterm2"
    return None
