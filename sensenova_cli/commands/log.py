"""`sensenova log`: finds earlier requests and their files, and repeats them."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import with_options
from sensenova_cli.inputs.questions import require_yes, time_before
from sensenova_cli.system.unicode import for_terminal, json_text, printable

if TYPE_CHECKING:
    from sensenova_cli.log.entries import LogEntry
    from sensenova_cli.log.store import Log

# Functions import what they use: sqlite3, and for `again` the settings' models.

SHOWN = 20
"""Entries of a list without -n."""

app = typer.Typer(invoke_without_command=True)

Number = Annotated[
    int | None,
    typer.Argument(
        metavar="NUMBER", help="The entry's number in the list; without it the newest one.", show_default=False, min=1
    ),
]
OlderThan = Annotated[
    str | None,
    typer.Option(
        "--older-than",
        help="Only entries from before this time, such as 30d, 4w or 12h.",
        metavar="TIME",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.", metavar=" ")]


@app.callback()
@with_options("json", "debug", "no_color")
def log(
    context: typer.Context,
    flags: Flags,
    query: Annotated[
        str,
        typer.Option(
            "--query",
            "-q",
            help="Only entries with these words in the prompt, the answer or a file's path, in any case.",
            metavar="WORDS",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = "",
    count: Annotated[
        int,
        typer.Option(
            "--count", "-n", help="Number of entries; 0 for all.", metavar="N", min=0, rich_help_panel="Input"
        ),
    ] = SHOWN,
) -> None:
    """List earlier requests, the newest first: prompts, settings and where the files are.

    Examples
      sensenova log
      sensenova log -q owl
      sensenova log -q "red owl" -n 0 --json | jq -r .path
      sensenova log show 12
      sensenova log again 12

    Every one-shot and every turn of a session is logged, in a file that only you
    can read. --no-log, or log = false in a settings file, turns that off.
    """
    if context.invoked_subcommand is not None:
        return
    entries = _log().newest(count or None, query)
    if flags.json:
        for entry in entries:
            typer.echo(json_text(_facts(entry, exact=False)))
    elif entries:
        from sensenova_cli.render.log_list import log_lines

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 0
        typer.echo(for_terminal("\n".join(log_lines(entries, width))))
    else:
        typer.echo(f"note: no request has {query!r} in it" if query else "note: nothing is logged yet", err=True)


@app.command()
@with_options("json", "debug", "no_color")
def show(flags: Flags, number: Number = None) -> None:
    """Show one request: its settings, its text, and where its files are now.

    Examples
      sensenova log show
      sensenova log show 12
      sensenova log show 12 --json | jq .settings

    A file that is not at its place is searched by its content, near its old
    place, in the current folder and in folders of other logged files.
    """
    log = _log()
    facts = _facts(_entry(log, number), exact=True, folders=log.folders())
    typer.echo(json_text(facts) if flags.json else for_terminal("\n".join(map(printable, _details(facts)))))


@app.command()
@with_options("debug", "no_color")
def again(
    flags: Flags,
    number: Number = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the command on stdout, and do not run it.", metavar=" ")
    ] = False,
) -> None:
    """Repeat a request: run the command that makes it again.

    Examples
      sensenova log again
      sensenova log again 12
      sensenova log again 12 --print

    The result is a new file in the current folder. It has the same picture if
    the model and the device are the same.
    """
    from sensenova_cli.log.repeat import repeat_words

    words = repeat_words(_entry(_log(), number))
    command = shlex.join(["sensenova", *words])
    if only_print:
        typer.echo(for_terminal(command))
        return
    typer.echo(printable(command), err=True)
    from sensenova_cli.app import app as program

    program(words)


@app.command()
@with_options("debug", "no_color")
def rm(
    flags: Flags,
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="NUMBER...", help="Numbers of the entries.", show_default=False)
    ] = None,
    older_than: OlderThan = None,
    yes: Yes = False,
) -> None:
    """Remove entries from the log. Pictures stay.

    Examples
      sensenova log rm 12 13
      sensenova log rm --older-than 30d -y
    """
    if bool(numbers) == (older_than is not None):
        raise UsageError("give numbers of entries, or --older-than", "for example: sensenova log rm 12")
    if older_than is not None:
        _clear(older_than, yes)
        return
    log = _log()
    for number in numbers or ():
        if not log.contains(number):
            raise _no_entry(number)
    chosen = list(dict.fromkeys(numbers or ()))
    if not yes:
        require_yes(f"Remove {_counted(len(chosen))} from the log? Pictures stay.")
    log.remove(chosen)
    typer.echo(f"note: removed {_counted(len(chosen))}", err=True)


@app.command()
@with_options("debug", "no_color")
def clear(flags: Flags, older_than: OlderThan = None, yes: Yes = False) -> None:
    """Remove all entries from the log. Pictures stay.

    Examples
      sensenova log clear -y
      sensenova log clear --older-than 30d -y
    """
    _clear(older_than, yes)


def _clear(older_than: str | None, yes: bool) -> None:
    before = None if older_than is None else time_before(older_than)
    log = _log()
    count = log.count(before)
    if not count:
        typer.echo(f"note: no entry is older than {older_than}" if older_than else "note: nothing is logged", err=True)
        return
    if not yes:
        require_yes(f"Remove {_counted(count)} from the log? Pictures stay.")
    log.clear(before)
    typer.echo(f"note: removed {_counted(count)}", err=True)


def _log() -> "Log":
    from sensenova_cli.log.store import Log

    return Log(lambda notice: typer.echo(f"note: {printable(notice)}", err=True))


def _entry(log: "Log", number: int | None) -> "LogEntry":
    entry = log.find(number)
    if entry is None and number is None:
        raise UsageError("nothing is logged yet", 'make a picture: sensenova generate "A cute cat"')
    if entry is None:
        raise _no_entry(number)
    return entry


def _no_entry(number: int | None) -> UsageError:
    return UsageError(f"the log has no entry {number}", "see: sensenova log")


def _counted(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _facts(entry: "LogEntry", *, exact: bool, folders: Iterable[Path] = ()) -> dict[str, Any]:
    """Return an entry as JSON.

    Args:
        exact: compare the contents of the files, and search the missing ones, also in `folders`.
    """
    files = [_file_facts(file, exact=exact, folders=folders) for file in entry.files]
    return {
        "number": entry.number,
        "time": entry.time.astimezone().isoformat(timespec="seconds"),
        "task": entry.task,
        "prompt": entry.prompt,
        "original_prompt": entry.original or None,
        "status": entry.status,
        "reason": entry.reason,
        "seconds": round(entry.seconds, 3),
        "model": entry.model,
        "settings": dict(entry.settings),
        "loaded": dict(entry.loaded),
        "system": entry.system or None,
        "inputs": list(entry.inputs),
        "path": next((file["found"] for file in files if file["found"]), None),
        "files": files,
        "answer": entry.answer or None,
        "session": entry.session or None,
    }


def _file_facts(file: Any, *, exact: bool, folders: Iterable[Path]) -> dict[str, Any]:
    from sensenova_cli.log.files import exact_state, find_moved, quick_state

    state: str = exact_state(file) if exact else quick_state(file)
    found = None if state == "missing" else file.path
    if exact and state == "missing" and (moved := find_moved(file, folders)) is not None:
        state, found = "moved", str(moved)
    return {"path": file.path, "state": state, "found": found, "bytes": file.bytes, "sha256": file.sha256}


def _details(facts: dict[str, Any]) -> list[str]:
    """Return the lines of `log show`."""
    status = facts["status"] + (f": {facts['reason']}" if facts["reason"] else "")
    lines = [
        f"{facts['number']} {facts['task']}: {_indented(facts['prompt'])}",
        f"{facts['time'].replace('T', ' ')[:16]}, {facts['seconds']:.1f} s, {status}",
        *([f"your prompt: {_indented(facts['original_prompt'])}"] if facts["original_prompt"] else []),
        *(f"file: {_file_line(file)}" for file in facts["files"]),
        *(f"input: {path}" for path in facts["inputs"]),
        f"model: {facts['model']}",
        *([f"session: {facts['session']}"] if facts["session"] else []),
        *([f"system: {_indented(facts['system'])}"] if facts["system"] else []),
    ]
    values = {**facts["settings"], **{name: value for name, value in facts["loaded"].items() if name != "model"}}
    lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return lines + (["", facts["answer"]] if facts["answer"] else [])


def _file_line(file: dict[str, Any]) -> str:
    notes = {
        "there": "",
        "changed": " (its content has changed)",
        "moved": f" (moved to {file['found']})",
        "missing": " (missing)",
    }
    return f"{file['path']}{notes[file['state']]}"


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")
