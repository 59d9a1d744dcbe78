"""Offloading: every plan gives the same pictures and texts, and failures end with clear messages."""

import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import weight_link
from config.settings import LoadSettings
from model import (
    Answer,
    DenoisingStep,
    Engine,
    GenerateRequest,
    ImageSettings,
    Notice,
    Picture,
    PrefixRead,
    Statistics,
    Trace,
    loaded_model,
)
from model.checkpoint import loader, tensor_files
from model.checkpoint.named_lora import NamedLora
from model.checkpoint.random_weights import SHAPES, config_fields
from model.devices import host_memory
from model.errors import CheckpointError, DeviceError, DeviceMemoryError
from model.memory import estimate, offload, weight_stream
from model.memory.estimate import (
    ALL_RESIDENT,
    OffloadPlan,
    Weights,
    Workload,
    peak_bytes,
    working_bytes,
)
from model.network.cache import CAPACITY_STEP, KVCache, ScratchCache
from model.network.configuration import parse_config, read_config
from model.requests import AnswerRequest, EditRequest, Message, Request
from model.sampling import backend
from model.sampling import prefill as prefill_module
from tests.parity.cases import Case, case_id, cases, golden, relative_difference, request_of
from tests.waiting import PATIENCE

GIB = 2**30


def turns(side: int) -> list[Request]:
    """Return requests of every kind, with square pictures."""
    red, blue = (Image.new("RGB", (side, side), color) for color in ("red", "blue"))
    quick = ImageSettings(size=f"{side}x{side}", num_steps=2)
    return [
        GenerateRequest("a cute cat", quick.model_copy(update={"think": True, "num_images": 2})),
        AnswerRequest("What is this?", (red,)),
        EditRequest("change the background to green", (red,), quick),
        GenerateRequest("a cute cat", quick.model_copy(update={"cfg_scale": 1.0})),
        AnswerRequest("What can you do?"),
        EditRequest("put the circle on the square", (red, blue), quick.model_copy(update={"img_cfg_scale": 2.0})),
    ]


TURNS = turns(64)
PLANS = {
    "module": OffloadPlan("module", 6, 6, whole_head=True),
    "all layers": OffloadPlan("layers", 6, 6, whole_head=False, head_buffers=2),
    "some layers": OffloadPlan("layers", 4, 4, whole_head=False),
    "two layers": OffloadPlan("layers", 2, 2, whole_head=False),
    # As if a layer of one tower were larger than one of the other.
    "fewer for text": OffloadPlan("layers", 5, 3, whole_head=False),
    "more for text": OffloadPlan("layers", 3, 6, whole_head=False, head_buffers=14),
}
SOME_CASES = list({(case["checkpoint"], case["task"]): case for case in reversed(cases("t2i", "edit"))}.values())


def results(engine: Engine, requests: list[Request]) -> list[object]:
    """Return the bytes of pictures, and the texts."""
    found: list[object] = []
    for request in requests:
        trace = Trace()
        for event in engine.run(request, trace):
            if isinstance(event, Picture):
                found.append(trace.pictures[-1].numpy().tobytes())
            if isinstance(event, Answer):
                found.append(event.text)
    return found


@pytest.fixture
def load_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """A function that loads the demo, or another checkpoint, with a given offload plan."""

    def load(offload_plan: OffloadPlan, model: str | Path = "demo", **options: Any) -> Engine:
        monkeypatch.setattr(loaded_model, "choose_offload_plan", lambda *_: offload_plan)
        monkeypatch.setattr(offload, "HEAD_CHUNK_BYTES", 2**16)  # many chunks
        # A layer takes several reads.
        monkeypatch.setattr(offload, "WeightStream", partial(weight_stream.WeightStream, read_bytes=500_000))
        return Engine.load(model, **{"device": "cpu", **options})

    return load


