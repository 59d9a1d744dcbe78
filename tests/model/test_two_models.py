"""Two models in one process: is there room for the second, and may the one that stays use all memory?"""

from pathlib import Path

import pytest

import model.loaded_model
import model.loading
from config.settings import LoadSettings
from model import Engine, has_room
from model.engine import LocalEngine


def settings(tiny_checkpoint: Path, **more: object) -> LoadSettings:
    return LoadSettings.model_validate({"model": str(tiny_checkpoint), "device": "cpu", "dtype": "float32", **more})


@pytest.mark.parametrize(("free", "fits"), [(2**40, True), (2**20, False), (None, False)])
def test_a_model_has_room_if_its_weights_fit_into_the_free_memory(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, fits: bool
) -> None:
    monkeypatch.setattr(model.loading, "usable_memory", lambda device, limit: free)
    assert has_room(settings(tiny_checkpoint), "64x64") is fits


def test_a_larger_picture_needs_more_room(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.loading, "usable_memory", lambda device, limit: 300 * 2**20)
    assert has_room(settings(tiny_checkpoint), "64x64")
    assert not has_room(settings(tiny_checkpoint), "4096x4096")


@pytest.mark.parametrize("more", [{"gpu_memory": "8GiB"}, {"gpus": 2}, {"tensor_parallel_size": 2}])
def test_room_beside_a_limit_or_other_ranks_is_not_known(tiny_checkpoint: Path, more: dict[str, object]) -> None:
    assert not has_room(settings(tiny_checkpoint, **more), "64x64")


def test_memory_that_another_model_has_freed_is_used(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2**30
    monkeypatch.setattr(model.loaded_model, "usable_memory", lambda device, limit: free)
    engine = Engine.load(tiny_checkpoint, device="cpu", dtype="float32", size="64x64")
    assert isinstance(engine, LocalEngine)
    before = engine._runner.model.budget
    free = 2**31
    engine.use_freed_memory()
    after = engine._runner.model.budget
    assert before == 2**30
    assert after is not None and 2**31 < after < 2**31 + 64 * 2**20
    engine.close()
