"""The passes of a first request run while the weights load. Here a plain network on the CPU has a GPU's abilities."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model import Engine, GenerateRequest, ImageSettings, Picture
from model.backends.select import select_backend
from model.checkpoint.random_weights import config_fields, random_network
from model.errors import CheckpointError
from model.loaded_model import LoadedModel
from model.network.configuration import parse_config
from model.requests import FirstUse
from model.sampling import warm_up as module
from model.sampling.backend import Backend
from model.sampling.warm_up import warm_up

SIZE = (64, 96)


@pytest.fixture
def backend() -> Backend:
    """A backend whose weights are all NaN, as uninitialized memory may be."""
    fields = config_fields(
        hidden=64, layers=1, heads=2, kv_heads=1, head_dim=32, ffn=64, vocabulary=100, vision_hidden=32
    )
    network = random_network(parse_config(fields, "random"), torch.device("cpu"), torch.float32)
    for parameter in network.parameters():
        parameter.fill_(torch.nan)
    backend = select_backend(network, enforce_eager=False)
    backend.denoises_async = backend.decodes_async = True
    return backend


@pytest.fixture
def passes(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes that ran: tokens of each prefill, each decoded token, and each branch of a step."""
    ran: list[str] = []

    def recording(owner: Any, name: str, describe: Callable[..., str]) -> None:
        method = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            result = method(*arguments, **named)
            ran.append(describe(*arguments))
            return result

        monkeypatch.setattr(owner, name, call)

    recording(backend.network, "prefill", lambda hidden, *rest: f"prefill {hidden.shape[1]}")
    recording(backend.network, "predict", lambda embeddings, grid, rotaries, caches: f"step {len(caches)} {grid}")
    recording(backend, "forward_token", lambda prefix, token: "token")
    return ran


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (FirstUse(), ["prefill 512", "prefill 16", "token", "token", "step 1 (3, 2)", "step 1 (3, 2)"]),
        (FirstUse(guided=False, writes=False), ["prefill 512", "step 1 (3, 2)"]),
        (FirstUse(draws=False), ["prefill 512", "token", "token"]),
    ],
    ids=["unknown", "picture without guidance", "answer"],
)
def test_every_pass_of_the_first_request_runs_once(
    use: FirstUse, expected: list[str], backend: Backend, passes: list[str]
) -> None:
    warm_up(backend, use, SIZE, threading.Event())
    assert [each for each in passes if each != "prefill 1"] == expected


def test_a_cancelled_one_ends_before_its_next_pass(
    backend: Backend, passes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = threading.Event()
    ready = module._passes

    def cancel_after_two(*arguments: Any) -> Iterator[Callable[[], object]]:
        for number, run in enumerate(ready(*arguments)):
            if number == 2:
                cancelled.set()
            yield run

    monkeypatch.setattr(module, "_passes", cancel_after_two)
    warm_up(backend, FirstUse(), SIZE, cancelled)
    assert passes == ["prefill 512", "prefill 16"]


def test_a_pass_that_fails_is_left_to_the_first_request(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(backend.network, "predict", fail)
    warm_up(backend, FirstUse(), SIZE, threading.Event())


def test_passes_that_need_the_host_do_not_run(backend: Backend, passes: list[str]) -> None:
    backend.decodes_async = False
    warm_up(backend, FirstUse(), SIZE, threading.Event())
    assert passes == []


@pytest.fixture
def warming(monkeypatch: pytest.MonkeyPatch) -> list[tuple[FirstUse, tuple[int, int], threading.Event]]:
    """The warm-ups that loading on the CPU starts."""
    begun: list[tuple[FirstUse, tuple[int, int], threading.Event]] = []

    def record(backend: Backend, use: FirstUse, size: tuple[int, int], cancelled: threading.Event) -> None:
        begun.append((use, size, cancelled))

    monkeypatch.setattr(LoadedModel, "_warms_up", True)
    monkeypatch.setattr("model.loaded_model.warm_up", record)
    return begun


def test_loading_warms_up_what_the_requests_need(
    tiny_checkpoint: Path, warming: list[tuple[FirstUse, tuple[int, int], threading.Event]]
) -> None:
    request = GenerateRequest("a cat", ImageSettings(size="64x96", num_steps=1, cfg_scale=1.0))
    engine = Engine.load(tiny_checkpoint, device="cpu", dtype="float32", requests=[request])
    assert any(isinstance(event, Picture) for event in engine.run(request))
    ((use, size, cancelled),) = warming
    assert (use, size) == (FirstUse(guided=False, writes=False), (64, 96))
    assert not cancelled.is_set()


def test_weights_that_cannot_be_read_cancel_it(
    tiny_checkpoint: Path,
    warming: list[tuple[FirstUse, tuple[int, int], threading.Event]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: Any) -> None:
        raise CheckpointError("damaged", "fetch it again")

    monkeypatch.setattr("model.checkpoint.loader.fill", fail)
    with pytest.raises(CheckpointError, match="damaged"):
        Engine.load(tiny_checkpoint, device="cpu", dtype="float32")
    assert warming[0][2].is_set()
