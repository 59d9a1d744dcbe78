"""Think text while it is written: dim, on stderr, with a token counter."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from sensenova_cli.render.console import printable


class LiveThink:
    """On a screen: finished rows scroll away, only the last row and the counter are redrawn.

    A whole text inside one live region would freeze or repeat itself once it is taller than the screen.
    """

    def __init__(self, console: Console, *, hidden: bool) -> None:
        self._console = console
        self._hidden = hidden
        self._row = ""
        self._tokens = 0
        self._start = time.perf_counter()
        self._live = Live(
            console=console,
            transient=True,
            refresh_per_second=10,
            get_renderable=self._render,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def add(self, text: str) -> None:
        """Show one more token; its text may be empty."""
        self._tokens += 1
        if self._hidden:
            return
        *finished, self._row = (self._row + printable(text)).split("\n")
        for line in finished:
            self._print(line)
        rows = Text(self._row).wrap(self._console, self._console.width)
        if len(rows) > 1:
            for row in rows[:-1]:
                self._print(row.plain)
            self._row = rows[-1].plain

    def close(self, tokens: int, seconds: float) -> None:
        """The text has ended: show what is left of it, and its length."""
        if self._row:
            self._print(self._row)
            self._row = ""
        self.stop()
        self._console.print(Text(f"thought for {tokens} tokens, {seconds:.1f} s", style="dim"))

    def stop(self) -> None:
        """Take the live rows away."""
        self._live.stop()

    def _print(self, row: str) -> None:
        self._console.print(Text(row, style="dim"))

    def _render(self) -> Group:
        seconds = time.perf_counter() - self._start
        rate = f", {self._tokens / seconds:.1f} tok/s" if seconds > 0 else ""
        counter = Text(f"thinking: {self._tokens} tokens{rate}", style="cyan", no_wrap=True)
        return Group(Text(self._row, style="dim"), counter) if self._row else Group(counter)


class PlainThink:
    """Elsewhere: finished lines as they come, and the count at the end."""

    def __init__(self, console: Console, *, hidden: bool) -> None:
        self._console = console
        self._hidden = hidden
        self._line = ""

    def add(self, text: str) -> None:
        *finished, self._line = (self._line + text).split("\n")
        for line in finished:
            self._print(line)

    def close(self, tokens: int, seconds: float) -> None:
        if self._line:
            self._print(self._line)
        self._console.print(f"thought for {tokens} tokens, {seconds:.1f} s", soft_wrap=True)

    def stop(self) -> None:
        """Nothing to take away."""

    def _print(self, line: str) -> None:
        if not self._hidden:
            self._console.print(Text(printable(line), style="dim"), soft_wrap=True)
