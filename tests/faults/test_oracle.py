"""The rules find what they should find: each test breaks one of them by hand after a run without a fault."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.cases import Result, find_command, run_case
from tests.faults.file_calls import Fault
from tests.faults.oracle import judge

DRAWS = "generate a cat --seed 7 -n 2"


def kinds(result: Result, template: Path, name: str = DRAWS) -> set[str]:
    return {kind for kind, _ in judge(find_command(name), Fault(1, signal=2), result, template)}


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


BREAKS: dict[str, Callable[[Path], object]] = {
    "loss": lambda folder: (folder / "here/a-cat-8.png").unlink(),
    "overwritten": lambda folder: (folder / "here/keep.png").write_bytes((folder / "here/in.png").read_bytes()),
    "half-written": lambda folder: shorten(folder / "data/sessions/old/pictures/001-a-cat-5.png"),
    "leftover": lambda folder: (folder / "data/.sensenova-0123456789ab.part").touch(),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_rule_about_files(kind: str, template: Path) -> None:
    with run_case(find_command(DRAWS), None, template) as result:
        assert kinds(result, template) == set()
        BREAKS[kind](result.folder)
        assert kinds(result, template) == {kind}


def test_broken_rules_about_the_end(template: Path) -> None:
    with run_case(find_command(DRAWS), None, template) as result:
        for kind, changed in {
            "hang": replace(result, code=None),
            "exit code": replace(result, code=99, stderr="error: x"),
            "traceback": replace(result, stderr="Traceback (most recent call last):"),
            "unexpected": replace(result, code=1, stderr="error: unexpected KeyError: 'x'"),
        }.items():
            assert kinds(changed, template) == {kind}


def test_lost_entries_of_a_session(template: Path) -> None:
    with run_case(find_command("repl --session old"), None, template) as result:
        log = result.folder / "data/sessions/old/session.jsonl"
        log.write_bytes(log.read_bytes()[:300])
        assert "loss" in kinds(result, template, "repl --session old")
