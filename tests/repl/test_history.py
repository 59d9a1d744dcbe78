"""The history of typed lines: private, and never a reason for a line to fail."""

import shutil
import stat
from pathlib import Path

import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from sensenova_cli.repl.history import HISTORY_FILE, open_history


def test_lines_are_saved_for_the_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with create_pipe_input() as keys:
        prompt = PromptSession[str](history=open_history(folder), input=keys, output=DummyOutput())
        keys.send_text("a cat\r")
        assert prompt.prompt() == "a cat"
    assert "a cat" in (folder / HISTORY_FILE).read_text()
    assert stat.S_IMODE((folder / HISTORY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_earlier_history_becomes_private(tmp_path: Path) -> None:
    (tmp_path / HISTORY_FILE).write_text("")
    (tmp_path / HISTORY_FILE).chmod(0o644)
    open_history(tmp_path)
    assert stat.S_IMODE((tmp_path / HISTORY_FILE).stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_written_stops_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As on a full disk: each line is returned at its first Enter, one note appears, and the history goes on."""
    folder = tmp_path / "data"
    with create_pipe_input() as keys:
        prompt = PromptSession[str](history=open_history(folder), input=keys, output=DummyOutput())
        shutil.rmtree(folder)
        keys.send_text("a cat\ra dog\r")
        assert [prompt.prompt(), prompt.prompt()] == ["a cat", "a dog"]
        assert prompt.history.get_strings() == ["a cat", "a dog"]
    assert capsys.readouterr().err.count("the history of lines is not saved") == 1


def test_a_history_that_is_a_link_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / HISTORY_FILE).symlink_to(tmp_path / "other")
    open_history(tmp_path).append_string("a cat")
    assert (tmp_path / "other").read_text() == "mine"
    assert "the history of lines is not saved" in capsys.readouterr().err
