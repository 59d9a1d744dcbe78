"""A Markdown document on stdout, with text and pictures in order, written while a model makes them."""

import os
import sys
from pathlib import Path
from urllib.parse import quote

from sensenova_cli.render.markdown_blocks import split_blocks
from sensenova_cli.render.safe_markdown import safe_markdown


class MarkdownDocument:
    """A document whose blocks are printed when they are finished. Its text neither runs nor loads anything."""

    def __init__(self) -> None:
        self._tail = ""
        self._is_empty = True

    def add(self, text: str) -> None:
        """Add the text of one more token."""
        # Spaces in front of the first word would make it code.
        self._tail += text if self._tail else text.lstrip()
        if "\n" in text:
            finished, self._tail = split_blocks(self._tail)
            for block in finished:
                self._print(safe_markdown(block))

    def end_text(self) -> None:
        """Print the text so far, because something else follows, or nothing."""
        finished, last = split_blocks(self._tail + "\n")
        self._tail = ""
        for block in (*finished, last):
            self._print(safe_markdown(block))

    def add_picture(self, number: int, path: Path) -> None:
        """Add a picture as a paragraph of its own."""
        self.end_text()
        self._print(f"![picture {number}]({link_to(path)})")

    def _print(self, block: str) -> None:
        if not block.strip():
            return
        sys.stdout.write(("" if self._is_empty else "\n") + block.rstrip() + "\n")
        sys.stdout.flush()
        self._is_empty = False


def link_to(path: Path) -> str:
    """Return a link from the current folder to a file. Files outside of it are linked as they were named."""
    here = Path.cwd()
    file = path.relative_to(here) if path.is_relative_to(here) else path
    return quote(os.fsencode(file))
