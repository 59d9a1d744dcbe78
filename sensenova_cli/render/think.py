"""Display of think text while the model writes it: dim, on stderr, with a token counter."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from sensenova_cli.system.unicode import printable


class LiveThink:
    """Think text on a screen. Finished rows are printed once; only the last row and the counter are redrawn.

    A live region with the whole text would freeze or repeat rows once it is taller than the screen.
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

    def close(self, summary: str) -> None:
        """Show the rest of the text, and a line about its length."""
        self.pause()
        self._console.print(Text(summary, style="dim"))

    def pause(self) -> None:
        """Show the rest of the text so far, because something else follows. Another display continues the text."""
        if self._row:
            self._print(self._row)
            self._row = ""
        self.stop()

    def stop(self) -> None:
        """Remove the live rows."""
        self._live.stop()

    def _print(self, row: str) -> None:
        self._console.print(Text(row, style="dim"))

    def _render(self) -> Group:
        seconds = time.perf_counter() - self._start
        rate = f", {self._tokens / seconds:.1f} tok/s" if seconds > 0 else ""
        counter = Text(f"thinking: {self._tokens} tokens{rate}", style="cyan", no_wrap=True)
        return Group(Text(self._row, style="dim"), counter) if self._row else Group(counter)


class PlainThink:
    """Think text in a pipe: each line when it is finished, and the number of tokens at the end."""

    def __init__(self, console: Console, *, hidden: bool) -> None:
        self._console = console
        self._hidden = hidden
        self._line = ""

    def add(self, text: str) -> None:
        *finished, self._line = (self._line + text).split("\n")
        for line in finished:
            self._print(line)

    def close(self, summary: str) -> None:
        self.pause()
        self._console.print(summary, soft_wrap=True)

    def pause(self) -> None:
        if self._line:
            self._print(self._line)
            self._line = ""

    def stop(self) -> None:
        """Do nothing: nothing is redrawn."""

    def _print(self, line: str) -> None:
        if not self._hidden:
            self._console.print(Text(printable(line), style="dim"), soft_wrap=True)
