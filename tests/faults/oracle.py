"""Rules that hold after every case, whatever failed."""

import io
import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from PIL import Image

from sensenova_cli.errors import DONE, FAILED, INTERRUPTED, NO_WEIGHTS, OUT_OF_MEMORY, WRONG_INPUT
from sensenova_cli.sessions.saved import read_session
from tests.faults.cases import Result, pixels, run_again
from tests.faults.commands import Command
from tests.faults.file_calls import REMOVALS, Fault

CODES = (DONE, FAILED, WRONG_INPUT, NO_WEIGHTS, OUT_OF_MEMORY, INTERRUPTED)
KINDS = ("loss", "overwritten", "half-written", "leftover", "traceback", "hang", "exit code", "unexpected")
"""Kinds of finding: the columns of the table."""
TRACEBACK = re.compile(r"Traceback|Exception ignored|Exception in thread|most recent call last")
PNG_END = b"IEND\xaeB`\x82"

Finding = tuple[str, str]
"""A kind and what was found."""


def judge(command: Command, fault: Fault | None, result: Result, template: Path) -> list[Finding]:
    """Return what is wrong after a case; nothing if all is well."""
    found = list(_behaviour(fault, result))
    found += _files(command, result, template)
    if not (fault is not None and fault.second):  # a second signal ends the program at once
        found += _pictures(result)
        found += _leftovers(fault, result)
    found += _sessions(command, result, template)
    return found


def _behaviour(fault: Fault | None, result: Result) -> Iterator[Finding]:
    if result.code is None:
        yield "hang", "the program did not end"
    elif result.code not in CODES:
        yield "exit code", f"{result.code}: {result.stderr[-300:]}"
    elif fault is not None and fault.error and result.code == INTERRUPTED:
        yield "exit code", f"130 without a signal: {result.stderr[-300:]}"
    if TRACEBACK.search(result.stderr):
        yield "traceback", result.stderr[-1500:]
    elif "unexpected" in result.stderr:
        yield "unexpected", result.stderr[-500:]
    if result.code not in (DONE, INTERRUPTED, None) and "error" not in result.stderr:
        yield "exit code", f"{result.code} without a message: {result.stderr[-300:]!r}"


def _files(command: Command, result: Result, template: Path) -> Iterator[Finding]:
    """Existing files are unchanged, unless the command replaces them; new files are whole."""
    here = result.folder / "here"
    for before in sorted((template / "here").iterdir()):
        if not before.is_file():
            continue
        after = here / before.name
        if not after.is_file():
            yield "overwritten", f"{before.name} has gone"
        elif before.read_bytes() != after.read_bytes() and before.name not in command.replaces:
            yield "overwritten", f"{before.name} has changed"
    for file in result.folder.rglob("*.png"):
        try:
            with Image.open(file) as image:
                image.load()
            if not file.read_bytes().endswith(PNG_END):  # decoders do not miss it
                yield "half-written", f"{file.relative_to(result.folder)} ends too early"
        except (OSError, SyntaxError, ValueError) as error:
            yield "half-written", f"{file.relative_to(result.folder)} ({file.stat().st_size} bytes): {error}"
    for page in here.glob("*.html"):
        if not page.read_text().rstrip().endswith("</html>"):
            yield "half-written", page.name
    if (here / "eight").exists():
        made = json.loads((here / "eight" / "conversion.json").read_text())["files"]
        found = {file.name: sha256(file.read_bytes()).hexdigest() for file in (here / "eight").glob("model-*")}
        if made != found:
            yield "half-written", f"a checkpoint with {sorted(found)} for {sorted(made)}"
    document = here / "shared.md"
    for linked in re.findall(r"\]\(([^)]+\.png)\)", document.read_text()) if document.exists() else ():
        if not (here / linked).is_file():
            yield "half-written", f"{document.name} without {linked}"


def _pictures(result: Result) -> Iterator[Finding]:
    """Each picture that the engine has finished is in a file, or on stdout."""
    if not result.finished or result.code is None:
        return
    kept = set()
    if result.stdout.startswith(b"\x89PNG"):
        kept.add(_pixels_of(io.BytesIO(result.stdout)))
    for file in result.folder.rglob("*.png"):
        kept.add(_pixels_of(file))
    for number, checksum in enumerate(result.finished, start=1):
        if checksum not in kept:
            yield "loss", f"picture {number} of {len(result.finished)}: {result.stderr[-400:]}"


def _pixels_of(file: Path | io.BytesIO) -> str:
    try:
        with Image.open(file) as image:
            return pixels(image)
    except (OSError, SyntaxError, ValueError):
        return ""


def _leftovers(fault: Fault | None, result: Result) -> Iterator[Finding]:
    if fault is not None and fault.error and (fault.lasting or _failed_call(fault, result) in REMOVALS):
        return
    for file in result.folder.rglob("*.part"):
        yield "leftover", str(file.relative_to(result.folder))
    here = result.folder / "here"
    if any(here.glob("shared*/")) and not (here / "shared.md").exists():
        yield "leftover", "the pictures of shared.md without the document"


def _failed_call(fault: Fault, result: Result) -> str:
    return result.calls[fault.at - 1].rsplit(" ", 1)[0] if len(result.calls) >= fault.at else ""


def _sessions(command: Command, result: Result, template: Path) -> Iterator[Finding]:
    """The entries and pictures of a session stay; a removal ends at the latest with the next start."""
    for name in ("old", "other"):
        before = read_session(template / "data/sessions" / name)
        folder = result.folder / "data/sessions" / name
        if command.removes == name and not folder.exists():
            if result.code is not None:
                yield from _removal(result, name)
            continue
        try:
            after = read_session(folder)
        except Exception as error:
            yield "loss", f"the session {name}: {error!r}"
            continue
        lost = len(before.entries) - len(after.entries)
        if lost > 0 or [entry.model_dump() for entry in after.entries[: len(before.entries)]] != [
            entry.model_dump() for entry in before.entries
        ]:
            yield "loss", f"entries of the session {name}"
        if after.missing:
            yield "loss", f"pictures {sorted(after.missing)} of the session {name}"


def _removal(result: Result, name: str) -> Iterator[Finding]:
    again = run_again(result, "sessions", "list")
    if again.code != DONE or name in again.stdout.decode().split():
        yield "exit code", f"sessions list after the removal: {again.code} {again.stderr[-300:]}"
    rest = [path.name for path in (result.folder / "data/sessions").iterdir() if path.name.startswith(".removed")]
    if rest:
        yield "leftover", f"{rest} after the next start"
