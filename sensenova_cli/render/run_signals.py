"""What a terminal shows about a run outside of its text: progress in its tab or in the taskbar (OSC 9;4), and a bell or
a notification at the end of a long run (OSC 9, OSC 777).

The sequences: https://conemu.github.io/en/AnsiEscapeCodes.html and https://iterm2.com/documentation-escape-codes.html
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from config.settings import NotifyChoice
from sensenova_cli.render.console import is_animated
from sensenova_cli.render.preview.detect import is_multiplexer
from sensenova_cli.render.progress import ProgressView, format_seconds
from sensenova_cli.system import first_signals

LONG_SECONDS = 30.0
"""Duration of a run from which its end is announced. The help of the setting `notify` names it."""
BELL = "\a"
CLEAR = "\x1b]9;4;0;0\a"
UNKNOWN = "\x1b]9;4;3;0\a"
"""Progress without a percentage."""

_PROGRESS_PROGRAMS = ("ghostty", "WezTerm", "mintty", "vscode")
_FIRST_ITERM = (3, 6, 6)
_FIRST_VTE = 8000
_FIRST_KONSOLE = 250400
"""The first versions that show progress. Older versions of iTerm2 would show a notification for each step."""
_NOTIFYING_PROGRAMS = ("iTerm.app", "WezTerm", "ghostty")
"""Terminals that show the text of OSC 9 as a notification."""


class RunSignals:
    """The signals of the runs of one view.

    Args:
        notify: how the end of a long run is announced.
        shows_progress: whether the view shows progress.
        clock: returns the time in seconds.
    """

    def __init__(
        self, notify: NotifyChoice, *, shows_progress: bool, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        is_screen = is_animated()
        self._notify = notify if is_screen else "off"
        self._progress = shows_progress and is_screen and takes_progress(os.environ)
        self._clock = clock
        self._shown = ""
        self._is_running = False

    @contextmanager
    def run(self) -> Iterator[None]:
        """Enclose a run: show that it works, and at its end, also after an error, clear the progress. Announce the end
        of a long run, unless the user has interrupted it."""
        began = self._clock()
        self._is_running = True
        self._show(UNKNOWN)
        end = ""
        try:
            yield
            end = "done in"
        except Exception:
            end = "failed after"
            raise
        finally:
            self._show(CLEAR)
            self._is_running = False
            seconds = self._clock() - began
            if end and self._notify != "off" and seconds >= LONG_SECONDS:
                _write(announcement(self._notify, f"{end} {format_seconds(seconds)}", os.environ))

    def progress(self, done: float, total: float) -> None:
        """Show how much of a run, or of its loading, is done; a total of 0 is unknown. Outside of runs show nothing."""
        self._show(f"\x1b]9;4;1;{min(100, int(100 * done / total))}\a" if total else UNKNOWN)

    def _show(self, sequence: str) -> None:
        if not (self._progress and self._is_running) or sequence == self._shown:
            return
        self._shown = sequence
        # A signal may end the program at any time, without the end of the run.
        first_signals.farewell = b"" if sequence == CLEAR else CLEAR.encode()
        _write(sequence)


class SignalledProgress:
    """A view of loading or downloading whose progress the terminal shows outside of its text, too."""

    def __init__(self, view: ProgressView, signals: RunSignals) -> None:
        self._view = view
        self._signals = signals

    def update(self, done: int, total: int) -> None:
        """Show the progress; `total` is 0 while it is unknown."""
        self._view.update(done, total)
        self._signals.progress(done, total)

    def close(self) -> None:
        """End the view."""
        self._view.close()


def takes_progress(environment: Mapping[str, str]) -> bool:
    """Return whether the terminal is known to show progress. Others might show a notification for each step."""
    if is_multiplexer(environment):
        return False
    if program := environment.get("TERM_PROGRAM"):
        if program == "iTerm.app":
            return _version(environment.get("TERM_PROGRAM_VERSION", "")) >= _FIRST_ITERM
        return program in _PROGRESS_PROGRAMS
    for name, first in (("VTE_VERSION", _FIRST_VTE), ("KONSOLE_VERSION", _FIRST_KONSOLE)):
        if version := environment.get(name):
            return version.isdecimal() and int(version) >= first
    if not environment.get("TERM", "").startswith("xterm") or environment.get("KITTY_WINDOW_ID"):
        return False  # another terminal, which was started from one of the following
    return bool(environment.get("WT_SESSION")) or environment.get("ConEmuANSI") == "ON"


def announcement(notify: NotifyChoice, text: str, environment: Mapping[str, str]) -> str:
    """Return the sequence that announces the end of a run: a bell, or a notification if the terminal may show one.

    Args:
        text: our own words, without control characters and semicolons.
    """
    if notify == "bell" or is_multiplexer(environment):
        return BELL
    term, program = environment.get("TERM", "").lower(), environment.get("TERM_PROGRAM", "")
    if program in _NOTIFYING_PROGRAMS or "kitty" in term:
        return f"\x1b]9;sensenova: {text}\a"
    if program:
        return BELL
    notification = f"\x1b]777;notify;sensenova;{text}\a"
    if term.startswith(("foot", "rxvt-unicode")):
        return notification
    if environment.get("VTE_VERSION") or environment.get("KONSOLE_VERSION"):
        return notification + BELL  # not every version of them shows notifications
    return BELL


def _version(text: str) -> tuple[int, ...]:
    """Return `3.6.6beta2` as (3, 6, 6)."""
    numbers = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _write(sequence: str) -> None:
    sys.stderr.write(sequence)
    sys.stderr.flush()
