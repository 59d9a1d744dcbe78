"""Every golden case through the engine, within the tolerances it came with."""

from collections.abc import Callable

import pytest

from model import Answer, Engine, Picture, PrefixRead, Trace
from tests.parity.cases import Case, case_id, cases, golden, relative_difference, request_of

PICTURES = cases("t2i", "edit")
TEXTS = cases("describe", "chat")


def test_all_cases_are_here() -> None:
    assert len(PICTURES) + len(TEXTS) == 42


@pytest.mark.parametrize("case", PICTURES, ids=case_id)
def test_picture(case: Case, parity_engine: Callable[[str, str], Engine]) -> None:
    trace = Trace()
    events = list(parity_engine(case["checkpoint"], "cpu").run(request_of(case), trace))
    picture = next(event for event in events if isinstance(event, Picture))
    assert picture.think_text == case["think_text"]
    assert relative_difference(trace.velocities[0], golden(case, "first_velocity")) < 2e-3
    assert relative_difference(trace.pictures[0], golden(case, "image")) < 2e-3


@pytest.mark.parametrize("case", TEXTS, ids=case_id)
def test_text(case: Case, parity_engine: Callable[[str, str], Engine]) -> None:
    trace = Trace()
    events = list(parity_engine(case["checkpoint"], "cpu").run(request_of(case), trace))
    prefix = next(event for event in events if isinstance(event, PrefixRead))
    answer = next(event for event in events if isinstance(event, Answer))
    assert prefix.tokens == golden(case, "input_ids").shape[1]
    assert list(answer.token_ids) == golden(case, "new_ids")[0].tolist()
    assert trace.first_logits is not None
    assert relative_difference(trace.first_logits, golden(case, "first_logits")[0]) < 1e-3
