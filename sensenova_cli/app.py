"""The Typer app: all commands, and the only place that turns failures into messages and exit codes."""

import os
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from config.errors import SenseNovaError
from sensenova_cli import __version__
from sensenova_cli.commands import COMMANDS, import_command
from sensenova_cli.errors import DONE, FAILED, INTERRUPTED, UsageError, exit_code
from sensenova_cli.inputs.argv import before_dashes, spread_values, wants_help, words_of_help
from sensenova_cli.system.streams import StdoutError, discard_stdout

SERVER_OPTION = "that is for servers and load tests; a run is one request, and -n N makes several pictures"
INSTEAD = {
    **{
        ("run", option): SERVER_OPTION
        for option in (
            "--request-rate",
            "--max-concurrency",
            "--max-num-seqs",
            "--num-prompts",
            "--request-batch-max-wait-ms",
            "--omni",
            "--port",
        )
    },
    ("generate", "--vary"): 'for a sheet of pictures that differ: sensenova grid "…" --vary NAME=VALUES',
    ("grid", "-n"): "each cell is one picture; to vary the seed: --vary seed=1..4",
    ("grid", "--num-images"): "each cell is one picture; to vary the seed: --vary seed=1..4",
    ("grid", "--prompt-file"): 'a part of the prompt can vary: sensenova grid "a {animal}" --vary animal=cat,dog',
    ("generate", "--image"): 'to change a picture: sensenova edit FILE "…"',
    **{("interleave", option): "the model decides; at most: --max-images N" for option in ("-n", "--num-images")},
    ("profile show", "--profile"): "the profile is a bare word here: sensenova profile show draft",
}
"""Hints for options that users may expect: (command, option) → hint. The command does not have the option."""

DASHED_TEXT = {
    "generate": 'generate -- "-…"',
    "chat": 'chat -- "-…"',
    "edit": 'edit FILE -- "-…"',
    "grid": 'grid --vary NAME=VALUES -- "-…"',
    "interleave": 'interleave -- "-…"',
}
"""Command → an example with a text that starts with a dash."""

TOO_MANY_WORDS = {
    "generate": "put the prompt in quotes",
    "grid": "put the prompt in quotes, and pictures after --files",
    "compare": "two pictures are compared; for a sheet of more: sensenova grid --files a.png b.png c.png",
    "chat": "put the message in quotes",
    "interleave": "put the prompt in quotes, and pictures after --image",
    "run": 'the prompt goes after --prompt, in quotes: sensenova run --prompt "…"',
}
"""Command → a hint if too many words were typed."""


SUBCOMMANDS = {"log": "to search the log: sensenova log -q WORDS"}
"""Group of commands → a hint if the typed word is none of them."""


class Command(TyperCommand):
    """A command whose help `sensenova_cli.render.help` writes."""

    def get_help(self, ctx: Any) -> str:
        """Return the help with the options that most people use."""
        return _help(ctx)


class CommandGroup(TyperGroup):
    """A group of commands, such as `profile`, whose help `sensenova_cli.render.help` writes."""

    def get_help(self, ctx: Any) -> str:
        """Return the help with the list of commands."""
        return _help(ctx)


def _help(context: Any) -> str:
    from sensenova_cli.inputs.options import is_usual
    from sensenova_cli.render.help import help_text

    return help_text(context, is_usual)


