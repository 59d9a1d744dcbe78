"""A session, line by line: each line runs a command, and no error ends the session."""

import gc
import traceback

from rich.text import Text

from config.errors import SenseNovaError
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.render.errors import describe, print_error
from sensenova_cli.render.spelling import as_session
from sensenova_cli.repl.dispatch import Mode, command_name, find_command
from sensenova_cli.repl.lines import Line, parse_line
from sensenova_cli.repl.slash_commands import EndSession
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.session import Session
from sensenova_cli.sessions.summary import counted
from sensenova_cli.system.interrupts import exit_requested, handle_signals


class Repl(Workspace):
    """A workspace that runs the command of each line, one after the other.

    Args:
        mode: effect of a plain prompt: to make and edit pictures, or to talk.
        debug: print the traceback of an error.
        Others as for `Workspace`.

    Attributes:
        was_interrupted: whether a signal ended the last line.
    """

    def __init__(
        self, session: Session, start: Flags, mode: Mode, *, system: str = "", interactive: bool, debug: bool
    ) -> None:
        super().__init__(session, start, system=system, interactive=interactive)
        self.mode = mode
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
        if notice and not self._quiet:
            self._console.print(Text.assemble(("note:", "yellow"), " ", as_session(notice)), soft_wrap=True)
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
            self.say_selected()
        elif self._interactive:
            self.say("type what to draw, or /help")

    def say_goodbye(self) -> None:
        """Print how to continue the session."""
        if self.session.name:
            self.say(f"to continue this session: sensenova repl --session {self.session.name}")

    def _run(self, line: Line) -> None:
        if line.is_empty:
            return
        if line.kind == "prompt" and not line.text and not line.flags:
            self.stage_files(line.files)
            return
        command = find_command(command_name(line, self.mode, self.session.state))
        if line.flags and not command.options:
            raise UsageError(f"/{command.name} takes no options", f"see: /help {command.name}")
        command.run(self, line)
