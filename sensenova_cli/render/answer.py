"""Display of answers on stdout while the model writes them: Markdown on a screen, plain text in a pipe."""

import sys
import time
from itertools import pairwise

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

from sensenova_cli.render.console import printable

BLOCKS = MarkdownIt().enable("table").disable("inline")
"""Finds the same blocks as Rich, without parsing the text inside them."""
MOST_LIVE_ROWS = 12
"""Rows of an unfinished block that are redrawn. Rows above them appear when the block is finished."""

SECONDS_BETWEEN_REDRAWS = 0.1


class PlainAnswer:
    """An answer as plain text, printed token by token."""

    is_live = False

    def __init__(self) -> None:
        self._text = ""

    def add(self, text: str) -> None:
        """Print the text of one more token."""
        self._text += text
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    def close(self) -> None:
        """End the last line of the answer."""
        if self._text and not self._text.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._text = ""


class MarkdownAnswer:
    """An answer as Markdown. Finished blocks are printed once; only the end of the last block is redrawn.

    A live region with the whole answer would freeze or repeat rows once it is taller than the screen.

    Attributes:
        is_live: whether its last rows are redrawn in place.
    """

    is_live = True

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
        self._console.print(Markdown(block))
        self._printed = True


class _BlockEnd:
    """A renderable of the last rows of an unfinished block."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = console.render_lines(Markdown(self._text), options.update(height=None), pad=False)
        most = max(1, min(MOST_LIVE_ROWS, console.height - 2))
        for row in rows[-most:]:
            yield from row
            yield Segment.line()


def split_blocks(text: str) -> tuple[list[str], str]:
    """Split Markdown into finished blocks, which later text cannot change, and the rest.

    A block is finished when a complete line below it begins another block. An incomplete line is not enough: `2` below
    a list may become `2.`, which continues the list. The blocks and the rest, joined, are the text.
    """
    *complete, partial = text.split("\n")
    lines = [line + "\n" for line in complete]
    starts = [token.map[0] for token in BLOCKS.parse("".join(lines)) if token.level == 0 and token.map]
    # Text between two blocks, such as an empty line, belongs to the upper block.
    cuts = [0, *starts[1:]]
    blocks = ["".join(lines[begin:end]) for begin, end in pairwise(cuts)]
    return blocks, "".join(lines[cuts[-1] :]) + partial