class Program(CommandGroup):
    """The group of all commands. Their errors become a message on stderr and an exit code, also under CliRunner.

    `commands` has only the names and summaries that `--help` lists. A command is imported when it is used.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: Command(name, help=summary) for name, summary in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the imported command and its arguments, for a run and for the shell's completion."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(command.name or ""), rest

    def main(  # type: ignore[override]  # Typer's other arguments are passed on
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run one command line and raise SystemExit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        options = before_dashes(words)
        if "--no-color" in options:
            # Set before parsing, so that help and usage errors have no colors, too.
            os.environ["NO_COLOR"] = "1"
        extra["standalone_mode"] = False  # Typer then raises its errors instead of printing them
        try:
            if not wants_help(words) and "--version" not in options:
                _require_current_folder()
            extra["obj"] = words  # for the help, whose defaults depend on the model
            result = super().main(spread_values(words_of_help(words)) or ["--help"], prog_name="sensenova", **extra)
            # A command returns None; typer.Exit and Ctrl-C return their exit code.
            code = result if isinstance(result, int) else DONE
            if code == INTERRUPTED:
                _print_interrupted()
        except Exception as error:
            code = self._report(error, options)
        except KeyboardInterrupt:
            _print_interrupted()
            code = INTERRUPTED
        sys.exit(code)

    def _report(self, error: Exception, words: Sequence[str]) -> int:
        from sensenova_cli.render.errors import describe, print_error

        if isinstance(error, BrokenPipeError):
            # The reader of stdout has ended, as `head -1` does. Files that were made stay.
            discard_stdout()
            return FAILED
        if "--debug" in words:
            traceback.print_exception(error)
        if isinstance(error, StdoutError):
            print_error(
                f"stdout cannot be written: {error.strerror}",
                "free some disk space, or redirect the results elsewhere; files that were written are complete",
            )
            return FAILED
        if isinstance(error, SenseNovaError):
            print_error(error.what, error.hint)
            return exit_code(error)
        if isinstance(error, typer.TyperException):
            self._report_usage(error, words)
            return error.exit_code
        if isinstance(error, typer.Abort):
            return FAILED
        hint = "" if "--debug" in words else "run again with --debug for the traceback"
        print_error(describe(error), hint)
        return FAILED

    def _report_usage(self, error: typer.TyperException, words: Sequence[str]) -> None:
        """Print an error of the parser in the style of our own errors."""
        from sensenova_cli.render.errors import print_error

        command, before, known = self._command_of(words)
        option = getattr(error, "option_name", "")
        if instead := INSTEAD.get((command, option)):
            print_error(f"{command} has no option {option}", instead)
            return
        what = error.format_message().strip().rstrip(".")
        if not what:  # a group of commands was typed without a command, and the parser has printed its help
            return
        hints = [f"see: sensenova {command} --help" if command else "see: sensenova --help"]
        if "no such command" in what.lower() and command in SUBCOMMANDS:
            hints.insert(0, SUBCOMMANDS[command])
        if "unexpected extra argument" in what and command in TOO_MANY_WORDS:
            hints.insert(0, TOO_MANY_WORDS[command])
        elif option in known and option in before:
            hints.insert(0, f"options go after the command: sensenova {command} {option}")
        elif command in DASHED_TEXT and (len(option) == 2 or any(map(str.isspace, option))):
            hints.insert(0, f"a text that starts with a dash goes last, after --: sensenova {DASHED_TEXT[command]}")
        print_error(what[0].lower() + what[1:], "; ".join(hints))

    def _command_of(self, words: Sequence[str]) -> tuple[str, set[str], set[str]]:
        """Return the typed command with its subcommand, the options before it, and the options that it has."""
        for index, word in enumerate(words):
            if word in self.commands:
                command, name = load_command(word), word
                for second in words[index + 1 :]:
                    if second in getattr(command, "commands", {}):
                        command, name = command.commands[second], f"{word} {second}"
                        break
                known = {option for parameter in command.params for option in parameter.opts}
                return name, {each.split("=")[0] for each in words[:index]}, known
        return "", set(), set()


app = typer.Typer(
    cls=Program,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sensenova {__version__}")
        raise typer.Exit


def _print_man_page(wanted: bool) -> None:
    if wanted:
        typer.echo(man_page_text(), nl=False)
        raise typer.Exit


def man_page_text() -> str:
    """Return the manual page in roff, with all commands."""
    from config.sources import OTHER_VARIABLES
    from sensenova_cli.inputs.options import is_usual
    from sensenova_cli.render.man import commands_of, man_page

    program = typer.main.get_command(app)
    commands = commands_of([*COMMANDS], load_command)
    return man_page("sensenova", __version__, program, commands, OTHER_VARIABLES, is_usual)


@app.callback()
def sensenova(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True, metavar=" ")
    ] = False,
    man: Annotated[
        bool,
        typer.Option(
            "--man",
            help="Print the manual page: sensenova --man | man -l -",
            callback=_print_man_page,
            is_eager=True,
            metavar=" ",
        ),
    ] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="Use no colors, as with NO_COLOR set.", metavar=" ")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", metavar=" ")] = False,
) -> None:
    """Make, edit and talk about pictures with SenseNova-U1 models.

    Examples
      sensenova generate "A cute cat" --model SenseNova/SenseNova-U1-8B-MoT
      sensenova generate "A cat at dusk" --aspect 16:9 --seed 7 -o cat.png
      sensenova edit cat.png "Make it an oil painting"
      sensenova describe cat.png -p "Which animal is this?"
      sensenova chat "What is the capital of France?"
      sensenova repl
      sensenova generate --from cat.png --steps 20

    Results go to stdout, everything else to stderr. Exit codes: 0 done,
    1 failed while running, 2 wrong usage, settings or input, 3 weights missing
    or unreadable, 4 out of memory, 130 interrupted.

    Options of a command: sensenova help COMMAND
    """


@cache
def load_command(name: str) -> Any:
    """Import a command and build its parser."""
    command = import_command(name)
    parent = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    if isinstance(command, typer.Typer):
        for each in command.registered_commands:
            each.cls = Command
        parent.add_typer(command, name=name, cls=CommandGroup)
    else:
        parent.command(name, cls=Command)(command)
    parent.callback()(lambda: None)  # makes a group, also of one command
    return typer.main.get_command(parent).commands[name]  # type: ignore[attr-defined]


def _require_current_folder() -> None:
    """Raise UsageError if the current folder was deleted: libraries would fail with obscure errors."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current folder no longer exists", "go to another one: cd") from None


def _print_interrupted() -> None:
    from sensenova_cli.render.console import stderr_console

    stderr_console().print("interrupted", style="dim")
