"""Every attack of `attacks.py` ends with a message and the right exit code, and changes and shows nothing else."""

import os
import re
from pathlib import Path

import pytest

from tests.cli.conftest import home, program
from tests.cli.harness import REPOSITORY, Program
from tests.hostile.attacks import ATTACKS, SECRET, Attack, table

__all__ = ["home", "program"]

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_the_list_is_long_and_has_every_kind() -> None:
    assert len(ATTACKS) >= 60 and len({each.name for each in ATTACKS}) == len(ATTACKS)
    assert {each.kind for each in ATTACKS} == {"session", "picture", "checkpoint", "settings", "prompts"}
    assert all(each.aim for each in ATTACKS)


def test_the_page_lists_them() -> None:
    """`python -m tests.hostile.attacks` prints the table for the page."""
    assert table() in (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_does_nothing_but_a_message(attack: Attack, program: Program, home: Path) -> None:
    secret = home / "secret"
    secret.write_text(SECRET)
    if attack.kind == "session":
        assert program("repl", "--session", "theirs", stdin="a cat\n").code == 0
    words = attack.write()
    loaded, before = len(program.loaded), outside(home)
    outcome = program(*words, stdin="")
    shown = outcome.stdout + outcome.stderr
    assert outcome.code in attack.codes, outcome
    assert "unexpected" not in outcome.stderr and "Traceback" not in outcome.stderr
    assert len(outcome.stderr) < 4000
    assert outcome.code == 0 or "error: " in outcome.stderr
    # Characters that control a terminal reach neither messages nor, in plain text, results.
    assert not CONTROL.search(outcome.stderr), outcome.stderr
    assert SECRET not in shown and secret.read_text() == SECRET
    assert not (home / "owned").exists()
    assert outside(home) == before
    for settings in program.loaded[loaded:]:
        assert settings.model == os.environ["SENSENOVA_MODEL"] and settings.server is None and settings.lora != "evil"
    for file in home.rglob("*.*"):
        if file.suffix in (".html", ".md") and file.is_file():
            assert SECRET not in file.read_text() and "<img src=x" not in file.read_text()


def outside(home: Path) -> list[tuple[str, int]]:
    """Return the files around the current folder with their sizes, without the sessions and without folders."""
    return sorted(
        (str(path), path.stat().st_size)
        for path in home.parent.rglob("*")
        if path.is_file() and not path.is_relative_to(home) and "data" not in path.parts
    )
