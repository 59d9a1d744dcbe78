"""`sensenova sessions`: lists, shows, exports and removes the sessions of the REPL."""

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sensenova_cli.errors import SessionError, UsageError
from sensenova_cli.inputs.completion import complete_sessions
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import with_options
from sensenova_cli.inputs.questions import require_yes, time_before
from sensenova_cli.system.unicode import for_terminal, json_text, printable

if TYPE_CHECKING:
    from sensenova_cli.sessions.entries import Entry, InterleaveTurn, SessionPicture
    from sensenova_cli.sessions.saved import SavedSession

# Functions import what they use, because reading sessions defines many pydantic models and exporting imports Pillow.

COLUMNS = {"name": 0, "used": 0, "turns": 60, "pictures": 60, "first prompt": 80, "model": 120}
"""Columns of the list, and the narrowest screen in columns that shows each of them."""
MAX_PROMPT = 100
"""Longest prompt in the list, in characters."""

app = typer.Typer(no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The session; the beginning of its name is enough.",
        show_default=False,
        autocompletion=complete_sessions,
    ),
]


@app.callback()
@with_options("debug", "no_color")
def sessions(flags: Flags) -> None:
    """List, show, export and remove the sessions of the REPL.

    Examples
      sensenova sessions list
      sensenova sessions show 2026-07-31-a-cute-cat
      sensenova sessions export 2026-07-31-a-cute-cat -o cat.html
    """


@app.command("list")
@with_options("json", "debug", "no_color")
def list_sessions(flags: Flags) -> None:
    """List the sessions, the most recently used one first.

    Examples
      sensenova sessions list
      sensenova sessions list --json | jq -r .name
    """
    from sensenova_cli.sessions.saved import read_session
    from sensenova_cli.sessions.store import session_folders

    _finish_removals()
    readable: list[SavedSession] = []
    problems: list[SessionError] = []
    for folder in session_folders().values():
        try:
            readable.append(read_session(folder))
        except SessionError as problem:
            problems.append(problem)
    readable.sort(key=lambda saved: saved.used, reverse=True)
    if flags.json:
        for saved in readable:
            typer.echo(json_text(_summary(saved)))
    elif readable:
        _print_sessions(readable)
    elif not problems:
        typer.echo("note: there are no sessions yet", err=True)
    for saved in readable:
        if saved.problems:
            typer.echo(f"note: parts of {saved.name} are damaged: `sensenova sessions show` lists them", err=True)
    if problems:
        hints = dict.fromkeys(problem.hint for problem in problems)
        raise SessionError("\n".join(problem.what for problem in problems), "\n".join(hints))


@app.command()
@with_options("json", "debug", "no_color")
def show(flags: Flags, name: Name) -> None:
    """Show the turns and other entries of a session.

    Examples
      sensenova sessions show 2026-07-31-a-cute-cat
      sensenova sessions show cats --json | jq '.entries[].prompt'
    """
    saved = _read(name)
    if flags.json:
        entries = [entry.model_dump(mode="json") for entry in saved.entries]
        problems = [str(problem) for problem in saved.problems]
        typer.echo(json_text({**_summary(saved), "entries": entries, "problems": problems}))
        return
    typer.echo(for_terminal("\n".join(_session_lines(saved))))
    _note_problems(saved)


