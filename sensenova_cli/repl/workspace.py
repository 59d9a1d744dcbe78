"""The workspace of slash commands: a session's pictures, its turns, and the screen."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from config.toml_file import show_path
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.render.console import stderr_console
from sensenova_cli.render.preview import Preview
from sensenova_cli.repl.session_turns import SessionTurns
from sensenova_cli.sessions.entries import SessionPicture, Stage, Use
from sensenova_cli.sessions.session import Session
from sensenova_cli.system.unicode import for_terminal, printable


class Workspace:
    """A session with the operations that slash commands share.

    Args:
        session: new or continued.
        start: the flags that the program was started with.
        system: system message of answers.
        interactive: whether the session runs in a terminal. A script gets its results on stdout, one per line.

    Attributes:
        turns: runs turns with the session's model.
    """

    def __init__(self, session: Session, start: Flags, *, system: str = "", interactive: bool) -> None:
        self.session = session
        self.turns = SessionTurns(session, start, self._on_picture, system=system, interactive=interactive)
        self._interactive = interactive
        self._quiet = start.quiet
        self._console = stderr_console()
        self._new_pictures: list[SessionPicture] = []

    # Pictures

    def draw(self, kind: PictureKind, text: str, inputs: Sequence[int], line_options: Flags) -> None:
        """Make pictures, and show several of them together; arguments and errors as for SessionTurns.draw."""
        self._new_pictures.clear()
        try:
            self.turns.draw(kind, text, inputs, line_options)
        finally:
            if len(self._new_pictures) > 1:
                self.show_candidates([picture.number for picture in self._new_pictures])

    def interleave(self, text: str, inputs: Sequence[int], line_options: Flags, *, follows: Sequence[int]) -> None:
        """Answer in text and pictures, and name the pictures; arguments and errors as for SessionTurns.interleave."""
        self._new_pictures.clear()
        try:
            self.turns.interleave(text, inputs, line_options, follows=follows)
        finally:
            if len(self._new_pictures) > 1:
                numbers = ", ".join(str(picture.number) for picture in self._new_pictures)
                self.say(f"pictures {numbers}: /use N selects one")

    def number(self, word: str) -> int:
        """Return the picture number that a word contains.

        Raises:
            SenseNovaError: it is not a number, or the session has no such picture.
        """
        if not word.isdecimal():
            raise UsageError(f"{word!r} is not the number of a picture", "for example: /use 3")
        return self.session.state.picture(int(word)).number

    def import_pictures(self, files: Sequence[str]) -> tuple[int, ...]:
        """Copy picture files into the session, and return their numbers; errors as for Session.import_picture."""
        return tuple(self.session.import_picture(file).number for file in files)

    def stage(self, numbers: Sequence[int]) -> None:
        """Add pictures to the staged ones, which the next turn will use."""
        staged = tuple(dict.fromkeys((*self.session.state.staged, *numbers)))
        self.session.append(Stage(staged=staged))
        names = ", ".join(map(self._name, staged))
        self.say(f"staged for the next line: {names}" if staged else "nothing is staged")

    def stage_files(self, files: Sequence[str]) -> None:
        """Stage picture files; errors as for Session.import_picture."""
        self.stage(self.import_pictures(files))

    def turn_inputs(self, imported: Sequence[int] = (), *, asking: bool = False) -> tuple[int, ...]:
        """Return the numbers of a turn's pictures: the staged and imported ones, else the selected one.

        Args:
            imported: pictures that the line names.
            asking: whether the turn is a question. If no picture is staged, imported or selected, it is about the
                pictures of the conversation.

        Raises:
            UsageError: there is no picture.
        """
        state = self.session.state
        numbers = tuple(dict.fromkeys((*state.staged, *imported)))
        if numbers:
            return numbers
        if state.selected is not None:
            return (state.selected.number,)
        if asking and state.now.shown:
            return state.now.shown
        raise UsageError("no picture is selected", "make one, or load a file: /load FILE")

    def select(self, number: int) -> None:
        """Select a picture, and show it; errors as for Session.read."""
        picture = self.session.read(number)  # first, so that an unreadable picture is not selected
        self.session.append(Use(picture=number))
        self._preview().show(picture.image)
        self.say_selected()

    def show_candidates(self, numbers: Sequence[int]) -> None:
        """Show several pictures on one sheet, each with its number."""
        preview = self._preview()
        if preview.method is not None and _are_consecutive(numbers):
            preview.show_several([self.session.read(number).image for number in numbers], first=numbers[0])
        self.say(f"pictures {', '.join(map(str, numbers))}: /use N selects one")

    def _on_picture(self, picture: SessionPicture, path: str) -> None:
        self._new_pictures.append(picture)
        if self._interactive:
            place = show_path(Path(path))
            self._console.print(Text.assemble((f"picture {picture.number}", "bold"), f"  {place}"), soft_wrap=True)
        else:
            self.print_result(path)

    def _preview(self) -> Preview:
        is_shown = self._interactive and not self._quiet
        return Preview.choose(self._console, self.turns.current_settings().settings.preview if is_shown else "off")

    def _name(self, number: int) -> str:
        return f"picture {number} ({self.session.state.picture(number).file})"

    # Model

    def reload_if_changed(self) -> None:
        """Reload the model if the load settings have changed; errors as for SessionTurns.reload_if_changed."""
        if self.turns.reload_if_changed():
            model = self.turns.resident_model
            self.say(f"{'connecting to' if model.settings.is_remote else 'loading'} {model.name}")

    # Output

    def say(self, text: str) -> None:
        """Print a message about the session, unless the session is quiet."""
        if not self._quiet:
            self.print_text(text)

    def say_selected(self) -> None:
        """Print which picture is selected, unless the session is quiet."""
        selected = self.session.state.selected
        self.say(f"selected: {self._name(selected.number)}" if selected else "no picture is selected")

    def print_text(self, text: str) -> None:
        """Print text that the user asked for."""
        self._console.print(Text(printable(text), style="dim"), soft_wrap=True)

    def print(self, renderable: RenderableType) -> None:
        """Print a table or text that the user asked for, wrapped at the width of the screen."""
        self._console.print(renderable)

    def print_result(self, text: str) -> None:
        """Print a result on stdout, for a script."""
        print(for_terminal(text), flush=True)


def _are_consecutive(numbers: Sequence[int]) -> bool:
    return list(numbers) == list(range(numbers[0], numbers[0] + len(numbers)))
