"""Short ways to write sessions in tests, and to read their files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from config.settings import ImageSettings
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.sessions.entries import AnswerTurn, PictureTurn, Redo, Set, Stage, Undo, Use, UseProfile
from sensenova_cli.sessions.saved import SavedSession
from sensenova_cli.sessions.session import Session

MODEL = "SenseNova/SenseNova-U1-8B-MoT"
ROOT = Path(__file__).parents[2]


def record(prompt: str, seed: int, task: Any = "generate") -> PictureRecord:
    settings = ImageSettings(size="64x32", seed=seed, num_steps=4)
    return PictureRecord(task=task, prompt=prompt, settings=settings, model=MODEL, dtype="bfloat16", version="0.1.0")


def draw(session: Session, prompt: str, *seeds: int, kind: Any = "generate", **more: Any) -> PictureTurn:
    """Write the pictures of a turn, and log it."""
    pictures = tuple(
        session.add_picture(
            Image.new("RGB", (64, 32), (seed, 0, 0)), prompt=prompt, seed=seed, record=record(prompt, seed)
        )
        for seed in seeds or (42,)
    )
    turn = PictureTurn(
        turn=session.state.next_turn, kind=kind, prompt=prompt, model=MODEL, pictures=pictures, seconds=1.5, **more
    )
    session.append(turn)
    return turn


def ask(session: Session, prompt: str, answer: str = "It is a cat.", kind: Any = "describe", **more: Any) -> AnswerTurn:
    turn = AnswerTurn(
        turn=session.state.next_turn, kind=kind, prompt=prompt, model=MODEL, answer=answer, finish="end", **more
    )
    session.append(turn)
    return turn


def rich_session(name: str = "cats") -> Path:
    """Write a session with every kind of entry, and return its folder."""
    Image.new("RGB", (40, 20), "teal").save("outside.jpg")
    with Session.open(name, MODEL) as session:
        draw(session, "A cat", 7, 8, typed={"size": "16:9"}, think_text="First the cat.")
        session.append(Use(picture=2))
        draw(session, "red", 9, kind="edit", inputs=(2,))
        session.append(Set(settings={"num_steps": 4, "cfg_interval": [0.1, 0.9]}))
        session.append(Stage(staged=(session.import_picture("outside.jpg").number,)))
        ask(session, "Which of them?", inputs=(4,))
        session.append(Undo())
        session.append(Redo())
        session.append(UseProfile(profile="draft"))
        draw(session, "again", 10, status="cancelled", reason="interrupted")
        folder = session.folder
    assert folder is not None
    return folder


def file_of(folder: Path) -> Path:
    return folder / "session.jsonl"


def problems(saved: SavedSession) -> list[str]:
    return [f"{Path(problem.place).name}: {problem.what}" for problem in saved.problems]


def script(code: str, *words: str) -> subprocess.Popen[str]:
    """Start a Python process that runs `code` after imports; its stdin and stdout are pipes."""
    head = (
        "import os, sys\nfrom sensenova_cli.sessions.session import Session\n"
        "from tests.repl.sessions import MODEL, ask, draw\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
