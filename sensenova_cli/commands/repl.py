"""`sensenova repl`: a session with a resident model."""

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
        bool, typer.Option("--continue", help="Go on with the last session.", metavar=" ", rich_help_panel="Session")
    ] = False,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            help="Go on with the session of this name, or begin it.",
            metavar="NAME",
            rich_help_panel="Session",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make, change and talk about pictures, turn by turn; the model stays loaded.

    [bold]Examples[/bold]
      sensenova repl
      sensenova repl --model SenseNova/SenseNova-U1-8B-MoT --profile draft
      sensenova repl --continue
      sensenova repl --session holiday
      printf 'a cat\\nmake it black and white\\n' | sensenova repl

    Words make a picture; with a picture in hand they change it. ? in front of
    a line asks about it. /help lists the commands. Piped lines are a script:
    results go to stdout, and the exit code is 1 if a line failed.
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
    """Run a session in the terminal, or the lines of standard input as a script.

    Args:
        mode: what plain words do.
        resume, name: which session is continued; a new one where neither is given.
        system: system message of answers.
        images: picture files that go with the first line.

    Raises:
        SenseNovaError: settings, model or session cannot be used.
        typer.Exit: a line of a script failed.
    """
    if resume and name is not None:
        raise UsageError("--continue and --session contradict each other", "give one of them")
    # Imported here, not above: they bring prompt-toolkit and Pillow, which `--help` does not need.
    from model import DEMO_MODEL
    from sensenova_cli.repl.repl import Repl
    from sensenova_cli.repl.shell import run_interactive, run_script
    from sensenova_cli.sessions.session import Session
    from sensenova_cli.sessions.store import latest_session
    from sensenova_cli.system.interrupts import clear_signals
    from sensenova_cli.turns.model_source import DEMO_NOTICE

    clear_signals()
    settings = flags.layers().load  # what is wrong is said before anything begins
    model = settings.model or DEMO_MODEL
    if resume:
        name = latest_session().name
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with Session.open(name, model) if name is not None else Session.start(model) as session:
        shown = Repl(session, flags, mode, system=system, interactive=interactive, debug="--debug" in sys.argv)
        shown.greet(DEMO_NOTICE if settings.model is None else "")
        if images:
            shown.stage_files(images)
        if interactive:
            run_interactive(shown)
            shown.leave()
        elif not run_script(shown):
            raise typer.Exit(1)
