"""Every golden case of interleaved answers through the engine, within the tolerances it came with."""

from collections.abc import Callable

import pytest
import torch

from model import Engine, InterleavedAnswer, Picture, PicturePart, PrefixRead, TextPart, Trace
from model.engine import LocalEngine
from tests.parity.cases import Case, case_id, relative_difference
from tests.parity.interleaved import (
    deciding,
    has_golden,
    interleave_request,
    interleaved_cases,
    interleaved_golden,
)

CASES = interleaved_cases()
PREFIXES = {"condition": "input_ids", "images": "input_ids_text_uncond", "unconditional": "input_ids_uncond"}


def segments(answer: InterleavedAnswer) -> list[int | list[int]]:
    """Return the tokens of each stretch between pictures, and the pictures' numbers."""
    found: list[int | list[int]] = []
    for part in answer.parts:
        if isinstance(part, PicturePart):
            found.append(part.index)
        elif found and isinstance(found[-1], list):
            found[-1] += part.token_ids
        else:
            found.append(list(part.token_ids))
    return found


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_case(case: Case, parity_engine: Callable[[str, str], Engine]) -> None:
    engine = parity_engine(case["checkpoint"], "cpu")
    assert isinstance(engine, LocalEngine)
    with deciding(engine, case):
        require_golden(engine, case)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_case_on_a_gpu(case: Case, parity_engine: Callable[[str, str], Engine]) -> None:
    engine = parity_engine(case["checkpoint"], "cuda")
    assert isinstance(engine, LocalEngine)
    with deciding(engine, case):
        require_golden(engine, case)


def require_golden(engine: LocalEngine, case: Case) -> None:
    """Run a case and compare everything with the reference implementation's outputs."""
    trace = Trace()
    events = list(engine.run(interleave_request(case), trace))
    (answer,) = (event for event in events if isinstance(event, InterleavedAnswer))
    assert answer.finish == case["finish"]
    assert segments(answer) == [each.get("text_ids", each.get("picture")) for each in case["segments"]]
    texts = [part.text if isinstance(part, TextPart) else "<image>" for part in answer.parts]
    assert "".join(texts) == case["text"]
    pictures = [event for event in events if isinstance(event, Picture)]
    assert [picture.settings.seed for picture in pictures] == case["seeds"]
    for prefix in (event for event in events if isinstance(event, PrefixRead)):
        assert prefix.tokens == interleaved_golden(case, PREFIXES[prefix.branch]).shape[-1]
    assert trace.first_logits is not None
    assert relative_difference(trace.first_logits, interleaved_golden(case, "first_logits").flatten()) < 1e-3
    steps = case["args"]["num_steps"]
    for number in range(len(pictures)):
        assert relative_difference(trace.pictures[number], interleaved_golden(case, f"image{number}")) < 2e-3
        if has_golden(case, f"first_velocity{number}"):
            wanted = interleaved_golden(case, f"first_velocity{number}")
            assert relative_difference(trace.velocities[number * steps].cpu(), wanted) < 2e-3
        logits = interleaved_golden(case, f"after_logits{number}").flatten()
        assert relative_difference(trace.picture_logits[number], logits) < 1e-3
