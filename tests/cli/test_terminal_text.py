"""Text from models, files and strangers on a terminal: it cannot move the cursor or change what is shown."""

import io
import json
import os
import sys
from pathlib import Path

import pexpect
import pytest

from sensenova_cli.system.unicode import DIRECTION_MARKS, for_terminal, json_text, printable
from tests.cli.harness import REPOSITORY
from tests.waiting import PATIENCE

ATTACK = "a\x1b[2Jb\x9b31mc\x07d\u202ee\rf\x7fg"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_control_characters_and_marks_are_removed() -> None:
    assert printable(ATTACK) == "a[2Jb31mcdefg"
    assert printable("Grüße\n世界\t🐈") == "Grüße\n世界\t🐈"


def test_only_a_terminal_gets_changed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    assert for_terminal(ATTACK) == ATTACK
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert for_terminal(Path(ATTACK)) == printable(ATTACK)


def test_json_escapes_them() -> None:
    text = json_text({"text": ATTACK + DIRECTION_MARKS})
    assert json.loads(text)["text"] == ATTACK + DIRECTION_MARKS
    assert text == printable(text)


@pytest.mark.slow
def test_a_hostile_file_name_on_a_terminal(tmp_path: Path) -> None:
    name = tmp_path / "a\x1b]0;stolen\x07b.png"
    process = pexpect.spawn(
        sys.executable,
        ["-m", "tests.cli.fake_program", "generate", "a cat", "--preview", "off", "-o", str(name)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"},
        dimensions=(24, 200),
        timeout=PATIENCE,
    )
    shown = process.read()
    process.close()
    assert process.exitstatus == 0 and name.exists()
    assert b"\x1b]0;" not in shown and b"a]0;stolenb.png" in shown
