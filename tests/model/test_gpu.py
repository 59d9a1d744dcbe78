"""On a CUDA device: the golden cases, and the number formats people use there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model import Answer, Engine, GenerateRequest, ImageSettings, Picture, Statistics
from model.network.attention import Segment, attend
from tests.parity.cases import Case, case_id, cases, golden, relative_difference, request_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


@pytest.mark.parametrize("case", cases("t2i", "edit"), ids=case_id)
def test_picture_from_the_cpus_noise(case: Case, parity_engine: Callable[[str, str], Engine]) -> None:
    request = request_of(case)
    assert isinstance(request.settings, ImageSettings)
    request = type(request)(**{**vars(request), "settings": request.settings.model_copy(update={"noise": "cpu"})})
    picture = next(
        event for event in parity_engine(case["checkpoint"], "cuda").run(request) if isinstance(event, Picture)
    )
    assert relative_difference(picture.tensor, golden(case, "image")) < 2e-3


@pytest.mark.parametrize("case", cases("describe", "chat"), ids=case_id)
def test_text(case: Case, parity_engine: Callable[[str, str], Engine]) -> None:
    events = parity_engine(case["checkpoint"], "cuda").run(request_of(case))
    answer = next(event for event in events if isinstance(event, Answer))
    assert list(answer.token_ids) == golden(case, "new_ids")[0].tolist()
    assert relative_difference(answer.first_logits, golden(case, "first_logits")[0]) < 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, device="cuda", dtype=dtype)
    events = list(engine.run(GenerateRequest("a cat", ImageSettings(size="256x256", num_steps=4))))
    picture = next(event for event in events if isinstance(event, Picture))
    assert torch.isfinite(picture.tensor).all()
    statistics = events[-1]
    assert isinstance(statistics, Statistics)
    assert 0 < statistics.peak_memory < 2**30


@pytest.mark.parametrize("cudnn", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "causal"), [(4096, False), (256, True)])
def test_no_scores_are_stored(dtype: torch.dtype, cudnn: bool, rows: int, causal: bool) -> None:
    """At the 8B's shape, over 8,500 keys; heads × N × M scores would take gigabytes."""
    q = torch.randn(1, rows, 32, 128, device="cuda", dtype=dtype).transpose(1, 2)
    k, v = (torch.randn(1, 8, 8500, 128, device="cuda", dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    attend(q, k, v, [Segment(rows, causal)])
    torch.backends.cuda.enable_cudnn_sdp(before)
    assert torch.cuda.max_memory_allocated() - held < 300 * 2**20


@pytest.mark.parametrize("name", ["u1", "u15", "a3b"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_same_seed_same_bytes(name: str, dtype: str, parity_checkpoint: Callable[[str], Path]) -> None:
    made = []
    for _ in range(2):
        engine = Engine.load(parity_checkpoint(name), device="cuda", dtype=dtype)
        events = engine.run(GenerateRequest("a cat", ImageSettings(size="512x512", num_steps=6, think=True)))
        made.append(next(event.image.tobytes() for event in events if isinstance(event, Picture)))
    assert made[0] == made[1]
