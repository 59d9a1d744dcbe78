"""The layouts that `gpus` chooses: for the published models' shapes, and on CPU processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from config.errors import SettingsError
from model import AnswerRequest, Engine, GenerateRequest, ImageSettings, Picture
from model.checkpoint.quantization import OFF
from model.checkpoint.random_weights import SHAPES, config_fields
from model.errors import DeviceError
from model.network.configuration import parse_config
from model.parallel import choose_layout as choose_layout_module
from model.parallel.choose_layout import ExpectedUse, choose_layout, choose_model_layout, count_gpus
from model.parallel.layout import ParallelLayout
from model.requests import Request

CUDA = torch.device("cuda")
EIGHT_B = parse_config(config_fields(**SHAPES["u1-8b"]), "u1-8b")
GIB = 2**30
CAT = GenerateRequest("a cat", ImageSettings(size="64x64", num_steps=2))


@pytest.mark.parametrize(
    ("gpus", "branches", "sizes"),
    [
        (2, 1, (2, 1)),  # text, or a picture without guidance
        (2, 2, (1, 2)),
        (2, 3, (1, 2)),
        (3, 3, (1, 3)),
        (4, 1, (4, 1)),
        (4, 2, (2, 2)),
        (6, 3, (2, 3)),
        (8, 2, (4, 2)),
        (16, 2, (8, 2)),
        (3, 2, None),
        (6, 1, None),
        (16, 1, None),
    ],
)
def test_branches_go_to_copies_and_the_rest_to_shards(gpus: int, branches: int, sizes: tuple[int, int] | None) -> None:
    for writes in (True, False):
        found = choose_layout(gpus, ExpectedUse(branches, writes, 0), [1, 2, 4, 8], lambda layout: True)
        assert found == (
            ParallelLayout(*sizes, splits_und=writes and sizes[1] > 1 and gpus in (2, 4, 8)) if sizes else None
        )


@pytest.mark.parametrize(("gpus", "most", "sizes"), [(2, 1, (2, 1)), (4, 1, (4, 1)), (6, 2, (2, 3)), (16, 1, (8, 2))])
def test_fewer_copies_if_they_do_not_fit(gpus: int, most: int, sizes: tuple[int, int]) -> None:
    """The fewest copies are chosen even if they do not fit: loading then reports the memory."""
    assert choose_layout(
        gpus, ExpectedUse(3, False, 0), [1, 2, 4, 8], lambda layout: layout.guidance <= most
    ) == ParallelLayout(*sizes)


@pytest.mark.parametrize(
    ("gib", "writing", "drawing"),
    [
        (79, ParallelLayout(1, 2, splits_und=True), ParallelLayout(1, 2)),
        (32, ParallelLayout(1, 2, splits_und=True), ParallelLayout(1, 2, splits_und=True)),
        (24, ParallelLayout(2, 1), ParallelLayout(2, 1)),
        (10, ParallelLayout(2, 1), ParallelLayout(2, 1)),
    ],
)
def test_an_8b_on_two_gpus(
    gib: int, writing: ParallelLayout, drawing: ParallelLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network takes 32.7 GiB, gen with half of und 24.0 GiB, and half of both 16.4 GiB."""
    monkeypatch.setattr(choose_layout_module, "usable_memory", lambda device, limit: gib * GIB)
    assert choose_model_layout(2, ExpectedUse(2, True, 4096), EIGHT_B, CUDA, 2, OFF) == writing
    assert choose_model_layout(2, ExpectedUse(2, False, 4096), EIGHT_B, CUDA, 2, OFF) == drawing


def test_numbers_of_gpus_that_cannot_share_an_8b(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_layout_module, "usable_memory", lambda device, limit: 79 * GIB)
    with pytest.raises(DeviceError, match=r"gpus 3: 32 heads .*\nfor these requests `gpus` can be 1, 2, 4, 8, 16$"):
        choose_model_layout(3, ExpectedUse(2, True, 4096), EIGHT_B, CUDA, 2, OFF)
    with pytest.raises(DeviceError, match=r"\nfor these requests `gpus` can be 1, 2, 4, 8$"):
        choose_model_layout(3, ExpectedUse(1, True, 0), EIGHT_B, CUDA, 2, OFF)


