"""Answers while they are written: Markdown on a screen, plain text elsewhere; always on stdout."""

import re
import sys

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

from sensenova_cli.render.console import printable

FENCE = re.compile(r"^ {0,3}(```|~~~)")
MOST_LIVE_ROWS = 12
"""Rows of the unfinished end that are redrawn; what is above them waits for the block to be finished."""


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

    def add(self, text: str) -> None:
        self._tail += printable(text)
        finished, self._tail = split_blocks(self._tail)
        if self._live is None:
            self._live = Live(
                console=self._console,
                transient=True,
                refresh_per_second=10,
                get_renderable=lambda: _End(self._tail),
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._print(finished)

    def close(self) -> None:
        """Print what is left; nothing follows."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._print(self._tail)
        self._tail = ""

    def _print(self, blocks: str) -> None:
        if not blocks.strip():
            return
        if self._printed:
            self._console.print()
        self._console.print(Markdown(blocks))
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


def split_blocks(text: str) -> tuple[str, str]:
    """The blocks of Markdown that are finished, and the rest: nothing that comes changes how they look.

    A block ends with an empty line outside of a fence. A list or a quotation goes on across empty lines as long as
    the next one belongs to it, so it is finished only when something else has begun.
    """
    lines = text.split("\n")
    fenced, cut = "", 0
    for index, line in enumerate(lines[:-1]):
        fence = FENCE.match(line)
        if fence and not fenced:
            fenced = fence[1]
        elif fence and fence[1] == fenced:
            fenced = ""
        following = lines[index + 1]
        if not fenced and not line.strip() and following.strip() and not _may_continue(following):
            cut = index + 1
    return "\n".join(lines[:cut]) + ("\n" if cut else ""), "\n".join(lines[cut:])


def _may_continue(line: str) -> bool:
    """Whether a line can belong to a list, table or quotation that an empty line has interrupted."""
    return re.match(r"\s|[-*+>|]|\d{1,9}[.)]", line) is not None or len(line) < 3
