"""A session, line by line: each line runs a command, and whatever goes wrong, the session lives."""

import gc
import traceback

from rich.text import Text

from config.errors import SenseNovaError
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.render.errors import print_error
from sensenova_cli.render.spelling import as_session
from sensenova_cli.repl.dispatch import Mode, command_name, find_command
from sensenova_cli.repl.lines import Line, parse_line
from sensenova_cli.repl.slash_commands import Leave
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.session import Session
from sensenova_cli.system.interrupts import exit_requested, handle_signals


class Repl(Workspace):
    """Runs the command of each line, one after the other.

    Args:
        mode: what plain words do: make and edit pictures, or talk.
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

    def do(self, typed: str) -> bool:
        """Do what a line says; whether it went well. Whatever goes wrong, the session lives.

        Raises:
            Leave: the line says so.
        """
        self.was_interrupted = False
        try:
            self._do(parse_line(typed))
        except SenseNovaError as error:
            if self._debug:
                traceback.print_exception(error)
            print_error(error.what, error.hint, as_session)
        except KeyboardInterrupt:
            self.was_interrupted = True
            handle_signals()  # the next one interrupts again, instead of leaving at once
            self.say("interrupted")
        except Leave:
            raise
        except BrokenPipeError:
            raise Leave from None  # whoever read the results has gone
        except Exception as error:
            if self._debug:
                traceback.print_exception(error)
            print_error(
                f"unexpected {type(error).__name__}: {error or 'no message'}",
                "" if self._debug else "start again with --debug for the traceback; this session goes on",
            )
        else:
            if exit_requested():  # a signal came when there was nothing left to interrupt
                raise Leave
            return True
        # What the turn had in memory hangs on its frames, which only a collection frees where they form a circle.
        gc.collect()
        if exit_requested():
            raise Leave
        return False

    def greet(self, notice: str) -> None:
        """Say what this is, and what was found of a session that is continued."""
        if notice and not self._quiet:
            self._console.print(Text.assemble(("note:", "yellow"), " ", as_session(notice)), soft_wrap=True)
        for problem in self.session.problems:
            print_error(str(problem))
        if self.turns.problem is not None:
            print_error(
                self.turns.problem.what,
                f"{self.turns.problem.hint}; or /set, /unset or /profile none".lstrip("; "),
                as_session,
            )
        state = self.session.state
        if state.turns:
            self.say(f"session {self.session.name}: {len(state.turns)} turns, {len(state.pictures)} pictures")
            self.say_selected()
        elif self._interactive:
            self.say("type what to draw, or /help")

    def leave(self) -> None:
        """Say where the session is kept."""
        if self.session.name:
            self.say(f"kept: sensenova repl --session {self.session.name}")

    def _do(self, line: Line) -> None:
        if line.is_empty:
            return
        if line.kind == "words" and not line.text and not line.flags:
            self.stage_files(line.files)
            return
        command = find_command(command_name(line, self.mode, self.session.state))
        if line.flags and not command.options:
            raise UsageError(f"/{command.name} takes no flags", f"see: /help {command.name}")
        command.run(self, line)
