"""What happens with the pictures and the answer of a run on the desktop: `--open` and `--copy`."""

from pathlib import Path

from model import Answer, Event, InterleavedAnswer, TextPart
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.outputs.clipboard_pictures import NO_CLIPBOARD, copy_picture
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.system.clipboard import can_copy_pictures, can_copy_text, copy_text
from sensenova_cli.system.desktop import open_file, require_viewer
from sensenova_cli.turns.run_turn import Outcome, Sink

NOT_FILES = ("-", "/dev/null")


class DesktopActions:
    """Opens or copies the picture files of a run at its end. Created before the model is loaded.

    Attributes:
        files: the files that the run has written so far.

    Raises:
        UsageError: there is no desktop, no clipboard, or no file.
    """

    def __init__(self, flags: Flags, output: str | None) -> None:
        self._opens, self._copies = flags.open, flags.copy
        self.files: list[Path] = []
        if (self._opens or self._copies) and output in NOT_FILES:
            option = "--open" if self._opens else "--copy"
            raise UsageError(f"{option} needs a file, and -o {output} writes none", "name a file with -o")
        if self._opens:
            require_viewer()
        if self._copies:
            require_clipboard(has_picture=True)

    def require_possible(self, count: int) -> None:
        """Raise UsageError if the clipboard cannot take the number of pictures that the run will make."""
        if self._copies and count > 1:
            raise UsageError(f"--copy takes one picture, and this run makes {count}", "make one, or leave --copy out")

    def run(self, view: TurnView) -> None:
        """Open the picture, or the folder of several pictures; copy the picture."""
        if not self.files:
            return
        if self._opens and not open_file(self.files[0] if len(self.files) == 1 else self.files[0].parent):
            view.notice(f"the desktop did not open {self.files[0]}")
        if self._copies:
            self._copy(self.files[0], view)

    def _copy(self, file: Path, view: TurnView) -> None:
        if copy_picture(file.read_bytes()):
            view.muted(f"copied {file}")
        elif copy_text(str(file.absolute())):
            view.notice(f"copied the path of {file}: this clipboard takes text only")
        else:
            view.notice(f"{file} could not be copied: the clipboard's program failed")


class CopyAnswerSink(Sink):
    """Copies the answer of a finished turn. Created before the model is loaded.

    Raises:
        UsageError: there is no clipboard.
    """

    def __init__(self, view: TurnView) -> None:
        require_clipboard(has_picture=False)
        self._view = view
        self._text = ""

    def take(self, event: Event) -> None:
        """Keep the answer; of an interleaved one, its text without the thinking."""
        if isinstance(event, Answer):
            self._text = event.text
        elif isinstance(event, InterleavedAnswer):
            texts = (part.text for part in event.parts if isinstance(part, TextPart) and not part.thinking)
            self._text = "".join(texts).strip()

    def end(self, outcome: Outcome) -> None:
        """Copy the answer."""
        if outcome.status != "done":
            return
        if copy_text(self._text):
            self._view.muted("copied the answer")
        else:
            self._view.notice("the answer could not be copied: it is too long for this terminal's clipboard")


def require_clipboard(*, has_picture: bool) -> None:
    """Raise UsageError if there is neither a desktop's clipboard nor a terminal that may have one."""
    if not can_copy_text() and not (has_picture and can_copy_pictures()):
        raise UsageError(NO_CLIPBOARD, "leave --copy out; on a desktop, install wl-clipboard (Wayland) or xclip (X11)")
