"""The engine's errors: cancelled requests, memory that runs out, NaN, and unusable input."""

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from config.errors import SettingsError
from model import (
    AnswerRequest,
    CheckpointError,
    DenoisingStep,
    DeviceMemoryError,
    EditRequest,
    Engine,
    GenerateRequest,
    PictureError,
    RequestError,
    TextSettings,
)
from model.checkpoint.random_weights import byte_tokenizer
from model.checkpoint.writer import write_tokenizer
from model.errors import DeviceError, NumericsError
from model.network.cache import CAPACITY_STEP, KVCache
from model.sampling import prefill as prefill_module
from tests.model.test_engine import PICTURE, SMALL, count_passes, picture, small


def test_closing_the_stream_cancels(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_passes(engine, monkeypatch)
    stream = engine.run(GenerateRequest("a cat", small(num_steps=50)))
    for event in stream:
        if isinstance(event, DenoisingStep) and event.step == 2:
            break
    assert isinstance(stream, Iterator)
    stream.close()  # type: ignore[attr-defined]
    assert len(calls) == 4
    assert not torch.is_inference_mode_enabled()
    assert picture(engine, GenerateRequest("a cat", SMALL)).image.size == (64, 96)


def test_a_cancelled_request_frees_its_memory(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.clear_cache()
    caches = watch_caches(monkeypatch)
    stream = engine.run(GenerateRequest("a cat", SMALL))
    for event in stream:
        if isinstance(event, DenoisingStep):
            break
    assert [cache() is not None for cache in caches] == [True, True]
    stream.close()  # type: ignore[attr-defined]
    capacities = [cache().capacity for cache in caches]  # type: ignore[union-attr]
    assert sum(capacities) < engine.cached_tokens + 2 * CAPACITY_STEP, "the picture's room is given back"
    engine.clear_cache()
    assert [cache() for cache in caches] == [None, None]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_out_of_memory_gives_a_hint_and_caches_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    engine.clear_cache()
    caches = watch_caches(monkeypatch)

    def full(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(engine._runner.model.network, "predict", full)
        with pytest.raises(DeviceMemoryError, match="smaller picture") as caught:
            list(engine.run(GenerateRequest("a cat", SMALL)))
        assert [cache() for cache in caches] == [None, None]
        del caught
    assert picture(engine, GenerateRequest("a cat", SMALL)).image.size == (64, 96)


@pytest.mark.parametrize(
    ("part", "function"),
    [
        ("und", "write_heads"),
        ("gen", "norm"),
        ("gen", "write_heads"),
        ("gen", "attend"),
        ("gen", "project_gated"),
        ("fm_head", "forward"),
    ],
)
def test_an_error_that_is_kept_keeps_no_memory(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, part: str, function: str
) -> None:
    """Frames of the error had KV caches, activations and the network. The error must not hold any of them."""
    engine = Engine.load(tiny_checkpoint, device="cpu")
    network = weakref.ref(engine._runner.model.network)
    caches = watch_caches(monkeypatch)
    activations: list[weakref.ref[Any]] = []

    def full(*arguments: Any) -> None:
        tensors = [getattr(each, "residual", each) for each in arguments]
        activations.extend(weakref.ref(each.untyped_storage()) for each in tensors if isinstance(each, torch.Tensor))
        raise MemoryError

    module = engine._runner.model.network.get_submodule(part)
    with monkeypatch.context() as patched:
        patched.setattr(getattr(module, "operations", module), function, full)
        with pytest.raises(DeviceMemoryError) as caught:
            list(engine.run(GenerateRequest("a cat", SMALL)))
    assert caches and all(cache() is None for cache in caches)
    assert activations and all(storage() is None for storage in activations)
    del module
    engine.close()
    assert network() is None
    del caught


def test_other_errors_are_not_out_of_memory(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(engine._runner.model.network, "predict", broken)
    with pytest.raises(NotImplementedError):
        list(engine.run(GenerateRequest("a cat", SMALL)))


def watch_caches(monkeypatch: pytest.MonkeyPatch) -> list["weakref.ref[KVCache]"]:
    caches: list[weakref.ref[KVCache]] = []

    def watched(*arguments: Any) -> KVCache:
        cache = KVCache(*arguments)
        caches.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(prefill_module, "KVCache", watched)
    return caches


def test_a_picture_of_nan_is_an_error(tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, device="cpu", dtype="float32")
    engine._runner.model.network.fm_head.second.bias[0] = torch.nan
    with pytest.raises(NumericsError, match="NaN"):
        list(engine.run(GenerateRequest("a cat", SMALL)))


@pytest.mark.parametrize("sampled", [False, True])
def test_an_answer_of_nan_is_an_error(tiny_checkpoint: Path, sampled: bool) -> None:
    engine = Engine.load(tiny_checkpoint, device="cpu", dtype="float32")
    engine._runner.model.network.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="the text came out as NaN"):
        list(engine.run(AnswerRequest("hello", settings=TextSettings(do_sample=sampled))))


def test_a_damaged_config_is_reported_before_the_tokenizer(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    (folder / "config.json").write_text("{bad")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        Engine.load(folder, device="cpu")


@pytest.mark.parametrize("size", [(0, 64), (3000, 2)])
def test_pictures_of_an_unusable_shape(engine: Engine, size: tuple[int, int]) -> None:
    with pytest.raises(PictureError, match=f"is {size[0]}x{size[1]} pixels"):
        list(engine.run(EditRequest("red", (Image.new("RGB", size),), SMALL)))


def test_requests_are_checked() -> None:
    with pytest.raises(RequestError, match="prompt is empty"):
        GenerateRequest("  ")
    with pytest.raises(RequestError, match="at least one picture"):
        EditRequest("red", ())
    with pytest.raises(RequestError, match="cfg_zero_star"):
        EditRequest("red", (PICTURE,), small(cfg_norm="cfg_zero_star"))
    with pytest.raises(RequestError, match="not UTF-8"):
        GenerateRequest("a cat \udcff")
    with pytest.raises(RequestError, match="NUL"):
        AnswerRequest("a\0b")
    with pytest.raises(RequestError, match="system message"):
        AnswerRequest("a", system="\udcff")
    with pytest.raises(RequestError, match="largest seed"):
        GenerateRequest("a cat", small(seed=2**63 - 1, num_images=2))
    for wrong in (-1, 1.5, True, "5", None):
        with pytest.raises(RequestError, match="preview_every is"):
            GenerateRequest("a cat", preview_every=wrong)  # type: ignore[arg-type]
        with pytest.raises(RequestError, match="preview_size is"):
            EditRequest("red", (PICTURE,), preview_size=wrong)  # type: ignore[arg-type]


def test_no_such_device(tiny_checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match="cuda:63 is not there"):
        Engine.load(tiny_checkpoint, device="cuda:63")


def test_no_such_kind_of_device(tiny_checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match="device='gpu'"):
        Engine.load(tiny_checkpoint, device="gpu")
    with pytest.raises(SettingsError, match="dtype='bf16'"):
        Engine.load(tiny_checkpoint, dtype="bf16")


def test_the_device_is_checked_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be fetched for a device that is not there")

    monkeypatch.setattr("model.loading.find_checkpoint", download)
    with pytest.raises(DeviceError):
        Engine.load("owner/name", device="cuda:63")


def test_a_tokenizer_of_another_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["another", "word"])
    write_tokenizer(folder, tokenizer)
    with pytest.raises(CheckpointError, match="the tokenizer has 266 tokens, but the network knows only 264"):
        Engine.load(folder, device="cpu")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Engine.load(tmp_path / "nothing")