def test_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert count_gpus("all", CUDA) == 4
    assert count_gpus(2, CUDA) == 2
    with pytest.raises(DeviceError, match=r"gpus all: .*PyTorch sees no GPU here\n.*`gpus=2` and `device=cpu`"):
        count_gpus("all", torch.device("cpu"))


@pytest.mark.parametrize(
    ("requests", "layout"),
    [
        ([AnswerRequest("hello")], ParallelLayout(2, 1)),
        ([replace(CAT, settings=CAT.settings.model_copy(update={"cfg_scale": 1.0}))], ParallelLayout(2, 1)),
        ([CAT], ParallelLayout(1, 2)),
        ([AnswerRequest("hello"), CAT], ParallelLayout(1, 2, splits_und=True)),
        (None, ParallelLayout(1, 2, splits_und=True)),
    ],
)
def test_the_layout_follows_the_requests(
    requests: list[Request] | None, layout: ParallelLayout, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []

    def record_layout(layout: ParallelLayout, device: torch.device) -> None:
        chosen.append(layout)
        raise DeviceError("enough", "")

    monkeypatch.setattr("model.loading.RankProcesses", record_layout)
    with pytest.raises(DeviceError, match="enough"):
        Engine.load(tiny_checkpoint, device="cpu", gpus=2, requests=requests)
    assert chosen == [layout]


@pytest.mark.slow
def test_ranks_start_with_the_chosen_layout(tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, device="cpu", gpus=2)
    try:
        assert engine.weights_summary == "shared as by `tensor_parallel_size` 1 `cfg_parallel_size` 2, text by all 2"
        assert engine.device == "cpu, 2 ranks"
        assert any(isinstance(event, Picture) for event in engine.run(CAT))
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"offload": "layers"}, "`gpus` 2: with several GPUs all weights stay on them; `offload` layers is for one"),
        ({"gpu_memory": "1GiB"}, "`gpus` 2: `gpu_memory` is for one GPU"),
        (
            {"requests": [replace(CAT, settings=CAT.settings.model_copy(update={"cache": "balanced"}))]},
            "`gpus` 2: `cache` balanced is for one GPU",
        ),
    ],
)
def test_settings_for_one_gpu_when_all_are_two(
    setting: dict[str, Any], message: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.loading.count_gpus", lambda gpus, device: 2)
    with pytest.raises(SettingsError, match=message):
        Engine.load(tiny_checkpoint, device="cpu", gpus="all", **setting)


@pytest.mark.parametrize("gpus", ["2", "some", -1, True])
def test_wrong_numbers_of_gpus(gpus: Any, tiny_checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match=f"gpus={gpus!r}: must be all or a whole number from 0 to 64"):
        Engine.load(tiny_checkpoint, device="cpu", gpus=gpus)


def test_the_largest_picture_counts(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uses = []

    def record_use(gpus: int, use: ExpectedUse, *rest: object) -> ParallelLayout:
        uses.append(use)
        raise DeviceError("enough", "")

    monkeypatch.setattr("model.loading.choose_model_layout", record_use)
    large = replace(CAT, settings=CAT.settings.model_copy(update={"size": "2048x1024", "think": True}))
    with pytest.raises(DeviceError, match="enough"):
        Engine.load(tiny_checkpoint, device="cpu", gpus=2, size="64x64", requests=[CAT, large])
    assert uses == [ExpectedUse(branches=2, writes=True, image_tokens=2048)]


def test_one_gpu_shares_nothing(tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, device="cpu", gpus=1)
    assert (engine.device, engine.weights_summary) == ("cpu", "")
