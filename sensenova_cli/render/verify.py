"""Findings of `sensenova verify` as text and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sensenova_cli.render.table import plain_table, print_table
from sensenova_cli.system.unicode import printable

if TYPE_CHECKING:
    from model import Checks, FileFinding
    from sensenova_cli.turns.verify_pictures import PictureFinding


def print_file_finding(finding: "FileFinding") -> None:
    """Print a finding about the files as a row; minimum widths align the rows of several tables."""
    table = plain_table()
    table.add_column(min_width=13)
    table.add_column(min_width=7)
    table.add_column()
    table.add_row(finding.name, _mark(finding.status), printable(finding.detail))
    print_table(table)


def print_source(checks: "Checks") -> None:
    """Print where the expected colors are from."""
    print(f"\npictures: {printable(checks.source)}")


def print_picture_finding(finding: "PictureFinding") -> None:
    """Print a picture's result and its pixels: expected color, found color and largest difference of a channel."""
    print(f"\n{printable(finding.check.name)} {printable(_summary(finding))}", flush=True)
    if finding.comparison is None or not finding.comparison.pixels:
        return
    table = plain_table("x", "y", "expected", "found", "difference", "")
    for column in table.columns[:5]:
        column.justify = "right"
    for pixel in finding.comparison.pixels:
        x, y = pixel.at
        verdict = "" if pixel.passed else f"above {finding.tolerance}"
        table.add_row(str(x), str(y), _rgb(pixel.expected), _rgb(pixel.found), str(pixel.difference), verdict)
    print_table(table)


def summary_line(model: str, files: Sequence["FileFinding"], pictures: Sequence["PictureFinding"]) -> str:
    """Return the last line: whether everything passed, or the names of the checks that failed."""
    failed = [finding.name for finding in files if finding.status == "failed"]
    failed += [finding.check.name for finding in pictures if finding.status == "failed"]
    if failed:
        return f"\n{printable(model)} FAILED: {', '.join(map(printable, failed))}"
    count = sum(finding.status == "passed" for finding in pictures)
    shown = f"the files and {count} picture{'s' if count != 1 else ''} are" if count else "the files are"
    skipped = sum(finding.status == "skipped" for finding in pictures)
    return f"\n{printable(model)} passed: {shown} as expected" + (f"; {skipped} skipped" if skipped else "")


def verification_json(
    about: Mapping[str, Any],
    files: Sequence["FileFinding"],
    pictures: Sequence["PictureFinding"],
    source: str | None,
    why_none: str | None,
) -> dict[str, Any]:
    """Return all findings; `why_none` says why no pictures were compared."""
    return {
        **about,
        "files": [asdict(finding) for finding in files],
        "pictures": [
            {
                "name": finding.check.name,
                "status": finding.status,
                "detail": finding.detail or (finding.comparison.problem if finding.comparison else ""),
                "path": None if finding.path is None else str(finding.path),
                "tolerance": finding.tolerance,
                "pixels": [asdict(pixel) for pixel in finding.comparison.pixels] if finding.comparison else [],
            }
            for finding in pictures
        ],
        "pictures_source": source,
        "no_pictures": why_none,
    }


def _summary(finding: "PictureFinding") -> str:
    if finding.comparison is None:
        return f"skipped: {finding.detail}"
    if finding.comparison.problem:
        return f"FAILED: {finding.comparison.problem} ({finding.path})"
    wrong = sum(not pixel.passed for pixel in finding.comparison.pixels)
    total = len(finding.comparison.pixels)
    within = f"of {total} pixels within {finding.tolerance} of 255 ({finding.path})"
    return f"FAILED: {total - wrong} {within}" if wrong else f"passed: {total} {within}"


def _mark(status: str) -> str:
    return "FAILED" if status == "failed" else status


def _rgb(color: tuple[int, int, int]) -> str:
    return " ".join(f"{channel:3}" for channel in color)
