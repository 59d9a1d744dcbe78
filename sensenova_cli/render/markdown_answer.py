"""Display of an answer as Markdown on a screen, while the model writes it. Importing Rich's Markdown takes a while."""

import time

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

from sensenova_cli.render.markdown_blocks import split_blocks
from sensenova_cli.render.safe_markdown import markdown_parser
from sensenova_cli.system.unicode import printable

MOST_LIVE_ROWS = 12
"""Rows of an unfinished block that are redrawn. Rows above them appear when the block is finished."""

SECONDS_BETWEEN_REDRAWS = 0.1


class MarkdownAnswer:
    """An answer as Markdown. Finished blocks are printed once; only the end of the last block is redrawn.

    A live region with the whole answer would freeze or repeat rows once it is taller than the screen.
    """

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._tail = ""
        self._printed = False
        self._live: Live | None = None
        self._redraw_at = 0.0

    def add(self, text: str) -> None:
        """Show the text of one more token."""
        self._tail += printable(text)
        finished: list[str] = []
        if "\n" in text:
            finished, self._tail = split_blocks(self._tail)
        if self._live is None:
            self._live = Live(
                console=self._console,
                transient=True,
                auto_refresh=False,
                get_renderable=lambda: _BlockEnd(self._tail),
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        for block in finished:
            self._print(block)
        # Rich's own refresh thread could redraw in the middle of a print, which repeats or loses rows.
        if (now := time.monotonic()) >= self._redraw_at:
            self._live.refresh()
            self._redraw_at = now + SECONDS_BETWEEN_REDRAWS

    def close(self) -> None:
        """Print the rest of the answer."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        finished, last = split_blocks(self._tail + "\n")
        for block in (*finished, last):
            self._print(block)
        self._tail = ""

    def _print(self, block: str) -> None:
        """Print a block by itself, so that its look does not depend on the other text of the same token."""
        if not block.strip():
            return
        if self._printed:
            self._console.print()
        self._console.print(_markdown(block))
        self._printed = True


class _BlockEnd:
    """A renderable of the last rows of an unfinished block."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = console.render_lines(_markdown(self._text), options.update(height=None), pad=False)
        most = max(1, min(MOST_LIVE_ROWS, console.height - 2))
        for row in rows[-most:]:
            yield from _without_padding(row)
            yield Segment.line()


def _without_padding(row: list[Segment]) -> list[Segment]:
    """Return a row without the spaces at its end: in a full row, the `^C` of a terminal would move to the next one, and
    the wrong rows would be erased afterwards."""
    while row and not (row[-1].style and row[-1].style.bgcolor):
        text = row[-1].text.rstrip()
        if text:
            return [*row[:-1], Segment(text, row[-1].style)]
        row = row[:-1]
    return row


def _markdown(text: str) -> Markdown:
    """Return Markdown that shows HTML as text: Rich would hide `<image1>`, with which a model names a picture."""
    shown = Markdown(text)
    shown.parsed = markdown_parser().parse(text)
    return shown
