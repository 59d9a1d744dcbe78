"""A session, line by line: each line runs a command, and no error ends the session."""

import gc
import traceback
from collections.abc import Mapping

from config.errors import SenseNovaError
from config.toml_file import show_path
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.render.console import print_note
from sensenova_cli.render.errors import describe, print_error
from sensenova_cli.render.spelling import as_session
from sensenova_cli.repl.dispatch import command_name
from sensenova_cli.repl.lines import Line, parse_line
from sensenova_cli.repl.slash_commands import EndSession, find_command
from sensenova_cli.repl.workspace import Mode, Workspace
from sensenova_cli.sessions.saved import PICTURES_FOLDER
from sensenova_cli.sessions.session import Session
from sensenova_cli.sessions.summary import counted
from sensenova_cli.system.interrupts import exit_requested, handle_signals

GREETINGS: Mapping[Mode, str] = {
    "pictures": "type what to draw, or /help",
    "chat": "type a message, or /help; /generate PROMPT makes a picture",
}
"""The first line of a new session."""

DOES: Mapping[str, str] = {"generate": "makes a picture", "edit": "changes the picture"}
"""The effect of a plain prompt, by the command that runs it."""


class Repl(Workspace):
    """A workspace that runs the command of each line, one after the other.

    Args:
        debug: print the traceback of an error.
        Others as for `Workspace`.

    Attributes:
        was_interrupted: whether a signal ended the last line.
    """

    def __init__(
        self, session: Session, start: Flags, mode: Mode, *, system: str = "", interactive: bool, debug: bool
    ) -> None:
        super().__init__(session, start, mode=mode, system=system, interactive=interactive)
        self.was_interrupted = False
        self._debug = debug

    def run_line(self, typed: str) -> bool:
        """Run the command of a line, and print its error if it fails; return whether it succeeded.

        Raises:
            EndSession: the line ends the session.
        """
        self.was_interrupted = False
        try:
            self._run(parse_line(typed))
        except SenseNovaError as error:
            if self._debug:
                traceback.print_exception(error)
            print_error(error.what, error.hint, as_session)
        except KeyboardInterrupt:
            self.was_interrupted = True
            handle_signals()  # so that the next signal interrupts again, instead of ending the program
            self.say("interrupted")
        except EndSession:
            raise
        except BrokenPipeError:
            raise EndSession from None  # the reader of the results has ended
        except Exception as error:
            if self._debug:
                traceback.print_exception(error)
            print_error(
                describe(error),
                "" if self._debug else "this session continues; to see the traceback, start one with --debug",
            )
        else:
            if exit_requested():  # the signal arrived when nothing was left to interrupt
                raise EndSession
            return True
        # The frames of the error refer to the turn's tensors. If they form a cycle, only the collector frees them.
        gc.collect()
        if exit_requested():
            raise EndSession
        return False

    def greet(self, notice: str) -> None:
        """Print a notice. For a continued session, also print its problems, its length and the selected picture."""
        if notice:
            self._note(as_session(notice))
        for problem in self.session.problems:
            print_error(str(problem))
        if self.session.dropped:
            dropped = ", ".join(self.session.dropped)
            self.say(f"not taken from the saved session, because another person may have made it: {dropped}")
        if self.turns.settings_error is not None:
            error = self.turns.settings_error
            print_error(error.what, f"{error.hint}; or use /set, /unset or /profile none".lstrip("; "), as_session)
        state = self.session.state
        if state.turns:
            turns, pictures = counted(len(state.turns), "turn"), counted(len(state.pictures), "picture")
            self.say(f"session {self.session.name}: {turns}, {pictures}")
            self.show_selected()
        elif self._interactive:
            self.say(GREETINGS[self.mode])

    def say_goodbye(self) -> None:
        """Print where the pictures are, and how to continue the session."""
        if self.session.is_temporary or not self.session.folder:
            return
        place = show_path(self.session.folder / PICTURES_FOLDER) if self.session.state.pictures else ""
        self.say(f"session {self.session.name} saved" + (f", pictures in {place}" if place else ""))
        self.say("continue it with: sensenova repl --continue")

    def _note(self, text: str) -> None:
        """Print a notice, unless the session is quiet."""
        if not self._quiet:
            print_note(self._console, text)

    def _run(self, line: Line) -> None:
        if line.is_empty:
            return
        if line.kind == "prompt" and not line.text and not line.flags:
            self.stage_files(line.files)
            return
        command = find_command(command_name(line, self.mode, self.session.state))
        if line.flags and not command.options:
            raise UsageError(f"/{command.name} takes no options", f"see: /help {command.name}")
        if line.kind == "prompt" and self.mode == "pictures" and line.text.rstrip().endswith("?"):
            self._note(f"this prompt {DOES[command.name]}; to ask about a picture, begin the line with ?")
        command.run(self, line)
