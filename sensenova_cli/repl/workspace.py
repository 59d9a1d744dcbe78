"""The workspace of slash commands: a session's pictures, its turns, and the screen."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import RenderableType
from rich.style import Style
from rich.text import Text

from config.errors import SenseNovaError
from config.sizes import format_size, resolve_size
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.pictures import free_seed
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.render.console import is_animated, print_message, stderr_console
from sensenova_cli.render.preview import HALF, SMALL, Preview, has_links
from sensenova_cli.repl.session_turns import SessionTurns
from sensenova_cli.sessions.entries import PictureTurn, SessionPicture, Set, Stage, Use, UseProfile
from sensenova_cli.sessions.session import Session
from sensenova_cli.sessions.summary import shorten
from sensenova_cli.system.unicode import for_terminal, printable

Mode = Literal["pictures", "chat"]
"""Effect of a plain prompt: to make and edit pictures, or to talk."""
MAX_PROMPT = 60
"""Longest part of a prompt in a message about its picture, in characters."""


class Workspace:
    """A session with the operations that slash commands share.

    Args:
        session: new or continued.
        start: the flags that the program was started with.
        mode: effect of a plain prompt.
        system: system message of answers.
        interactive: whether a user types the lines. If stdout is a program or a file, it gets the results, one per
            line.

    Attributes:
        turns: runs turns with the session's model.
    """

    def __init__(
        self, session: Session, start: Flags, *, mode: Mode = "pictures", system: str = "", interactive: bool
    ) -> None:
        self.session = session
        self.mode = mode
        self.turns = SessionTurns(session, start, self._on_picture, system=system, interactive=interactive)
        self._interactive = interactive
        self._quiet = start.quiet
        self._console = stderr_console()
        self._new_pictures: list[SessionPicture] = []

    # Pictures

    def draw(
        self,
        kind: PictureKind,
        text: str,
        inputs: Sequence[int],
        line_options: Flags,
        repeats: PictureTurn | None = None,
    ) -> None:
        """Make pictures, and show several of them together; arguments and errors as for SessionTurns.draw."""
        self._new_pictures.clear()
        try:
            self.turns.draw(kind, text, inputs, line_options, repeats)
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

    def named_picture(self, word: str) -> int:
        """Return the picture number that a word contains; without a word, the number of the selected picture.

        Raises:
            SenseNovaError: as for `number`, or no picture is selected.
        """
        return self.number(word) if word else self.turn_inputs()[0]

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

    def next_size(self) -> str:
        """Return the size of the next picture: `auto` and ratios are resolved as soon as the model's card is read."""
        size = self.turns.current_settings().settings.size
        recommended = self.turns.resident_model.recommended
        if recommended is None:
            return size
        state = self.session.state
        first = state.pictures[state.staged[0]] if state.staged else state.selected
        sides = (first.width, first.height) if first else None
        return format_size(resolve_size(size, recommended.trained_sizes, sides))

    def next_seed(self) -> int:
        """Return the seed of the next picture: an edit skips the seeds of the pictures that it is made from."""
        settings, state = self.turns.current_settings().settings, self.session.state
        inputs = [state.pictures[number] for number in state.staged] or ([state.selected] if state.selected else [])
        return free_seed(settings.seed, settings.num_images, {each.seed for each in inputs if each.seed is not None})

    def select(self, number: int) -> None:
        """Select a picture, and show it; errors as for Session.read."""
        self.session.read(number)  # first, so that an unreadable picture is not selected
        self.session.append(Use(picture=number))
        self.show_selected()

    def show_selected(self) -> None:
        """Show the selected picture, which the user has seen before, in a small size, and print which one it is."""
        selected = self.session.state.selected
        if selected is not None:
            try:
                self._preview(SMALL).show(self.session.read(selected.number).image)
            except SenseNovaError as error:  # a missing file must not prevent the selection of another picture
                self.say(error.what)
        self.say_selected()

    def show_picture(self, number: int) -> None:
        """Show a picture as it was shown when it was made; errors as for Session.read."""
        self._preview(HALF).show(self.session.read(number).image)

    def show_together(self, numbers: Sequence[int]) -> None:
        """Show several pictures on one sheet, each with its number; errors as for Session.read."""
        preview = self._preview(HALF)
        if preview.method is not None:
            preview.show_several([self.session.read(number).image for number in numbers], numbers)

    def show_candidates(self, numbers: Sequence[int]) -> None:
        """Show several pictures on one sheet, and say how one of them is selected."""
        self.show_together(numbers)
        prompt = self.session.state.prompt_of(numbers[0])
        about = f" · {shorten(prompt, MAX_PROMPT)}" if prompt else ""
        selected = self.session.state.now.selected
        how = f"{selected} is selected; /use N selects another" if selected in numbers else "/use N selects one"
        self.say(f"pictures {', '.join(map(str, numbers))}{about} · {how}")

    def _on_picture(self, picture: SessionPicture, path: str) -> None:
        self._new_pictures.append(picture)
        if self._interactive:
            self.print_picture_name(f"picture {picture.number}", Path(path))
        if not (self._interactive and sys.stdout.isatty()):
            self.print_result(path)

    def _preview(self, part: float) -> Preview:
        """Return a preview; `part` as for `Preview.choose`."""
        is_shown = self._interactive and not self._quiet
        setting = self.turns.current_settings().settings.preview if is_shown else "off"
        return Preview.choose(self._console, setting, part=part)

    def _name(self, number: int) -> str:
        prompt = self.session.state.prompt_of(number)
        return f"picture {number} ({shorten(prompt, MAX_PROMPT) or self.session.state.picture(number).file})"

    # Session

    def start_session(self, name: str = "") -> None:
        """Continue in a new session. It gets the settings and the profile of this one, and the model stays loaded.

        Args:
            name: name of the new session; empty for a name by date and prompt.

        Raises:
            SessionError: as for Session.rename. The current session goes on.
        """
        before = self.session
        session = before.another(self.turns.resident_model.name)
        if name:
            session.rename(name)
        before.close()
        if before.state.settings:
            session.append(Set(settings=dict(before.state.settings)))
        if before.state.profile is not None:
            session.append(UseProfile(profile=before.state.profile))
        self.session = self.turns.session = session

    def close(self) -> None:
        """Close the session, so that other processes can open it."""
        self.session.close()

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

    @property
    def columns(self) -> int:
        """Columns of the screen; 0 if messages go to no screen."""
        return self._console.width if self._console.is_terminal else 0

    def print_picture_name(self, label: str, path: Path) -> None:
        """Print a label and the name of a picture's file, as a link if the terminal has links."""
        link = Style(link=path.absolute().as_uri()) if has_links(self._console, os.environ) else Style()
        name = Text(printable(path.name), style=link)
        self._console.print(Text.assemble((label, "bold"), "  ", name), soft_wrap=True)

    def print_text(self, text: str) -> None:
        """Print text that the user asked for."""
        print_message(self._console, Text(printable(text), style="dim"))

    def print(self, renderable: RenderableType) -> None:
        """Print a table or text that the user asked for, wrapped at the width of the screen."""
        self._console.print(renderable)

    def clear_screen(self) -> None:
        """Clear the screen, if there is one."""
        if is_animated():
            self._console.clear()

    def print_result(self, text: str) -> None:
        """Print a result on stdout, for a script."""
        print(for_terminal(text), flush=True)
