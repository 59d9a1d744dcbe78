"""`sensenova repl`: runs a session; the model stays loaded between its turns."""

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Annotated, Literal

import typer

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.completion import complete_sessions
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import ENGINE_OPTIONS, IMAGE_OPTIONS, PROMPT_OPTIONS, TEXT_OPTIONS, with_options

REPL_OPTIONS = (*IMAGE_OPTIONS, *PROMPT_OPTIONS, *(name for name in TEXT_OPTIONS if name != "seed"), *ENGINE_OPTIONS)


@with_options(
    *REPL_OPTIONS,
    *("format", "quality", "metadata", "log", "print_think", "hide_think", "preview", "notify"),
    *("profile", "quiet", "debug", "no_color"),
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
            autocompletion=complete_sessions,
        ),
    ] = None,
    no_session: Annotated[
        bool,
        typer.Option(
            "--no-session",
            help="Save no session: pictures are written to the current folder, as by generate.",
            metavar=" ",
            rich_help_panel="Session",
        ),
    ] = False,
) -> None:
    """Make, change and discuss pictures, turn by turn; the model stays loaded.

    Examples
      sensenova repl
      sensenova repl --model SenseNova/SenseNova-U1-8B-MoT --profile draft
      sensenova repl --continue
      sensenova repl --session holiday
      printf 'a cat\\nmake it black and white\\n' | sensenova repl --no-session

    Words make a picture, or change the selected one. A line that starts with ?
    asks about it. /help lists the commands. Piped lines are a script: results
    go to stdout, and the exit code is 1 if a line fails.
    """
    start_session(flags, "pictures", resume=resume, name=session, no_session=no_session)


def start_session(
    flags: Flags,
    mode: Literal["pictures", "chat"],
    *,
    resume: bool = False,
    name: str | None = None,
    no_session: bool = False,
    system: str = "",
    images: Sequence[str] = (),
) -> None:
    """Run a session in the terminal, or run the lines of standard input as a script.

    Args:
        mode: whether a plain line is the prompt of a picture or a chat message.
        resume: continue the last session.
        name: continue the session with this name, or start it. Without `resume` and `name`, a new session starts.
        no_session: save no session; write pictures to the current folder.
        system: system message of answers.
        images: picture files for the first line.

    Raises:
        SenseNovaError: settings, model or session are not usable.
        typer.Exit: a line of a script failed.
    """
    given = {"--continue": resume, "--session": name is not None, "--no-session": no_session}
    options = [option for option, is_given in given.items() if is_given]
    if len(options) > 1:
        raise UsageError(f"{' and '.join(options)} contradict each other", "give one of them")
    # Imported here because these modules import prompt-toolkit and Pillow, which `--help` does not need.
    from sensenova_cli.repl.repl import Repl
    from sensenova_cli.repl.run_session import run_interactive, run_script
    from sensenova_cli.sessions.session import Session
    from sensenova_cli.sessions.store import complete_name, finish_removals, latest_session
    from sensenova_cli.system.interrupts import clear_signals, unwinding
    from sensenova_cli.system.unicode import printable
    from sensenova_cli.turns.demo_notice import demo_notice
    from sensenova_cli.turns.downloads import ask_before_session
    from sensenova_cli.turns.model_source import model_name

    clear_signals()
    settings = flags.layers().load  # raises an error for wrong settings before the session starts
    if ask_before_session(settings).yes:
        flags = replace(flags, settings={**flags.settings, "yes": True})
    model = model_name(settings)
    for removed in finish_removals():
        typer.echo(f"note: finished removing the session {printable(removed)}", err=True)
    interactive = sys.stdin.isatty()
    debug = "--debug" in sys.argv
    with unwinding():
        if no_session:
            session = Session.temporary(model)
        elif resume or name is not None:
            session = Session.open(latest_session().name if name is None else complete_name(name), model)
        else:
            session = Session.start(model)
        # The first `with` closes the session if the second line fails; `repl` closes the one that is open at the end.
        with session, closing(Repl(session, flags, mode, system=system, interactive=interactive, debug=debug)) as repl:
            repl.greet(demo_notice(settings))
            if images:
                repl.stage_files(images)
            if interactive:
                run_interactive(repl)
                repl.say_goodbye()
            elif not run_script(repl):
                raise typer.Exit(1)
