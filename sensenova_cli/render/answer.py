"""Answers while they are written: Markdown on a screen, plain text elsewhere; always on stdout."""

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
"""Finds blocks as Rich does, but does not look into them."""
MOST_LIVE_ROWS = 12
"""Rows of the unfinished end that are redrawn; what is above them waits for the block to be finished."""

SECONDS_BETWEEN_REDRAWS = 0.1


class PlainAnswer:
    """Text as it comes."""

    def __init__(self) -> None:
        self._text = ""

    def add(self, text: str) -> None:
        self._text += text
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    def close(self) -> None:
        """End the line; nothing follows."""
        if self._text and not self._text.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._text = ""


class MarkdownAnswer:
    """Blocks of Markdown that are finished scroll away; only the end of the last one is redrawn.

    A whole answer inside one live region would freeze or repeat itself once it is taller than the screen.
    """

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._tail = ""
        self._printed = False
        self._live: Live | None = None
        self._redraw_at = 0.0

    def add(self, text: str) -> None:
        self._tail += printable(text)
        finished: list[str] = []
        if "\n" in text:
            finished, self._tail = split_blocks(self._tail)
        if self._live is None:
            self._live = Live(
                console=self._console,
                transient=True,
                auto_refresh=False,
                get_renderable=lambda: _End(self._tail),
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        for block in finished:
            self._print(block)
        # Not by a thread of Rich's: it may redraw in the middle of a print, and rows are repeated or lost.
        if (now := time.monotonic()) >= self._redraw_at:
            self._live.refresh()
            self._redraw_at = now + SECONDS_BETWEEN_REDRAWS

    def close(self) -> None:
        """Print what is left; nothing follows."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        finished, last = split_blocks(self._tail + "\n")
        for block in (*finished, last):
            self._print(block)
        self._tail = ""

    def _print(self, block: str) -> None:
        """Every block alone, so that it looks the same whatever came in one piece with it."""
        if not block.strip():
            return
        if self._printed:
            self._console.print()
        self._console.print(Markdown(block))
        self._printed = True


class _End:
    """The last rows of unfinished Markdown."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = console.render_lines(Markdown(self._text), options.update(height=None), pad=False)
        most = max(1, min(MOST_LIVE_ROWS, console.height - 2))
        for row in rows[-most:]:
            yield from row
            yield Segment.line()


def split_blocks(text: str) -> tuple[list[str], str]:
    """The blocks of Markdown that are finished, and the rest: no text that comes can become part of them.

    A block is finished when another one has begun below it, which only a whole line tells: `2` after a list may
    become `2.`, and then it is the list that goes on. Joined, blocks and rest are the text.
    """
    *whole, partial = text.split("\n")
    lines = [line + "\n" for line in whole]
    starts = [token.map[0] for token in BLOCKS.parse("".join(lines)) if token.level == 0 and token.map]
    # What stands between two blocks, as an empty line does, goes with the upper one.
    cuts = [0, *starts[1:]]
    blocks = ["".join(lines[begin:end]) for begin, end in pairwise(cuts)]
    return blocks, "".join(lines[cuts[-1] :]) + partial
