"""What commands of a session work on: its pictures, its turns, and the screen."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from config.toml_file import show_path
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.render.console import printable, stderr_console
from sensenova_cli.render.preview import Preview
from sensenova_cli.repl.session_turns import SessionTurns
from sensenova_cli.sessions.entries import SessionPicture, Stage, Use
from sensenova_cli.sessions.session import Session


class Workspace:
    """A session as its commands see it.

    Args:
        session: new or continued.
        start: the flags that the program was started with.
        system: system message of answers.
        interactive: whether a person sits in front of it; else results go to stdout, one a line, for a script.

    Attributes:
        turns: the model, and the turns that are made with it.
    """

    def __init__(self, session: Session, start: Flags, *, system: str = "", interactive: bool) -> None:
        self.session = session
        self.turns = SessionTurns(session, start, self._on_picture, system=system, interactive=interactive)
        self._interactive = interactive
        self._quiet = start.quiet
        self._console = stderr_console()
        self._made: list[SessionPicture] = []

    # Pictures

    def draw(self, task: PictureKind, text: str, inputs: Sequence[int], flags: Flags) -> None:
        """Make pictures; arguments and errors as for Desk.draw. Several are shown together, too."""
        self._made.clear()
        try:
            self.turns.draw(task, text, inputs, flags)
        finally:
            if len(self._made) > 1:
                self.show_candidates([picture.number for picture in self._made])

    def number(self, word: str) -> int:
        """The picture's number that a word is.

        Raises:
            SenseNovaError: it is not a number, or the session has no such picture.
        """
        if not word.isdecimal():
            raise UsageError(f"{word!r} is not the number of a picture", "for example: /use 3")
        return self.session.state.picture(int(word)).number

    def bring(self, files: Sequence[str]) -> tuple[int, ...]:
        """Copy picture files into the session; their numbers. Errors as for Session.bring."""
        return tuple(self.session.bring(file).number for file in files)

    def stage(self, numbers: Sequence[int]) -> None:
        """Add pictures to those that go with the next turn."""
        staged = tuple(dict.fromkeys((*self.session.state.staged, *numbers)))
        self.session.append(Stage(staged=staged))
        names = ", ".join(map(self._called, staged))
        self.say(f"staged: {names}; goes with the next line" if staged else "nothing is staged")

    def stage_files(self, files: Sequence[str]) -> None:
        """Stage picture files; errors as for Session.bring."""
        self.stage(self.bring(files))

    def turn_inputs(self, brought: Sequence[int] = (), *, asking: bool = False) -> tuple[int, ...]:
        """Numbers of the pictures that a turn is about: those that are staged or named with it, else the one in hand.

        Args:
            brought: numbers of those named with it.
            asking: whether it is a question; without any of these pictures, it is about those of the conversation.

        Raises:
            UsageError: there is no picture.
        """
        state = self.session.state
        numbers = tuple(dict.fromkeys((*state.staged, *brought)))
        if numbers:
            return numbers
        if state.selected is not None:
            return (state.selected.number,)
        if asking and state.now.shown:
            return state.now.shown
        raise UsageError("there is no picture in hand", "make one, or name a file: /load FILE")

    def select(self, number: int) -> None:
        """Take a picture in hand, and show it; errors as for Session.read."""
        picture = self.session.read(number)  # first, so that one that cannot be read is not in hand
        self.session.append(Use(picture=number))
        self._preview().show(picture.image)
        self.say_selected()

    def show_candidates(self, numbers: Sequence[int]) -> None:
        """Show several pictures as one, each with its number."""
        preview = self._preview()
        if preview.method is not None and _are_neighbours(numbers):
            preview.show_several([self.session.read(number).image for number in numbers], first=numbers[0])
        self.say(f"pictures {', '.join(map(str, numbers))}: /use N takes one in hand")

    def _on_picture(self, picture: SessionPicture, path: str) -> None:
        self._made.append(picture)
        if self._interactive:
            place = show_path(Path(path))
            self._console.print(Text.assemble((f"picture {picture.number}", "bold"), f"  {place}"), soft_wrap=True)
        else:
            self.result(path)

    def _preview(self) -> Preview:
        shown = self._interactive and not self._quiet
        return Preview.choose(self._console, self.turns.current().settings.preview if shown else "off")

    def _called(self, number: int) -> str:
        return f"picture {number} ({self.session.state.picture(number).file})"

    def follow_load_settings(self) -> None:
        """Load the model again if the session's load settings have changed; errors as for Desk.follow_settings."""
        if self.turns.follow_settings():
            self.say(f"loading {self.turns.model}")

    # Telling

    def say(self, text: str) -> None:
        """Print a remark about the session, unless it is quiet."""
        if not self._quiet:
            self.tell(text)

    def say_selected(self) -> None:
        """Say which picture is in hand."""
        hand = self.session.state.selected
        self.say(f"in hand: {self._called(hand.number)}" if hand else "no picture in hand")

    def tell(self, text: str) -> None:
        """Print text that was asked for."""
        self._console.print(Text(printable(text), style="dim"), soft_wrap=True)

    def print(self, shown: RenderableType) -> None:
        """Print a table or text that was asked for, wrapped at the width of the screen."""
        self._console.print(shown)

    def result(self, text: str) -> None:
        """Print a result on stdout, for a script."""
        print(text, flush=True)


def _are_neighbours(numbers: Sequence[int]) -> bool:
    return list(numbers) == list(range(numbers[0], numbers[0] + len(numbers)))
