"""A session on a vLLM-Omni server in a real terminal."""

from pathlib import Path

import pytest

from tests.remote.conftest import DRAWS, FOLDS
from tests.remote.fake_omni import MODEL, FakeOmni
from tests.repl.terminal import Terminal
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow


def test_a_session(newer: FakeOmni, tmp_path: Path) -> None:
    screen = Terminal("repl", "--no-preview", "--server", newer.url, folder=tmp_path, columns=200)
    screen.wait_for_toolbar("draw")
    screen.type("a cat --size 64x64")
    screen.wait_for("picture 1  ")
    screen.wait_for_toolbar("edit")
    assert "MB" not in screen.toolbar and "GB" not in screen.toolbar, "the peak of memory is not known"
    screen.type("make it red --size 64x64 --think")
    screen.wait_for("It purrs.")
    screen.wait_for("picture 2  ")
    screen.wait_for_toolbar("edit")
    screen.type("? what is it")
    screen.wait_for("A cat on a blue background.")
    screen.wait_for_toolbar("edit")

    newer.gate.clear()
    screen.type("? and its colour")
    screen.wait_for("answer: ")
    screen.child.sendintr()
    screen.wait_for("may go on with the cancelled request")
    assert newer.gone.wait(PATIENCE)
    newer.gate.set()
    screen.wait_for_toolbar("edit")

    screen.type("? and its colour")
    screen.wait_for("A cat on a blue background.", count=2)
    screen.wait_for_toolbar("edit")
    screen.type("/stats")
    screen.wait_for("which reports no more")
    screen.type("a dog --noise cpu")
    screen.wait_for("has no setting")
    screen.wait_for_toolbar("edit")
    screen.type("/history")
    screen.wait_for("interrupted")
    assert screen.leave() == 0
    for notice in (DRAWS, FOLDS, f"{MODEL} is ready: a vLLM-Omni server at {newer.url}"):
        assert screen.text.count(notice) == 1, notice
    assert "answer: " not in screen.text, "the row of waiting is removed"
    assert [body["extra_body"]["modalities"] for body in newer.bodies] == [["image"], ["image"], ["text"], ["text"]]
