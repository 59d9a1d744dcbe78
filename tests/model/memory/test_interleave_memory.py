"""Interleaved answers whose weights or caches do not all fit: equal results, reloading, and memory that ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.settings import ImageSettings, TextSettings
from model import Engine, InterleavedAnswer, InterleaveRequest, Picture, PicturePart, TextToken, Trace
from model.engine import LocalEngine
from model.errors import DeviceMemoryError
from model.memory import estimate
from model.memory.estimate import ALL_RESIDENT, OffloadPlan, Weights, Workload, peak_bytes
from model.network.configuration import read_config
from tests.model.test_interleave import writing
from tests.parity.cases import case_id
from tests.parity.interleaved import interleave_request, interleaved_cases, scripted_checkpoint

CASES = {case_id(case): case for case in interleaved_cases()}
REQUEST = InterleaveRequest(
    "a picture book", (), ImageSettings(size="512x512", num_steps=1), TextSettings(max_tokens=20, max_images=6)
)


def results(engine: LocalEngine, request: InterleaveRequest) -> tuple[list[bytes], InterleavedAnswer]:
    """Return the pictures as the network drew them, and the answer."""
    trace = Trace()
    (answer,) = (event for event in engine.run(request, trace) if isinstance(event, InterleavedAnswer))
    return [picture.numpy().tobytes() for picture in trace.pictures], answer


OFFLOADS = ({"offload": "module"}, {"offload": "layers", "gpu_memory": "300MiB"})


@pytest.mark.parametrize("name", ["u1/two_inputs_dual", "u15/think_input", "a3b/two_pictures"])
def test_every_plan_gives_the_same(name: str, parity_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    case = CASES[name]
    folder = scripted_checkpoint(case, parity_checkpoint(case["checkpoint"]), tmp_path / "scripted")
    common: dict[str, Any] = {"device": "cpu", "dtype": "float32", "size": "128x128"}
    plain = results(Engine.load(folder, **common), interleave_request(case))
    assert len(plain[0]) == len(case["seeds"])
    for settings in OFFLOADS:
        engine = Engine.load(folder, **common, **settings)
        assert f"offload {settings['offload']}" in engine.description
        assert results(engine, interleave_request(case)) == plain


def test_every_plan_gives_the_same_with_eight_bits(
    parity_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, which quantization needs, the model's own decisions are others."""
    request = interleave_request(CASES["u1/two_inputs_dual"])
    found = []
    for settings in ({}, *OFFLOADS):
        common: dict[str, Any] = {"device": "cpu", "dtype": "bfloat16", "size": "128x128", "quantization": "fp8-all"}
        engine = Engine.load(parity_checkpoint("u1"), **common, **settings)
        with writing(monkeypatch, engine, 300, "<img>", 301, "<img>"):
            found.append(results(engine, request))
    assert len(found[0][0]) == 2
    assert found[0] == found[1] == found[2]


def budget(folder: Path, plan: OffloadPlan, pictures: int) -> str:
    """Return memory that is enough for this number of pictures of `REQUEST` with a plan."""
    config, tokens = read_config(folder), 256
    prefixes = 390 + pictures * (tokens + 2) + 20, 13 + pictures * (tokens + 2)
    workload = Workload(tokens, prefixes, 0, 390)
    return f"{peak_bytes(config, Weights.of(config, 4), plan, workload, 4) // 1024 + 1}kib"


def test_memory_that_ends_at_a_later_picture(
    parity_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = parity_checkpoint("u1")
    memory = budget(folder, OffloadPlan("layers", 2, 2, whole_head=False), 3)
    engine = Engine.load(folder, device="cpu", dtype="float32", size="64x64", offload="layers", gpu_memory=memory)
    events: list[Any] = []
    with (
        writing(monkeypatch, engine, *["<img>", 300] * 6),
        pytest.raises(DeviceMemoryError, match="of memory is too little for this: it needs at least") as raised,
    ):
        events += (event for event in engine.run(REQUEST) if events.append(event))
    assert "a smaller picture (`size=256x256`)" in raised.value.hint
    assert 3 <= sum(isinstance(event, Picture) for event in events) < 6
    assert isinstance(events[-1], TextToken)
    with writing(monkeypatch, engine, "<img>"):
        assert len(results(engine, REQUEST)[0]) == 1


def test_weights_make_room_for_a_later_picture(
    parity_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, script = parity_checkpoint("u1"), ["<img>", 300] * 4
    monkeypatch.setattr(estimate, "SPARE_BYTES", 0)
    common: dict[str, Any] = {"device": "cpu", "dtype": "float32", "size": "64x64"}
    plain = Engine.load(folder, **common)
    with writing(monkeypatch, plain, *script):
        expected = results(plain, REQUEST)
    memory = budget(folder, ALL_RESIDENT, 2)
    engine = Engine.load(folder, **common, gpu_memory=memory)
    with writing(monkeypatch, engine, *script):
        events = list(engine.run(REQUEST))
    reloads = [number for number, event in enumerate(events) if "to make room" in getattr(event, "text", "")]
    assert len(reloads) == 1
    assert sum(isinstance(event, Picture) for event in events[: reloads[0]]) in (2, 3)
    with writing(monkeypatch, engine, *script):
        assert results(engine, REQUEST) == expected
    assert sum(isinstance(part, PicturePart) for part in expected[1].parts) == 4