@app.command()
@with_options("force", "debug", "no_color")
def export(
    flags: Flags,
    name: Name,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .html for one page that includes the pictures, .md for Markdown with the pictures in "
            "a folder beside it. [NAME.html]",
            metavar="FILE",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a session as a page to read and share, and print the page's path.

    Examples
      sensenova sessions export 2026-07-31-a-cute-cat
      sensenova sessions export 2026-07-31-a-cute-cat -o cat.md
    """
    from sensenova_cli.sessions.export import check_target, export_session
    from sensenova_cli.sessions.store import find_session

    folder = find_session(name)
    target = Path(output).expanduser() if output is not None else Path(f"{folder.name}.html")
    check_target(target, flags.force)
    saved = _read(name)
    _note_problems(saved)
    export_session(saved, target, flags.force)
    typer.echo(for_terminal(target))


@app.command()
@with_options("debug", "no_color")
def rm(
    flags: Flags,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="The sessions.", show_default=False, autocompletion=complete_sessions),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            help="Remove the sessions that were last used before this time, such as 30d, 4w or 12h.",
            metavar="TIME",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.", metavar=" ")] = False,
) -> None:
    """Remove sessions and their pictures, and print their names.

    Examples
      sensenova sessions rm 2026-07-31-a-cute-cat
      sensenova sessions rm -y old older oldest
      sensenova sessions rm --older-than 30d
    """
    from sensenova_cli.sessions.store import find_session, remove_session

    if bool(names) == (older_than is not None):
        raise UsageError("give the names of sessions, or --older-than", "for example: sensenova sessions rm cats")
    _finish_removals()
    if older_than is not None:
        folders = _unused_since(time_before(older_than))
        if not folders:
            typer.echo(f"note: no session is older than {older_than}", err=True)
            return
    else:
        folders = list(dict.fromkeys(find_session(name) for name in names or ()))
    if not yes:
        target = f"the session {folders[0].name}"
        if len(folders) > 1:
            for folder in folders:
                typer.echo(f"  {printable(folder.name)}", err=True)
            target = f"these {len(folders)} sessions"
        require_yes(f"Remove {target} with all pictures?")
    for folder in folders:
        remove_session(folder)
        typer.echo(for_terminal(folder.name))


def _unused_since(time: datetime) -> list[Path]:
    """Return the folders of the sessions that were last used before a time and are not open, oldest first."""
    from sensenova_cli.sessions.lock import is_locked
    from sensenova_cli.sessions.saved import read_session
    from sensenova_cli.sessions.store import session_folders

    found: list[tuple[datetime, Path]] = []
    for folder in session_folders().values():
        try:
            used = read_session(folder).used
        except SessionError as problem:  # its age is unknown, so it stays
            typer.echo(f"note: {printable(problem.what)}", err=True)
            continue
        if used < time and not is_locked(folder):
            found.append((used, folder))
    return [folder for _, folder in sorted(found)]


def _finish_removals() -> None:
    """Finish removals that were interrupted, and name the sessions on stderr."""
    from sensenova_cli.sessions.store import finish_removals

    for name in finish_removals():
        typer.echo(f"note: finished removing the session {printable(name)}", err=True)


def _read(name: str) -> "SavedSession":
    from sensenova_cli.sessions.saved import read_session
    from sensenova_cli.sessions.store import find_session

    return read_session(find_session(name))


def _note_problems(saved: "SavedSession") -> None:
    for problem in saved.problems:
        typer.echo(f"note: {printable(str(problem))}", err=True)


def _summary(saved: "SavedSession") -> dict[str, Any]:
    from sensenova_cli.sessions.lock import is_locked

    return {
        "name": saved.name,
        "path": str(saved.folder),
        "folder": str(saved.folder),
        "created": saved.created.isoformat(),
        "used": saved.used.isoformat(),
        "turns": len(saved.state.turns),
        "pictures": len(saved.state.pictures),
        "model": saved.model,
        "first_prompt": saved.state.turns[0].prompt if saved.state.turns else "",
        "in_use": is_locked(saved.folder),
    }


def _print_sessions(readable: Sequence["SavedSession"]) -> None:
    """Print the columns that fit on the screen; all of them if stdout is not a screen.

    Prompts and models are cut to fit. Names are wrapped instead, because users have to type them.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sensenova_cli.render.table import UNLIMITED, print_table

    screen = Console().width if sys.stdout.isatty() or "COLUMNS" in os.environ else UNLIMITED
    rows = [_row(saved, with_time=screen >= 100) for saved in readable]
    titles = [title for title, narrowest in COLUMNS.items() if screen >= narrowest]
    # Rich would shrink the widest column first, which may be the name.
    widths = {title: max(cell_len(title), *(cell_len(row[title]) for row in rows)) for title in titles}
    excess = sum(widths.values()) + 2 * (len(widths) - 1) - screen
    for title, least in (("first prompt", 14), ("model", 14), ("name", 1)):
        if title in widths and excess > 0:
            cut = min(excess, max(widths[title] - least, 0))
            widths[title] -= cut
            excess -= cut
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title, width in widths.items():
        table.add_column(
            title,
            width=width,
            justify="right" if title in ("turns", "pictures") else "left",
            overflow="fold" if title == "name" else "ellipsis",
            no_wrap=title != "name",
        )
    for row in rows:
        table.add_row(*(Text(row[title]) for title in titles))
    print_table(table, screen)


def _row(saved: "SavedSession", with_time: bool) -> dict[str, str]:
    """Return the cells of a session by the titles of COLUMNS."""
    from sensenova_cli.sessions.summary import format_time, shorten

    prompt = printable(saved.state.turns[0].prompt) if saved.state.turns else ""
    used = format_time(saved.used)
    return {
        "name": printable(saved.name),
        "used": used if with_time else used.split()[0],
        "turns": str(len(saved.state.turns)),
        "pictures": str(len(saved.state.pictures)),
        "first prompt": shorten(prompt, MAX_PROMPT),
        "model": printable(saved.model.rstrip("/").rpartition("/")[2]),
    }


def _session_lines(saved: "SavedSession") -> list[str]:
    """Return the lines of `sensenova sessions show`: a header, then every entry."""
    from sensenova_cli.sessions.entries import AnswerTurn, InterleaveTurn, PictureTurn, Turn
    from sensenova_cli.sessions.summary import counted, describe_entry, format_time, turn_facts

    turns, pictures = counted(len(saved.state.turns), "turn"), counted(len(saved.state.pictures), "picture")
    lines = [
        f"{saved.name}: {turns}, {pictures}",
        f"{format_time(saved.created)} – {format_time(saved.used)}",
        str(saved.folder),
    ]
    for entry in saved.entries:
        if isinstance(entry, Turn):
            lines += ["", *_indented(f"{entry.turn} {entry.kind}: {entry.prompt}")]
            if isinstance(entry, InterleaveTurn):
                lines += _interleaved_lines(saved, entry)
            else:
                lines += _picture_lines(saved, entry)
            if isinstance(entry, AnswerTurn) and entry.answer:
                lines += _indented(f"  {entry.answer}")
            if isinstance(entry, PictureTurn) and entry.think_text:
                lines += _indented(f"  think: {entry.think_text}")
            lines += _indented(f"  ({', '.join(facts)})") if (facts := turn_facts(entry)) else []
        else:
            lines += ["", f"- {describe_entry(entry)}", *_picture_lines(saved, entry)]
    return [printable(line) for line in lines]


def _picture_lines(saved: "SavedSession", entry: "Entry") -> list[str]:
    pictures = (*getattr(entry, "brought", ()), *getattr(entry, "pictures", ()))
    return [_picture_line(saved, picture) for picture in pictures]


def _interleaved_lines(saved: "SavedSession", turn: "InterleaveTurn") -> list[str]:
    from sensenova_cli.sessions.entries import SessionPicture

    lines = [_picture_line(saved, picture) for picture in turn.brought]
    for part in turn.parts:
        if isinstance(part, SessionPicture):
            lines.append(_picture_line(saved, part))
        elif text := part.without_tags.text:
            lines += _indented(f"  think: {text}" if part.thinking else f"  {text}")
    return lines


def _picture_line(saved: "SavedSession", picture: "SessionPicture") -> str:
    from sensenova_cli.sessions.summary import picture_facts

    facts = ", ".join(picture_facts(picture, with_folder=True))
    return f"  picture {picture.number}: {saved.path(picture.number)} ({facts})"


def _indented(text: str) -> list[str]:
    """Split a text into lines, and indent all but the first."""
    return text.replace("\n", "\n  ").split("\n")
