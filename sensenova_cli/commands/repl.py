"""`sensenova repl`: runs a session; the model stays loaded between its turns."""

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import ENGINE_OPTIONS, IMAGE_OPTIONS, TEXT_OPTIONS, with_options

REPL_OPTIONS = (*IMAGE_OPTIONS, *(name for name in TEXT_OPTIONS if name != "seed"), *ENGINE_OPTIONS)


@with_options(
    *REPL_OPTIONS, "metadata", "print_think", "hide_think", "preview", "profile", "quiet", "debug", "no_color"
)
def repl(
    flags: Flags,
    resume: Annotated[
        bool, typer.Option("--continue", help="Continue the last session.", metavar=" ", rich_help_panel="Session")
    ] = False,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            help="Continue the session with this name, or start it.",
            metavar="NAME",
            rich_help_panel="Session",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make, change and discuss pictures, turn by turn; the model stays loaded.

    [bold]Examples[/bold]
      sensenova repl
      sensenova repl --model SenseNova/SenseNova-U1-8B-MoT --profile draft
      sensenova repl --continue
      sensenova repl --session holiday
      printf 'a cat\\nmake it black and white\\n' | sensenova repl

    Words make a picture, or change the selected one. A line that starts with ?
    asks about it. /help lists the commands. Piped lines are a script: results
    go to stdout, and the exit code is 1 if a line fails.
    """
    start_session(flags, "pictures", resume=resume, name=session)


def start_session(
    flags: Flags,
    mode: Literal["pictures", "chat"],
    *,
    resume: bool = False,
    name: str | None = None,
    system: str = "",
    images: Sequence[str] = (),
) -> None:
    """Run a session in the terminal, or run the lines of standard input as a script.

    Args:
        mode: whether a plain line is the prompt of a picture or a chat message.
        resume: continue the last session.
        name: continue the session with this name, or start it. Without `resume` and `name`, a new session starts.
        system: system message of answers.
        images: picture files for the first line.

    Raises:
        SenseNovaError: settings, model or session are not usable.
        typer.Exit: a line of a script failed.
    """
    if resume and name is not None:
        raise UsageError("--continue and --session contradict each other", "give one of them")
    # Imported here because these modules import prompt-toolkit and Pillow, which `--help` does not need.
    from sensenova_cli.repl.repl import Repl
    from sensenova_cli.repl.run_session import run_interactive, run_script
    from sensenova_cli.sessions.session import Session
    from sensenova_cli.sessions.store import finish_removals, latest_session
    from sensenova_cli.system.interrupts import clear_signals, unwinding
    from sensenova_cli.system.unicode import printable
    from sensenova_cli.turns.model_source import DEMO_NOTICE, model_name

    clear_signals()
    settings = flags.layers().load  # raises an error for wrong settings before the session starts
    model = model_name(settings)
    if resume:
        name = latest_session().name
    for removed in finish_removals():
        typer.echo(f"note: finished removing the session {printable(removed)}", err=True)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with unwinding(), Session.open(name, model) if name is not None else Session.start(model) as session:
        repl = Repl(session, flags, mode, system=system, interactive=interactive, debug="--debug" in sys.argv)
        repl.greet(DEMO_NOTICE if settings.model is None and not settings.is_remote else "")
        if images:
            repl.stage_files(images)
        if interactive:
            run_interactive(repl)
            repl.say_goodbye()
        elif not run_script(repl):
            raise typer.Exit(1)
