"""Downloads of gigabytes start only with the user's consent: asked for on a terminal, else given by --yes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from config.settings import LoadSettings
from model import CheckpointError, DownloadPlan
from model.checkpoint.download import PlannedFile
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.repl import resident_model
from sensenova_cli.turns import downloads
from sensenova_cli.turns.downloads import ask_before_session, require_consent
from tests.cli.harness import Program

MODEL = "SenseNova/SenseNova-U1-8B-MoT"


def planned(size: int) -> DownloadPlan:
    return DownloadPlan(MODEL, "main", "c" * 40, (PlannedFile("model.safetensors", size, False),), Path("hub"), 10**12)


LARGE, SMALL = planned(35_100_000_000), planned(20_000_000)


@pytest.fixture
def hub_model(program: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """A model on the Hub whose weights are not here."""
    folder = Path(os.environ["SENSENOVA_MODEL"])
    monkeypatch.setattr("model.checkpoint.card.find_card", lambda model: folder)
    monkeypatch.setenv("SENSENOVA_MODEL", MODEL)
    program.folder, program.plan = folder, LARGE
    return program


@pytest.mark.parametrize("words", [("generate", "a cat"), ("chat", "hello"), ("run",)])
def test_without_a_terminal_a_large_download_is_refused(hub_model: Program, words: tuple[str, ...]) -> None:
    outcome = hub_model(*words)
    assert outcome.code == 3 and hub_model.engines == []
    assert f"error: {MODEL} is not on this machine, and a download of 35.1 GB needs your consent" in outcome.stderr
    assert "hint: to allow it, start the program with --yes, or set SENSENOVA_YES=true" in outcome.stderr
    assert not list(Path().iterdir())


def test_yes_is_consent(hub_model: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_model("chat", "hello", "--yes").code == 0
    monkeypatch.setenv("SENSENOVA_YES", "true")
    outcome = hub_model("chat", "hello")
    assert outcome.code == 0
    assert f"downloading {MODEL}: 35.1 GB of 35.1 GB" in outcome.stderr


def test_a_small_download_needs_no_consent(hub_model: Program) -> None:
    hub_model.plan = SMALL
    assert hub_model("chat", "hello").code == 0


def test_a_piped_session_is_refused(hub_model: Program) -> None:
    outcome = hub_model("repl", stdin="a cat\n")
    assert outcome.code != 0 and hub_model.engines == []
    assert "needs your consent" in outcome.stderr and "--yes" in outcome.stderr
    assert hub_model("repl", "--yes", stdin="a cat\n").code == 0


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the answer of a user at a terminal."""

    class Terminal:
        def __init__(self, answer: str) -> None:
            self._answer = answer

        def readline(self) -> str:
            return self._answer

    monkeypatch.setattr(downloads, "can_ask", lambda: True)
    return lambda answer: monkeypatch.setattr(sys, "stdin", Terminal(answer))


@pytest.mark.parametrize("answer", ["y\n", "YES\n", " yes"])
def test_a_user_who_agrees(typed: Callable[[str], None], answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    typed(answer)
    require_consent(LARGE, LoadSettings(model=MODEL))
    assert capsys.readouterr() == ("", f"Download {MODEL} (35.1 GB)? [y/N] ")


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "maybe\n"])
def test_anything_but_yes_means_no(typed: Callable[[str], None], answer: str) -> None:
    typed(answer)
    with pytest.raises(CheckpointError, match="was not downloaded"):
        require_consent(LARGE, LoadSettings(model=MODEL))


def test_a_session_asks_before_its_prompt_appears(
    typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_checkpoint(model: str, *, on_plan: Callable[[DownloadPlan], None]) -> None:
        on_plan(LARGE)
        raise AssertionError("the download must not start before the session")

    monkeypatch.setattr(downloads, "find_checkpoint", find_checkpoint)
    typed("y\n")
    assert ask_before_session(LoadSettings(model=MODEL)).yes
    typed("n\n")
    with pytest.raises(CheckpointError, match="was not downloaded"):
        ask_before_session(LoadSettings(model=MODEL))
    for settings in (LoadSettings(), LoadSettings(model="/mine"), LoadSettings(model="demo")):
        assert not ask_before_session(settings).yes


def test_a_session_asks_about_a_file_of_weights(typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that file is asked about: of its model, few megabytes are needed."""
    asked: list[str] = []

    def find_weights_file(name: str, *, on_plan: Callable[[DownloadPlan], None]) -> None:
        asked.append(name)
        on_plan(LARGE)

    monkeypatch.setattr(downloads, "find_weights_file", find_weights_file)
    typed("y\n")
    assert ask_before_session(LoadSettings(model=MODEL, weights="owner/name/file.gguf")).yes
    typed("n\n")
    with pytest.raises(CheckpointError, match="was not downloaded"):
        ask_before_session(LoadSettings(model="/mine", weights="owner/name/file.gguf"))
    assert asked == ["owner/name/file.gguf"] * 2


@pytest.mark.parametrize("agrees", [True, False])
def test_a_model_that_loads_in_the_background_waits_for_the_answer(
    hub_model: Program, typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    """As after /set in a session, whose prompt is on the screen: the first turn that needs the model asks."""
    monkeypatch.setattr(resident_model, "can_ask", lambda: True)
    typed("y\n" if agrees else "n\n")
    source = resident_model.ResidentModel(LoadSettings(model=MODEL), "auto")
    if agrees:
        assert source.open((), TurnView(quiet=True)) is hub_model.engines[0]
        return
    with pytest.raises(CheckpointError, match="was not downloaded"):
        source.open((), TurnView(quiet=True))
    assert source.has_failed and hub_model.engines == []
