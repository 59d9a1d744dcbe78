"""Golden cases of interleaved answers on two and four CPU ranks, within the tolerances of one process."""

from collections.abc import Callable
from contextlib import closing
from itertools import takewhile
from pathlib import Path

import pytest

from benchmarks.ranks_parity import layout_settings
from model import DenoisingStep, Engine
from tests.parity.cases import case_id
from tests.parity.interleaved import interleave_request, interleaved_cases, scripted_checkpoint
from tests.parity.test_interleave_parity import require_golden

pytestmark = pytest.mark.slow
CASES = {case_id(case): case for case in interleaved_cases()}


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("2x1", "u1/two_pictures"),
        ("1x2", "u1/two_inputs_dual"),
        ("gpus2", "u15/think_input"),
        ("2x2", "u15/two_pictures"),
        ("gpus4", "a3b/one_input_global"),
    ],
)
def test_case(layout: str, name: str, parity_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    case = CASES[name]
    folder = scripted_checkpoint(case, parity_checkpoint(case["checkpoint"]), tmp_path / "scripted")
    request = interleave_request(case)
    settings = {"device": "cpu", "dtype": "float32", **layout_settings(layout)}
    with closing(Engine.load(folder, requests=[request], **settings)) as engine:
        with closing(engine.run(request)) as events:  # cancelled inside the first picture
            before = list(takewhile(lambda event: not isinstance(event, DenoisingStep), events))
        assert before
        require_golden(engine, case)
