"""Engines of one test file: a single one, and pairs whose second engine clears its prefix cache before each request."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model import Engine


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Engine:
    """The tiny checkpoint in float32 on the CPU."""
    return Engine.load(tiny_checkpoint, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def pair(
    tiny_checkpoint: Path, parity_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Engine, Engine]]:
    """Return two engines of a checkpoint in float32: the tested one, with an empty prefix cache, and a second one."""
    engines: dict[str, tuple[Engine, Engine]] = {}

    def load(name: str) -> tuple[Engine, Engine]:
        if name not in engines:
            folder = parity_checkpoint(name) if name != "tiny" else unlimited(tiny_checkpoint, tmp_path_factory)
            first, second = (Engine.load(folder, device="cpu", dtype="float32") for _ in range(2))
            engines[name] = first, second
        engines[name][0].clear_cache()
        return engines[name]

    return load


def unlimited(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the tiny checkpoint without its recommendations: it then has the published limits of input pictures."""
    folder = Path(shutil.copytree(checkpoint, tmp_path_factory.mktemp("unlimited") / "checkpoint"))
    (folder / "recommended_settings.json").unlink()
    return folder


@pytest.fixture
def engines(pair: Callable[[str], tuple[Engine, Engine]]) -> tuple[Engine, Engine]:
    """The pair of the tiny checkpoint."""
    return pair("tiny")
