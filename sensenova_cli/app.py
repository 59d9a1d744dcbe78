"""The Typer app: its commands, and one place where every failure becomes a message and an exit code."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from config.errors import SenseNovaError
from sensenova_cli import __version__
from sensenova_cli.commands import chat, describe, edit, generate, profile, repl, run, sessions
from sensenova_cli.errors import DONE, FAILED, INTERRUPTED, UsageError, exit_code
from sensenova_cli.inputs.argv import before_dashes, spread_values, wants_help
from sensenova_cli.system.streams import StdoutError, discard_stdout

INSTEAD = {
    ("generate", "--image"): 'to change a picture: sensenova edit --image FILE "…"',
    ("profile show", "--profile"): "the profile is a bare word here: sensenova profile show draft",
}
"""What to type where an option is looked for at a command that has none of that name."""

DASHED_TEXT = {
    "generate": 'generate -- "-…"',
    "chat": 'chat -- "-…"',
    "edit": 'edit --image FILE -- "-…"',
}
"""How a bare text is typed that starts with a dash."""

TOO_MANY_WORDS = {
    "generate": "put the prompt in quotes",
    "chat": "put the message in quotes",
    "edit": 'put the prompt in quotes, and pictures after --image: sensenova edit --image FILE "…"',
    "run": 'the prompt goes after --prompt, in quotes: sensenova run --prompt "…"',
}
"""What to type where a command was given more bare words than it takes."""


class Program(TyperGroup):
    """All commands. What they raise ends as a message on stderr and an exit code, under CliRunner, too."""

    def main(  # type: ignore[override]  # every further argument of Typer's is passed on
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run one command line and raise SystemExit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        options = before_dashes(words)
        if "--no-color" in options:
            # Set here, so that it holds for help and usage errors, too.
            os.environ["NO_COLOR"] = "1"
        extra["standalone_mode"] = False
        try:
            if not wants_help(words) and "--version" not in options:
                _require_current_folder()
            result = super().main(spread_values(words) or ["--help"], prog_name="sensenova", **extra)
            # A command returns None; typer.Exit and Ctrl-C come back as their exit code.
            code = result if isinstance(result, int) else DONE
            if code == INTERRUPTED:
                _say_interrupted()
        except Exception as error:
            code = self._report(error, options)
        except KeyboardInterrupt:
            _say_interrupted()
            code = INTERRUPTED
        sys.exit(code)

    def _report(self, error: Exception, words: Sequence[str]) -> int:
        from sensenova_cli.render.errors import print_error

        if isinstance(error, BrokenPipeError):
            # Whatever read the results has gone, as `head -1` does; what was made stays.
            discard_stdout()
            return FAILED
        if "--debug" in words:
            traceback.print_exception(error)
        if isinstance(error, StdoutError):
            print_error(
                f"stdout cannot be written: {error.strerror}",
                "make room, or send the results elsewhere; pictures made so far stay where they are",
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
        if isinstance(error, OSError) and error.strerror:
            # Trouble with files is dealt with where they are used; this is the rest.
            print_error(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, hint)
            return FAILED
        print_error(f"unexpected {type(error).__name__}: {error or 'no message'}", hint)
        return FAILED

    def _report_usage(self, error: typer.TyperException, words: Sequence[str]) -> None:
        """An error of the parser, in our words."""
        from sensenova_cli.render.errors import print_error

        command, before, known = self._command_of(words)
        option = getattr(error, "option_name", "")
        if instead := INSTEAD.get((command, option)):
            print_error(f"{command} has no option {option}", instead)
            return
        what = error.format_message().strip().rstrip(".")
        if not what:  # a group of commands without a command: its help has been printed
            return
        hints = [f"see: sensenova {command} --help" if command else "see: sensenova --help"]
        if "unexpected extra argument" in what and command in TOO_MANY_WORDS:
            hints.insert(0, TOO_MANY_WORDS[command])
        elif option in known and option in before:
            hints.insert(0, f"options go after the command: sensenova {command} {option}")
        elif command in DASHED_TEXT and (len(option) == 2 or any(map(str.isspace, option))):
            hints.insert(0, f"a text that starts with a dash goes last, after --: sensenova {DASHED_TEXT[command]}")
        print_error(what[0].lower() + what[1:], "; ".join(hints))

    def _command_of(self, words: Sequence[str]) -> tuple[str, set[str], set[str]]:
        """The command that was typed, with its subcommand; the options before it; and the options it has."""
        for index, word in enumerate(words):
            if word in self.commands:
                command, name = self.commands[word], word
                for second in words[index + 1 :]:
                    if second in getattr(command, "commands", {}):
                        command, name = command.commands[second], f"{word} {second}"  # type: ignore[attr-defined]
                        break
                known = {option for parameter in command.params for option in parameter.opts}
                return name, {each.split("=")[0] for each in words[:index]}, known
        return "", set(), set()


app = typer.Typer(
    cls=Program,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sensenova {__version__}")
        raise typer.Exit


@app.callback()
def sensenova(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True, metavar=" ")
    ] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colours, as with NO_COLOR set.", metavar=" ")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", metavar=" ")] = False,
) -> None:
    """Make, edit and talk about pictures with SenseNova-U1 models.

    [bold]Examples[/bold]
      sensenova generate "A cute cat" --model SenseNova/SenseNova-U1-8B-MoT
      sensenova generate "A cat at dusk" --aspect 16:9 --seed 7 -o cat.png
      sensenova edit --image cat.png "Make it an oil painting"
      sensenova describe cat.png -p "Which animal is this?"
      sensenova chat "What is the capital of France?"
      sensenova repl
      sensenova generate --from cat.png --num-steps 20

    Results go to stdout, everything else to stderr. Exit codes: 0 done,
    1 failed while running, 2 wrong usage, settings or input, 3 weights missing
    or unreadable, 4 out of memory, 130 interrupted.
    """


def _register() -> None:
    for module in (generate, edit, describe, chat, repl, run):
        name = module.__name__.rpartition(".")[2]
        app.command(name)(getattr(module, name))
    from sensenova_cli.commands.bench import bench
    from sensenova_cli.commands.doctor import doctor
    from sensenova_cli.commands.info import info
    from sensenova_cli.commands.tiny_checkpoint import tiny_checkpoint

    app.command("info")(info)
    app.command("bench")(bench)
    app.command("doctor")(doctor)
    app.command("tiny-checkpoint")(tiny_checkpoint)
    app.add_typer(profile.app, name="profile")
    app.add_typer(sessions.app, name="sessions")


_register()


def _require_current_folder() -> None:
    """Where it was deleted meanwhile, libraries fail in ways that nobody understands."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current folder does not exist any more", "go to another one: cd") from None


def _say_interrupted() -> None:
    from sensenova_cli.render.console import stderr_console

    stderr_console().print("interrupted", style="dim")
