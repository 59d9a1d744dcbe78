"""Short ways to write the entries of sessions in tests."""

from typing import Any

from PIL import Image

from config.settings import ImageSettings
from sensenova_cli.outputs.png_metadata import PictureRecord
from sensenova_cli.sessions.entries import AnswerTurn, PictureTurn
from sensenova_cli.sessions.session import Session

MODEL = "SenseNova/SenseNova-U1-8B-MoT"


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