@pytest.mark.parametrize(
    ("quantization", "names", "requests"),
    [
        ("off", tuple(PLANS), TURNS),
        ("fp8", ("some layers",), TURNS[1:4]),
        ("fp8-all", ("two layers",), TURNS[1:4]),
        ("int8", ("module",), TURNS[1:4]),
        ("int8-all", ("all layers", "more for text"), TURNS[1:4]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_plan_gives_the_same(
    load_with: Callable[..., Engine], quantization: str, names: tuple[str, ...], requests: list[Request]
) -> None:
    """With eight-bit weights, three requests use all of them: an answer, an edit, and a picture without guidance."""
    expected = results(load_with(ALL_RESIDENT, quantization=quantization), requests)
    assert len(expected) == len(requests) + (requests is TURNS)  # one of them makes two pictures
    for name in names:
        assert results(load_with(PLANS[name], quantization=quantization), requests) == expected, name


@pytest.mark.parametrize(("quantization", "name"), [("fp8-all", "two layers"), ("int8-all", "module")])
def test_quantized_experts_give_the_same_in_every_plan(
    load_with: Callable[..., Engine], parity_checkpoint: Callable[[str], Path], quantization: str, name: str
) -> None:
    folder, requests = parity_checkpoint("a3b"), TURNS[3:5]
    options: dict[str, Any] = {"quantization": quantization, "dtype": "bfloat16"}
    expected = results(load_with(ALL_RESIDENT, folder, **options), requests)
    assert len(expected) == 2
    assert results(load_with(PLANS[name], folder, **options), requests) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("quantization", ["off", "fp8-all", "int8-all"])
def test_every_plan_gives_the_same_on_a_gpu(
    load_with: Callable[..., Engine], quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures in halves and pictures with think text, too."""
    from model.backends import cuda

    monkeypatch.setattr(cuda, "HALVES_FROM_TOKENS", 64)
    monkeypatch.setattr(cuda, "HALF_STEP", 16)
    requests = turns(256)
    expected = results(load_with(ALL_RESIDENT, quantization=quantization, device="cuda"), requests)
    for name, offload_plan in PLANS.items():
        assert results(load_with(offload_plan, quantization=quantization, device="cuda"), requests) == expected, name


@pytest.mark.parametrize("case", SOME_CASES, ids=case_id)
def test_pictures_of_the_reference(case: Case, load_with: Callable[..., Engine], parity_checkpoint: Any) -> None:
    """With experts, too."""
    engine = load_with(PLANS["two layers"], parity_checkpoint(case["checkpoint"]), dtype="float32")
    trace = Trace()
    list(engine.run(request_of(case), trace))
    assert relative_difference(trace.pictures[0], golden(case, "image")) < 2e-3


def test_a_cancelled_turn_changes_nothing(load_with: Callable[..., Engine]) -> None:
    expected = results(load_with(ALL_RESIDENT), TURNS[:2])
    engine = load_with(PLANS["two layers"])
    for kind in (PrefixRead, DenoisingStep):
        for request in TURNS:
            events = engine.run(request)
            for event in events:
                if isinstance(event, kind):
                    break
            events.close()  # type: ignore[attr-defined]
    assert results(engine, TURNS[:2]) == expected


def test_cached_prefixes_have_no_room_for_a_picture(load_with: Callable[..., Engine]) -> None:
    """The next turn reuses them, also after thinking, and makes the same picture."""
    engine = load_with(PLANS["some layers"], dtype="float32")
    transformer = engine._runner.model.config.transformer
    token_bytes = 2 * transformer.layers * transformer.kv_heads * transformer.head_dim * 4
    for request in (TURNS[0], TURNS[5]):
        first = results(engine, [request])
        branches = len(engine._runner.prefix_cache.lengths)
        cached = engine.cached_bytes
        assert cached <= (engine.cached_tokens + branches * CAPACITY_STEP) * token_bytes
        read = [event for event in engine.run(request) if isinstance(event, PrefixRead)]
        assert [event.reused for event in read] == [event.tokens for event in read] and len(read) == branches
        assert engine.cached_bytes == cached
        assert results(engine, [request]) == first


def test_loras_are_replaced(load_with: Callable[..., Engine], tmp_path: Path) -> None:
    """The LoRA changes offloaded weights and weights that stay on the device."""
    plain, request = load_with(ALL_RESIDENT), TURNS[2:3]
    tensors = {}
    for name, tensor in tensor_files.stored_tensors(plain.checkpoint).items():
        if ("layers.1." in name and name.endswith("_proj_mot_gen.weight")) or "timestep_embedder.mlp.0.weight" in name:
            out_features, in_features = tensor.shape
            layer = name.removesuffix(".weight")
            tensors[f"{layer}.lora_down.weight"] = torch.full((2, in_features), 0.01)
            tensors[f"{layer}.lora_up.weight"] = torch.full((out_features, 2), 0.5)
    save_file(tensors, tmp_path / "style.safetensors")
    lora = str(tmp_path / "style.safetensors")
    loras = [NamedLora(lora)]
    without = results(plain, request)
    plain.use_loras(loras)
    merged = results(plain, request)
    assert merged != without
    engine = load_with(PLANS["some layers"])
    engine.use_loras(loras)
    assert results(engine, request) == merged
    engine.use_loras([])
    assert results(engine, request) == without
    assert results(load_with(PLANS["module"], lora=lora), request) == merged


@pytest.mark.parametrize("tensor", [offload.EMBEDDING, offload.HEAD])
def test_a_lora_of_tensors_that_are_read_in_parts(
    load_with: Callable[..., Engine], tmp_path: Path, tensor: str
) -> None:
    layer = tensor.removesuffix(".weight")
    save_file(
        {f"{layer}.lora_down.weight": torch.ones(1, 256), f"{layer}.lora_up.weight": torch.ones(855, 1)},
        tmp_path / "words.safetensors",
    )
    lora = str(tmp_path / "words.safetensors")
    with pytest.raises(CheckpointError, match=f"read in parts here:\n  {tensor}") as raised:
        load_with(PLANS["two layers"], lora=lora)
    assert raised.value.hint == "use `offload=off`"


def test_a_disk_that_fails_during_a_turn(load_with: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn fails. When the disk works again, so does the next turn."""
    engine = load_with(PLANS["two layers"])
    expected = results(engine, TURNS[:1])
    reads = 0
    preadv = tensor_files.os.preadv

    def broken(*arguments: Any) -> int:
        nonlocal reads
        reads += 1
        if reads > 100:
            raise OSError(5, "Input/output error")
        return preadv(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(tensor_files.os, "preadv", broken)
        with pytest.raises(CheckpointError, match="cannot be read: Input/output error"):
            results(engine, TURNS[:1])
    assert results(engine, TURNS[:1]) == expected


def test_a_file_that_is_truncated_meanwhile(
    load_with: Callable[..., Engine], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    engine = load_with(OffloadPlan("layers", 2, 2, whole_head=False), folder)
    with next(folder.glob("*.safetensors")).open("r+b") as file:
        file.truncate(200_000)
    with pytest.raises(CheckpointError, match="ends in the middle of"):
        results(engine, TURNS[:1])


def test_only_a_few_layers_are_in_memory(load_with: Callable[..., Engine]) -> None:
    engine = load_with(PLANS["two layers"], dtype="float32")
    network = engine._runner.model.network
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in network.parameters()}
    storages |= {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in network.buffers()}
    weights = Weights.of(network.config, 4)
    held = sum(storages.values())
    assert held < weights.on_device(ALL_RESIDENT) / 2
    assert held == pytest.approx(weights.on_device(PLANS["two layers"]), rel=0.01)
    assert held == pytest.approx(2 * weights.gen_layer + weights.rest, rel=0.01)


@pytest.mark.parametrize(
    ("name", "layers", "head"),
    [
        ("all layers", 0, True),
        ("some layers", 4, True),
        ("two layers", 6, True),
        ("fewer for text", 5, True),
        ("more for text", 0, False),
        ("module", 0, False),
    ],
)
def test_layers_that_are_reloaded_for_a_text(
    load_with: Callable[..., Engine], name: str, layers: int, head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pass loads the layers and the chunks of `lm_head` that share buffers. The others stay, until a picture is
    drawn."""
    engine = load_with(PLANS[name])
    results(engine, TURNS[4:5])
    read: set[str] = set()
    fetched = weight_stream.WeightStream._fetched

    def recorded(self: weight_stream.WeightStream, piece: Any) -> Any:
        read.add(piece.part.tensor.name)
        return fetched(self, piece)

    monkeypatch.setattr(weight_stream.WeightStream, "_fetched", recorded)

    def layers_read(tower: str) -> set[str]:
        matrices = [tensor for tensor in read if ".layers." in tensor and ("_mot_gen" in tensor) == (tower == "gen")]
        read.clear()
        return {tensor.split(".")[3] for tensor in matrices}

    engine.clear_cache()
    results(engine, TURNS[4:5])
    assert any(tensor.startswith(offload.HEAD) for tensor in read) == head
    assert len(layers_read("und")) == layers
    results(engine, TURNS[3:4])
    assert len(layers_read("gen")) == 6
    results(engine, TURNS[4:5])
    assert len(layers_read("und")) == 6


def test_a_text_that_repeats_takes_fewer_passes(load_with: Callable[..., Engine]) -> None:
    """A question that was answered before is answered by tokens of the prompt."""
    resident, engine = load_with(ALL_RESIDENT), load_with(PLANS["two layers"])
    asked = AnswerRequest("What can you do?")
    for _ in range(2):
        expected, found = (list(each.run(asked)) for each in (resident, engine))
        answer, statistics = found[-2:]
        assert isinstance(answer, Answer) and isinstance(statistics, Statistics)
        assert answer == expected[-2]
        history = (Message("user", asked.prompt), Message("assistant", answer.text))
        asked = replace(asked, history=history)
    assert 0 < statistics.text_passes < statistics.new_tokens / 2
    assert expected[-1].text_passes == 0  # type: ignore[union-attr]


def test_threads_end_with_the_engine(load_with: Callable[..., Engine]) -> None:
    def readers() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("stream weights")}

    before = readers()
    engine = load_with(PLANS["two layers"])
    results(engine, TURNS[:1])
    own = readers() - before
    assert own
    del engine
    for thread in own:
        thread.join(PATIENCE)
    assert not own & readers()


def test_offloaded_weights_are_checked(load_with: Callable[..., Engine], tmp_path: Path, tiny_checkpoint: Path) -> None:
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    name = "language_model.model.layers.1.mlp_mot_gen.up_proj.weight"
    tensors[name][0, 0] = torch.nan
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=f"1 tensors contain NaN or infinity:\n  {name}"):
        load_with(OffloadPlan("module", 3, 3, whole_head=True), folder, check_weights=True)


def test_a_larger_request_reloads_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory fits all weights and a small picture. A large picture needs a reload, and later requests keep its plan."""
    monkeypatch.setattr(estimate, "SPARE_BYTES", 0)
    config = read_config(Engine.load("demo", device="cpu").checkpoint)
    weights = Weights.of(config, 4)
    small = peak_bytes(config, weights, ALL_RESIDENT, Workload(64, (600, 600)), 4)
    engine = Engine.load("demo", device="cpu", dtype="float32", gpu_memory=f"{-(-small // 2**10)}KiB")
    assert engine.weights_summary == ""
    expected = results(Engine.load("demo", device="cpu", dtype="float32", offload="off"), TURNS[:1])
    large = GenerateRequest("a cat", ImageSettings(size="352x352", num_steps=1))
    notices = [event.text for event in engine.run(large) if isinstance(event, Notice)]
    assert any(text.startswith("reloaded with more offloading to make room: offload ") for text in notices)
    assert engine.weights_summary.startswith("offload ")
    assert results(engine, TURNS[:1]) == expected


def test_memory_is_reserved_for_the_first_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    load = loaded_model.LoadedModel.load

    def recorded(self: loaded_model.LoadedModel, work: Workload, *arguments: Any) -> None:
        asked.append(work.image_tokens)
        load(self, work, *arguments)

    monkeypatch.setattr(loaded_model.LoadedModel, "load", recorded)
    small, large = (GenerateRequest("a cat", ImageSettings(size=size)) for size in ("64x64", "128x64"))
    Engine.load("demo", device="cpu", requests=[small, large])
    Engine.load("demo", device="cpu", requests=[small])
    Engine.load("demo", device="cpu", size="96x64")
    Engine.load("demo", device="cpu", requests=[AnswerRequest("hello")])
    Engine.load("demo", device="cpu")
    assert asked == [8, 4, 6, 0, 64]


def test_memory_that_runs_out_in_spite_of_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.load("demo", device="cpu", offload="off")

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(engine._runner.model.network, "predict", full)
        with pytest.raises(DeviceMemoryError) as raised:
            results(engine, TURNS[:1])
    assert raised.value.hint is not None and raised.value.hint.startswith("use `offload=module`, or ask for a smaller")
    assert len(results(engine, TURNS[:1])) == 2


def refuse_locked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Make the host refuse page-locked memory. Return a list that records whether each allocation asked for it."""
    empty, asked = torch.empty, list[bool]()

    def refused(*arguments: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        asked.append(pin_memory)
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory\nmore")
        return empty(*arguments, **options)

    monkeypatch.setattr(torch, "empty", refused)
    return asked


def test_no_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one refusal, weights are read into other memory, and a notice says so."""
    opened = tensor_files.stored_tensors(Engine.load("demo", device="cpu").checkpoint)
    reading = weight_stream.WeightStream(opened, torch.device("cpu"))
    reading._page_locked = True
    asked = refuse_locked(monkeypatch)
    for _ in range(2):
        assert len(reading._new_buffer()) == weight_stream.READ_BYTES
    assert asked == [True, False, False]
    assert reading.note is not None and reading.note.endswith("(CUDA error: out of memory)")


def test_memory_of_a_host_that_locks_none(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locked(monkeypatch)
    memory, note = host_memory(24, page_locked=True)
    assert (memory.shape, memory.dtype) == ((24,), torch.uint8)
    assert note is not None and note.startswith("the host gives no page-locked memory")
    assert host_memory(24, page_locked=False)[1] is None


def test_no_locked_memory_to_load_with(load_with: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading also works without page-locked memory."""
    expected = results(load_with(ALL_RESIDENT), TURNS[1:2])
    read_chunks = tensor_files.read_chunks
    monkeypatch.setattr(loader, "read_chunks", lambda parts, use, pinned: read_chunks(parts, use, pinned=True))
    asked = refuse_locked(monkeypatch)
    for offload_plan in (ALL_RESIDENT, PLANS["two layers"]):
        asked.clear()
        engine = load_with(offload_plan)
        assert True in asked
        assert results(engine, TURNS[1:2]) == expected


def test_a_notice_when_more_memory_is_needed_than_allowed() -> None:
    """`off` and `module` are used even then. The notice is shown once, with the first request."""
    engine = Engine.load("demo", device="cpu", dtype="float32", offload="module", gpu_memory="20MiB")
    notices = [[event.text for event in engine.run(TURNS[4]) if isinstance(event, Notice)] for _ in range(2)]
    assert [len(texts) for texts in notices] == [1, 0]
    assert re.fullmatch(
        r"`offload` module needs \d+ MiB for this, more than the 20 MiB that are allowed", notices[0][0]
    ), notices


def test_apples_gpus_do_not_offload(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="`offload` layers is for NVIDIA's GPUs and for CPUs"):
        loaded_model.LoadedModel(
            Path("x"),
            parse_config(config_fields(**SHAPES["u1-8b"]), "x"),
            torch.device("mps"),
            LoadSettings(dtype="float16", offload="layers"),
        )


@pytest.mark.parametrize("turn", [TURNS[3], TURNS[5]], ids=["one branch", "three branches"])
def test_keys_and_values_take_the_estimated_memory(
    load_with: Callable[..., Engine], turn: GenerateRequest | EditRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of 256 tokens, in float32."""

    def watched(kind: type[Any]) -> Callable[..., KVCache | ScratchCache]:
        def make(*arguments: Any) -> KVCache | ScratchCache:
            caches.append(kind(*arguments))
            return caches[-1]

        return make

    caches: list[KVCache | ScratchCache] = []
    monkeypatch.setattr(prefill_module, "KVCache", watched(KVCache))
    monkeypatch.setattr(backend, "ScratchCache", watched(ScratchCache))
    request = replace(turn, settings=turn.settings.model_copy(update={"size": "512x512", "num_steps": 1}))
    measured, estimated = [], []
    for offload_plan in (ALL_RESIDENT, PLANS["some layers"]):
        engine = load_with(offload_plan, dtype="float32")
        caches.clear()
        lengths = []
        for event in engine.run(request):
            if isinstance(event, PrefixRead):
                lengths.append(event.tokens)
            if isinstance(event, DenoisingStep):
                measured.append(sum(cache.nbytes for cache in caches))
        work = Workload(256, tuple(lengths))
        estimated.append(working_bytes(engine._runner.model.config, work, 4, offload_plan is not ALL_RESIDENT))
    assert measured[0] > measured[1]
    assert measured[0] - measured[1] == estimated[0] - estimated[1]


def test_nothing_is_written_to_released_buffers(
    load_with: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload allocates new buffers. Loads in progress must not write to the old ones."""
    engine = load_with(PLANS["two layers"])
    results(engine, TURNS[:1])  # its end starts to load the next layers
    buffers = [layer.buffer for layer in engine._runner.model.network.gen.blocks._layers[:2]]
    read = weight_stream.read_piece

    def slowly(*arguments: Any) -> torch.Tensor:
        time.sleep(0.05)
        return read(*arguments)

    monkeypatch.setattr(weight_stream, "read_piece", slowly)
    engine._runner.model.network.und.blocks._start_pass()
    engine._runner.model.release()
    before = [buffer.memory.clone() for buffer in buffers]
    time.sleep(0.5)
    assert all(torch.equal(buffer.memory, held) for buffer, held in zip(buffers, before, strict=True))


def test_the_benchmark_of_the_weight_link(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It measures all settings, and each reads the generation tower's matrices."""
    report = tmp_path / "link.json"
    arguments = [str(tiny_checkpoint), "--device", "cpu", "--pieces", "1", "2", "--readers", "1", "3", "--passes", "1"]
    monkeypatch.setattr(sys, "argv", ["weight_link", *arguments, "--json", str(report)])
    read: list[tuple[int, int, int]] = []
    fetched = weight_stream.WeightStream._fetched

    def counted(self: weight_stream.WeightStream, piece: Any) -> Any:
        read.append((self._read_bytes, self._readers, piece.nbytes))
        return fetched(self, piece)

    monkeypatch.setattr(weight_stream.WeightStream, "_fetched", counted)
    weight_link.main()
    report_data = json.loads(report.read_text())
    settings = [(mebibytes * 2**20, readers) for mebibytes in (1, 2) for readers in (1, 3)]
    assert [(row["piece_bytes"], row["readers"]) for row in report_data["rows"]] == settings
    assert (
        all(row["bytes_per_second"] > 0 for row in report_data["rows"]) and report_data["link_bytes_per_second"] is None
    )
    itemsize = tensor_files.stored_tensors(tiny_checkpoint)[offload.HEAD].dtype.itemsize
    towers = Weights.of(read_config(tiny_checkpoint), itemsize).towers
    for setting in settings:
        counts = [count for *of, count in read if tuple(of) == setting]
        assert max(counts) <= setting[0] and sum(counts) == towers  # half of them, once to warm up and once timed
