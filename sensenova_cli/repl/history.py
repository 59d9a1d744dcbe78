"""The history of typed lines. It is private to the user, and a full disk never stops a line."""

import os
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from sensenova_cli.render.console import stderr_console
from sensenova_cli.system.private_files import make_private_folder, open_private

HISTORY_FILE = "history"


def open_history(folder: Path) -> History:
    """Return the history in the user's data folder; one in memory, with a note, if it cannot be written."""
    path = folder / HISTORY_FILE
    try:
        make_private_folder(folder)
        os.close(open_private(path))
    except OSError as error:
        _note(folder, error)
        return InMemoryHistory()
    return _SafeFileHistory(str(path))


class _SafeFileHistory(FileHistory):
    """A history file. After the first failed write, new lines stay in memory only."""

    _failed = False

    def store_string(self, string: str) -> None:
        """Append a line to the file."""
        if self._failed:
            return
        try:
            super().store_string(string)
        except OSError as error:
            self._failed = True
            _note(Path(str(self.filename)).parent, error)


def _note(folder: Path, error: OSError) -> None:
    stderr_console().print(f"note: the history of lines is not saved: {folder}: {error.strerror}", style="dim")
