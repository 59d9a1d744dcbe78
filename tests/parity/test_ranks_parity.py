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


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, parity_checkpoint: Callable[[str], Path]) -> Iterator[tuple[str, Engine]]:
    name, tensor, guidance = request.param
    sizes = {"tensor_parallel_size": tensor, "cfg_parallel_size": guidance}
    engine = Engine.load(parity_checkpoint(name), device="cpu", dtype="float32", **sizes)
    yield name, engine
    engine.close()


@pytest.mark.parametrize(
    ("shared", "task"), [(ranks, task) for ranks, tasks in TASKS.items() for task in tasks], indirect=["shared"]
)
def test_case(task: str, shared: tuple[str, Engine]) -> None:
    name, engine = shared
    every = {(case["checkpoint"], case["case"]): case for case in cases("t2i", "edit", "describe", "chat")}
    found = differences(engine, every[name, task])
    assert found
    for what, difference in found.items():
        assert difference < (LOGITS_BAR if what == "first logits" else PICTURE_BAR), what
