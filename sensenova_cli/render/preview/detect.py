"""Detection of the method by which a terminal can show pictures, and of its links, from environment variables.

The program never queries the terminal: the reply would arrive on standard input, mixed with keys that the user types.
"""

import struct
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal

from rich.console import Console

from config.operating_system import terminal_size_report
from config.settings import PreviewChoice
from sensenova_cli.errors import UsageError

Method = Literal["kitty", "iterm2", "sixel", "blocks"]

FIRST_VTE_WITH_LINKS = 5000
"""The version of VTE, which GNOME Terminal and others use, from which it shows links."""
DEFAULT_CELL = (10, 20)
"""Width and height of a character cell in pixels if the terminal does not report them."""

_BY_TERM: tuple[tuple[str, Method], ...] = (("kitty", "kitty"), ("ghostty", "kitty"), ("wezterm", "iterm2"))
_BY_PROGRAM: Mapping[str, Method] = {"iTerm.app": "iterm2", "WezTerm": "iterm2", "ghostty": "kitty"}

_LINKS_BY_TERM = ("kitty", "ghostty", "wezterm", "foot", "alacritty", "contour")
_LINKS_BY_PROGRAM = ("iTerm.app", "WezTerm", "ghostty", "vscode", "Hyper", "rio")


def choose_method(setting: PreviewChoice, console: Console, environment: Mapping[str, str]) -> Method | None:
    """Return the method by which a console shows pictures; None if it shows none.

    Without a terminal, on a dumb terminal, and without colors the result is None for every setting.

    Raises:
        UsageError: the setting names a protocol whose package is not installed.
    """
    if setting == "off" or not _is_color_screen(console):
        return None
    if setting == "auto":
        return _detect(environment) or ("blocks" if has_blocks(console) else None)
    if setting == "blocks":
        return "blocks" if _has_unicode(console) else None
    if setting == "sixel" and find_spec("textual_image") is None:
        raise UsageError(
            "preview sixel needs the package textual-image, which is not installed",
            "in the checkout, run pip install '.[sixel]'; or use `preview=blocks`",
        )
    return setting


def has_links(console: Console, environment: Mapping[str, str]) -> bool:
    """Return whether a console shows links (OSC 8) to files, on which a user can click.

    Other terminals may print the link's address. Over SSH, the user's machine does not have the file.
    """
    if not _is_color_screen(console) or is_multiplexer(environment) or environment.get("SSH_CONNECTION"):
        return False
    term = environment.get("TERM", "").lower()
    if any(name in term for name in _LINKS_BY_TERM) or environment.get("TERM_PROGRAM") in _LINKS_BY_PROGRAM:
        return True
    vte = environment.get("VTE_VERSION", "")
    return (vte.isdecimal() and int(vte) >= FIRST_VTE_WITH_LINKS) or "KONSOLE_VERSION" in environment


def has_blocks(console: Console) -> bool:
    """Return whether the console can show half blocks: it needs 256 colors and Unicode.

    With 16 colors a picture is unrecognizable.
    """
    return _is_color_screen(console) and _has_unicode(console) and console.color_system in ("256", "truecolor")


def cell_size(console: Console) -> tuple[int, int]:
    """Return width and height of a character cell in pixels, as the kernel reports them, or the default."""
    try:
        answer = terminal_size_report(console.file.fileno())
    except (OSError, ValueError):  # not a terminal, or not a file
        return DEFAULT_CELL
    rows, columns, width, height = struct.unpack("HHHH", answer)
    if not (rows and columns):
        return DEFAULT_CELL
    cell = (width // columns, height // rows)
    # Some terminals report nothing or wrong values. Every real cell is at least as high as wide, at most 4 times.
    return cell if 0 < cell[0] <= cell[1] <= 4 * cell[0] else DEFAULT_CELL


def _is_color_screen(console: Console) -> bool:
    # With FORCE_COLOR Rich treats a pipe as a terminal, but a picture in a pipe would be useless.
    is_screen = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
    return is_screen and not console.no_color and console.color_system is not None


def _has_unicode(console: Console) -> bool:
    return (getattr(console.file, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def is_multiplexer(environment: Mapping[str, str]) -> bool:
    """Return whether the terminal is a multiplexer such as tmux, which keeps sequences from the outer terminal."""
    inside = any(environment.get(name) for name in ("TMUX", "STY", "ZELLIJ"))
    return inside or environment.get("TERM", "").lower().startswith(("screen", "tmux"))


def _detect(environment: Mapping[str, str]) -> Method | None:
    """Return the graphics protocol of the innermost terminal; None if no protocol of it is known."""
    term = environment.get("TERM", "").lower()
    if is_multiplexer(environment):
        # A multiplexer inherits the variables of the outer terminal but swallows its sequences. tmux can be set to pass
        # them through, but then the picture ignores panes and scrolling: it appears at the outer cursor, remains after
        # a change of the window, and covers other panes.
        return None
    # A terminal inherits the variables of the terminal from which it was started, but nearly every one sets TERM.
    for part, method in _BY_TERM:
        if part in term:
            return method
    if program := environment.get("TERM_PROGRAM"):
        # VS Code and Konsole are left out: VS Code disables pictures by default, Konsole draws only parts of them.
        return _BY_PROGRAM.get(program)
    if not term.startswith("xterm") or environment.get("VTE_VERSION") or environment.get("KONSOLE_VERSION"):
        return None  # in these terminals the following variables are inherited
    if environment.get("KITTY_WINDOW_ID"):  # kitty's TERM can be configured
        return "kitty"
    if environment.get("WEZTERM_PANE") or environment.get("LC_TERMINAL") == "iTerm2":  # ssh forwards LC_TERMINAL
        return "iterm2"
    return None
