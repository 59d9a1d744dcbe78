"""Display of an answer as plain text on stdout, while the model writes it."""

import sys

from sensenova_cli.system.unicode import for_terminal


class PlainAnswer:
    """An answer as plain text, printed token by token."""

    def __init__(self) -> None:
        self._text = ""

    def add(self, text: str) -> None:
        """Print the text of one more token."""
        self._text += text
        sys.stdout.write(for_terminal(text))
        sys.stdout.flush()

    def close(self) -> None:
        """End the last line of the answer."""
        if self._text and not self._text.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._text = ""
