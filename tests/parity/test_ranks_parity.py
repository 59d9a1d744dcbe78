"""Golden cases on two CPU ranks, within the tolerances of one process.

All cases on more layouts take minutes: `python -m benchmarks.ranks_parity`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.ranks_parity import LOGITS_BAR, PICTURE_BAR, differences
from model import Engine
from tests.parity.cases import cases

pytestmark = pytest.mark.slow
TASKS = {
    ("u15", 2, 1): ("t2i_none", "edit_two_images", "vqa_two", "chat_history"),
    ("a3b", 2, 1): ("t2i_none", "edit_dual", "chat_one"),
    ("u1", 1, 2): ("t2i_interval", "t2i_think", "edit_dual", "vqa_two", "chat_one"),
}
"""Tasks by checkpoint, tensor_parallel_size and cfg_parallel_size."""


class SharedEngine:
    """The engine of the running test. It is kept while tests ask for the same ranks, because they start slowly."""

    def __init__(self) -> None:
        self._key: object = None
        self._engine: Engine | None = None

    def get(self, folder: Path, tensor: int, guidance: int) -> Engine:
        """Return an engine with this checkpoint and these ranks."""
        if self._engine is None or self._key != (folder, tensor, guidance):
            self.close()
            sizes = {"tensor_parallel_size": tensor, "cfg_parallel_size": guidance}
            self._engine = Engine.load(folder, device="cpu", dtype="float32", **sizes)
            self._key = folder, tensor, guidance
        return self._engine

    def close(self) -> None:
        """End the ranks."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None


@pytest.fixture(scope="module")
def shared() -> Iterator[SharedEngine]:
    engine = SharedEngine()
    yield engine
    engine.close()


@pytest.mark.parametrize(("ranks", "task"), [(ranks, task) for ranks, tasks in TASKS.items() for task in tasks])
def test_case(
    ranks: tuple[str, int, int], task: str, shared: SharedEngine, parity_checkpoint: Callable[[str], Path]
) -> None:
    name, tensor, guidance = ranks
    engine = shared.get(parity_checkpoint(name), tensor, guidance)
    every = {(case["checkpoint"], case["case"]): case for case in cases("t2i", "edit", "describe", "chat")}
    found = differences(engine, every[name, task])
    assert found
    for what, difference in found.items():
        assert difference < (LOGITS_BAR if what == "first logits" else PICTURE_BAR), what
