"""Weights that come and go: the same pictures and texts from every placement, and clear ends where it cannot go on."""

import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import weight_link
from config.errors import SettingsError
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
    Trace,
    loaded_model,
)
from model.checkpoint import loader, safetensors_files
from model.checkpoint.named_lora import NamedLora
from model.checkpoint.random_weights import SHAPES, config_fields
from model.devices import host_memory
from model.errors import CheckpointError, DeviceError, DeviceMemoryError
from model.memory import estimate, offload, weight_stream
from model.memory.estimate import (
    ALL_RESIDENT,
    SPARE_BYTES,
    USUAL_PREFIXES,
    OffloadPlan,
    Weights,
    Workload,
    choose_offload_plan,
    peak_bytes,
    working_bytes,
)
from model.memory.layer_buffers import RING, buffer_numbers
from model.network.cache import CAPACITY_STEP, KVCache, ScratchCache
from model.network.configuration import parse_config, read_config
from model.requests import AnswerRequest, EditRequest, Request
from model.sampling import backend
from model.sampling import prefill as prefill_module
from tests.parity.cases import Case, case_id, cases, golden, relative_difference, request_of

GIB = 2**30


def turns(side: int) -> list[Request]:
    """Requests of every kind, with square pictures of so many pixels a side."""
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
PLACEMENTS = {
    "module": OffloadPlan("module", 6, whole_head=True),
    "all layers": OffloadPlan("layers", 6, whole_head=False),
    "some layers": OffloadPlan("layers", 4, whole_head=False),
    "two layers": OffloadPlan("layers", 2, whole_head=False),
}
FEW_CASES = list({(case["checkpoint"], case["task"]): case for case in reversed(cases("t2i", "edit"))}.values())


def results(engine: Engine, requests: list[Request]) -> list[object]:
    """Bytes of pictures, and texts."""
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
def place(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """Load the demo, or another checkpoint, placed in one way."""

    def load(offload_plan: OffloadPlan, model: str | Path = "demo", **options: Any) -> Engine:
        monkeypatch.setattr(loaded_model, "choose_offload_plan", lambda *_: offload_plan)
        monkeypatch.setattr(offload, "HEAD_CHUNK_BYTES", 2**16)  # the output matrix comes in many pieces
        # As a layer does.
        monkeypatch.setattr(offload, "WeightStream", partial(weight_stream.WeightStream, read_bytes=500_000))
        return Engine.load(model, **{"device": "cpu", **options})

    return load


@pytest.mark.parametrize(
    ("quantization", "names"),
    # With one quantized tower, only the sizes of the towers' weights are new: twice is enough.
    [("off", tuple(PLACEMENTS)), ("fp8", ("module", "some layers")), ("fp8-all", tuple(PLACEMENTS))],
)
def test_every_placement_gives_the_same(
    place: Callable[..., Engine], quantization: str, names: tuple[str, ...]
) -> None:
    expected = results(place(ALL_RESIDENT, quantization=quantization), TURNS)
    assert len(expected) == 7
    for name in names:
        assert results(place(PLACEMENTS[name], quantization=quantization), TURNS) == expected, name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("quantization", ["off", "fp8-all"])
def test_every_placement_gives_the_same_on_a_gpu(
    place: Callable[..., Engine], quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a picture in halves, and of one that is thought about."""
    from model.backends import cuda

    monkeypatch.setattr(cuda, "HALVES_FROM_TOKENS", 64)
    monkeypatch.setattr(cuda, "HALF_STEP", 16)
    requests = turns(256)
    expected = results(place(ALL_RESIDENT, quantization=quantization, device="cuda"), requests)
    for name, offload_plan in PLACEMENTS.items():
        assert results(place(offload_plan, quantization=quantization, device="cuda"), requests) == expected, name


@pytest.mark.parametrize("case", FEW_CASES, ids=case_id)
def test_pictures_of_the_reference(case: Case, place: Callable[..., Engine], parity_checkpoint: Any) -> None:
    """Experts, too."""
    engine = place(PLACEMENTS["two layers"], parity_checkpoint(case["checkpoint"]), dtype="float32")
    trace = Trace()
    list(engine.run(request_of(case), trace))
    assert relative_difference(trace.pictures[0], golden(case, "image")) < 2e-3


def test_a_turn_given_up_leaves_no_trace(place: Callable[..., Engine]) -> None:
    expected = results(place(ALL_RESIDENT), TURNS[:2])
    engine = place(PLACEMENTS["two layers"])
    for kind in (PrefixRead, DenoisingStep):
        for request in TURNS:
            events = engine.run(request)
            for event in events:
                if isinstance(event, kind):
                    break
            events.close()  # type: ignore[attr-defined]
    assert results(engine, TURNS[:2]) == expected


def test_prefixes_are_kept_without_room_for_a_picture(place: Callable[..., Engine]) -> None:
    """The next turn finds them, after thinking, too, and draws the same."""
    engine = place(PLACEMENTS["some layers"])
    transformer = engine._runner.model.config.transformer
    token_bytes = 2 * transformer.layers * transformer.kv_heads * transformer.head_dim * 2
    for request in (TURNS[0], TURNS[5]):
        first = results(engine, [request])
        branches = len(engine.cached_lengths)
        kept = engine.cached_bytes
        assert kept <= (engine.cached_tokens + branches * CAPACITY_STEP) * token_bytes
        read = [event for event in engine.run(request) if isinstance(event, PrefixRead)]
        assert [event.reused for event in read] == [event.tokens for event in read] and len(read) == branches
        assert engine.cached_bytes == kept
        assert results(engine, [request]) == first


def test_loras_come_and_go(place: Callable[..., Engine], tmp_path: Path) -> None:
    """Also with one that changes what stays on the device."""
    plain, request = place(ALL_RESIDENT), TURNS[2:3]
    tensors = {}
    for name, tensor in safetensors_files.stored_tensors(plain.checkpoint).items():
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
    engine = place(PLACEMENTS["some layers"])
    engine.use_loras(loras)
    assert results(engine, request) == merged
    engine.use_loras([])
    assert results(engine, request) == without
    assert results(place(PLACEMENTS["module"], lora=lora), request) == merged


@pytest.mark.parametrize("tensor", [offload.EMBEDDING, offload.HEAD])
def test_a_lora_of_what_is_read_in_parts(place: Callable[..., Engine], tmp_path: Path, tensor: str) -> None:
    layer = tensor.removesuffix(".weight")
    save_file(
        {f"{layer}.lora_down.weight": torch.ones(1, 256), f"{layer}.lora_up.weight": torch.ones(855, 1)},
        tmp_path / "words.safetensors",
    )
    lora = str(tmp_path / "words.safetensors")
    with pytest.raises(CheckpointError, match=f"read in parts here:\n  {tensor}") as raised:
        place(PLACEMENTS["two layers"], lora=lora)
    assert raised.value.hint == "use `offload=off`"


def test_a_disk_that_goes_away_meanwhile(place: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn fails; when the disk is there again the next one does not."""
    engine = place(PLACEMENTS["two layers"])
    expected = results(engine, TURNS[:1])
    reads = 0
    preadv = safetensors_files.os.preadv

    def broken(*arguments: Any) -> int:
        nonlocal reads
        reads += 1
        if reads > 100:
            raise OSError(5, "Input/output error")
        return preadv(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(safetensors_files.os, "preadv", broken)
        with pytest.raises(CheckpointError, match="cannot be read: Input/output error"):
            results(engine, TURNS[:1])
    assert results(engine, TURNS[:1]) == expected


def test_a_file_that_is_cut_off_meanwhile(place: Callable[..., Engine], tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    engine = place(OffloadPlan("layers", 2, whole_head=False), folder)
    with next(folder.glob("*.safetensors")).open("r+b") as file:
        file.truncate(200_000)
    with pytest.raises(CheckpointError, match="ends in the middle of"):
        results(engine, TURNS[:1])


def test_no_more_is_held_than_a_few_layers(place: Callable[..., Engine]) -> None:
    engine = place(PLACEMENTS["two layers"])
    network = engine._runner.model.network
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in network.parameters()}
    storages |= {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in network.buffers()}
    weights = Weights.of(network.config, 2)
    held = sum(storages.values())
    assert held < weights.on_device(ALL_RESIDENT) / 2
    assert held == pytest.approx(weights.on_device(PLACEMENTS["two layers"]), rel=0.01)
    assert held == pytest.approx(2 * weights.layer + weights.rest, rel=0.01)


@pytest.mark.parametrize(("name", "again"), [("all layers", False), ("some layers", True)])
def test_what_is_read_again_to_write(
    place: Callable[..., Engine], name: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output matrix comes in pieces for each word: into memory that layers have in turn, never into that of layers
    that are there to stay."""
    engine = place(PLACEMENTS[name])
    results(engine, TURNS[4:5])
    read: set[str] = set()
    fetched = weight_stream.WeightStream._fetched

    def noted(self: weight_stream.WeightStream, tensor: Any, first: int, count: int) -> Any:
        read.add(tensor.name)
        return fetched(self, tensor, first, count)

    monkeypatch.setattr(weight_stream.WeightStream, "_fetched", noted)
    engine.clear_cache()
    results(engine, TURNS[4:5])
    head = {tensor for tensor in read if tensor.startswith(offload.HEAD)}
    assert head and (read != head) == again


def test_threads_end_with_the_engine(place: Callable[..., Engine]) -> None:
    def readers() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("stream weights")}

    before = readers()
    engine = place(PLACEMENTS["two layers"])
    results(engine, TURNS[:1])
    own = readers() - before
    assert own
    del engine
    for thread in own:
        thread.join(10)
    assert not own & readers()


def test_weights_that_are_not_there_yet_are_checked(
    place: Callable[..., Engine], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    name = "language_model.model.layers.1.mlp_mot_gen.up_proj.weight"
    tensors[name][0, 0] = torch.nan
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=f"1 tensors contain NaN or infinity:\n  {name}"):
        place(OffloadPlan("module", 3, whole_head=True), folder, check_weights=True)


def test_a_larger_request_places_the_weights_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for all weights and a small picture, a large one takes some of it, and later ones go on so."""
    monkeypatch.setattr(estimate, "SPARE_BYTES", 0)
    config = read_config(Engine.load("demo", device="cpu").checkpoint)
    weights = Weights.of(config, 2)
    small = peak_bytes(config, weights, ALL_RESIDENT, Workload(64, (600, 600)), 2)
    engine = Engine.load("demo", device="cpu", gpu_memory=f"{-(-small // 2**10)}KiB")
    assert engine.weights_summary == ""
    expected = results(Engine.load("demo", device="cpu", offload="off"), TURNS[:1])
    large = GenerateRequest("a cat", ImageSettings(size="352x352", num_steps=1))
    told = [event.text for event in engine.run(large) if isinstance(event, Notice)]
    assert any(text.startswith("reloaded with more offloading to make room: offload ") for text in told)
    assert engine.weights_summary.startswith("offload ")
    assert results(engine, TURNS[:1]) == expected


def test_room_is_for_the_pictures_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    load = loaded_model.LoadedModel.load

    def noted(self: loaded_model.LoadedModel, work: Workload, *arguments: Any) -> None:
        asked.append(work.image_tokens)
        load(self, work, *arguments)

    monkeypatch.setattr(loaded_model.LoadedModel, "load", noted)
    small, large = (GenerateRequest("a cat", ImageSettings(size=size)) for size in ("64x64", "128x64"))
    Engine.load("demo", device="cpu", requests=[small, large])
    Engine.load("demo", device="cpu", requests=[small])
    Engine.load("demo", device="cpu", size="96x64")
    Engine.load("demo", device="cpu", requests=[AnswerRequest("hello")])
    assert asked == [8, 4, 6, 64]


def test_less_than_the_smallest_working_set() -> None:
    with pytest.raises(DeviceMemoryError, match="1 MiB of memory is too little for this: it needs at least"):
        Engine.load("demo", device="cpu", gpu_memory="1MiB")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (4096, "a smaller picture (`size=1024x1024`), fewer or smaller input pictures, or fewer tokens"),
        (1024, "a smaller picture (`size=512x512`), fewer or smaller input pictures, or fewer tokens"),
        (64, "a smaller picture, fewer or smaller input pictures, or fewer tokens"),
        (0, "fewer or smaller input pictures, or fewer tokens"),
    ],
)
def test_what_needs_less_memory(tokens: int, words: str) -> None:
    """Never a size that is none smaller, nor a picture where none is drawn."""
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "x")
    with pytest.raises(DeviceMemoryError) as raised:
        choose_offload_plan("auto", config, Weights.of(config, 2, ()), Workload(tokens, (100,)), 2, 2**20)
    assert raised.value.hint == f"allow more (`gpu_memory`), or ask for {words}"


def test_memory_that_runs_out_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Let the host give no page-locked memory; returns what will have been asked for."""
    empty, asked = torch.empty, list[bool]()

    def refused(*arguments: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        asked.append(pin_memory)
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory\nmore")
        return empty(*arguments, **options)

    monkeypatch.setattr(torch, "empty", refused)
    return asked


def test_no_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused once, weights come through other memory, and a note says so."""
    opened = safetensors_files.stored_tensors(Engine.load("demo", device="cpu").checkpoint)
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


def test_no_locked_memory_to_load_with(place: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's weights are read into while they are loaded is other memory, too."""
    expected = results(place(ALL_RESIDENT), TURNS[1:2])
    read_chunks = safetensors_files.read_chunks
    monkeypatch.setattr(loader, "read_chunks", lambda pieces, use, pinned: read_chunks(pieces, use, pinned=True))
    asked = refuse_locked(monkeypatch)
    for offload_plan in (ALL_RESIDENT, PLACEMENTS["two layers"]):
        asked.clear()
        engine = place(offload_plan)
        assert True in asked
        assert results(engine, TURNS[1:2]) == expected


def test_more_than_was_allowed_is_told_of() -> None:
    """Whoever asks for `off` or `module` gets it. The note comes once, with the first request."""
    engine = Engine.load("demo", device="cpu", offload="module", gpu_memory="20MiB")
    told = [[event.text for event in engine.run(TURNS[4]) if isinstance(event, Notice)] for _ in range(2)]
    assert [len(texts) for texts in told] == [1, 0]
    assert re.fullmatch(
        r"`offload` module needs \d+ MiB for this, more than the 20 MiB that are allowed", told[0][0]
    ), told


def test_not_on_apples_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="`offload` layers is for NVIDIA's GPUs and for CPUs"):
        loaded_model.LoadedModel(
            Path("x"),
            parse_config(config_fields(**SHAPES["u1-8b"]), "x"),
            torch.device("mps"),
            LoadSettings(dtype="float16", offload="layers"),
        )


@pytest.mark.parametrize(
    ("gib", "expected"),
    [(80, "off"), (36, "off"), (35, "module"), (20, "module"), (16, "layers"), (8, "layers"), (4, "layers")],
)
def test_the_fastest_that_fits_is_chosen(gib: int, expected: str) -> None:
    """An 8B at 2048×2048; peaks measured on an H100 are in docs/memory.md."""
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "u1-8b")
    weights, work = Weights.of(config, 2), Workload(4096, USUAL_PREFIXES)
    offload_plan = choose_offload_plan("auto", config, weights, work, 2, gib * GIB)
    assert offload_plan.kind == expected
    assert peak_bytes(config, weights, offload_plan, work, 2) <= gib * GIB
    if expected == "layers":
        more = OffloadPlan("layers", offload_plan.buffers + 1, whole_head=False)
        assert peak_bytes(config, weights, more, work, 2) > gib * GIB - SPARE_BYTES


def test_all_buffers_are_taken_where_a_picture_then_has_room_in_all_layers() -> None:
    """One buffer fewer, and a picture's own keys and values are there of one layer only, which takes far less."""
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "u1-8b")
    weights, work = Weights.of(config, 2), Workload(4096, USUAL_PREFIXES)
    all_buffers = OffloadPlan("layers", weights.layers, whole_head=False)
    enough = peak_bytes(config, weights, all_buffers, work, 2) + SPARE_BYTES
    assert choose_offload_plan("layers", config, weights, work, 2, enough) == all_buffers
    fewer = choose_offload_plan("layers", config, weights, work, 2, enough - 1)
    assert fewer == OffloadPlan("layers", weights.layers - 1, whole_head=False)
    saved = peak_bytes(config, weights, all_buffers, work, 2) - peak_bytes(config, weights, fewer, work, 2)
    assert saved > weights.layer + GIB
    written = Workload(0, (4096,))
    assert working_bytes(config, written, 2, True) == working_bytes(config, written, 2, False)


@pytest.mark.parametrize("turn", [TURNS[3], TURNS[5]], ids=["one branch", "three branches"])
def test_keys_and_values_are_what_was_predicted(
    place: Callable[..., Engine], turn: GenerateRequest | EditRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a picture of 256 tokens, in float32."""

    def watched(kind: type[Any]) -> Callable[..., KVCache | ScratchCache]:
        def make(*arguments: Any) -> KVCache | ScratchCache:
            caches.append(kind(*arguments))
            return caches[-1]

        return make

    caches: list[KVCache | ScratchCache] = []
    monkeypatch.setattr(prefill_module, "KVCache", watched(KVCache))
    monkeypatch.setattr(backend, "ScratchCache", watched(ScratchCache))
    request = replace(turn, settings=turn.settings.model_copy(update={"size": "512x512", "num_steps": 1}))
    held, predicted = [], []
    for offload_plan in (ALL_RESIDENT, PLACEMENTS["some layers"]):
        engine = place(offload_plan, dtype="float32")
        caches.clear()
        lengths = []
        for event in engine.run(request):
            if isinstance(event, PrefixRead):
                lengths.append(event.tokens)
            if isinstance(event, DenoisingStep):
                held.append(sum(cache.nbytes for cache in caches))
        work = Workload(256, tuple(lengths))
        predicted.append(working_bytes(engine._runner.model.config, work, 4, offload_plan is not ALL_RESIDENT))
    assert held[0] > held[1]
    assert held[0] - held[1] == predicted[0] - predicted[1]


@pytest.mark.parametrize(
    ("layers", "buffers"), [(42, 2), (42, 3), (42, 14), (42, 36), (42, 41), (6, 4), (3, 2), (1, 1)]
)
def test_layers_that_take_turns_are_spread_evenly(layers: int, buffers: int) -> None:
    numbers = buffer_numbers(layers, buffers)
    assert set(numbers) == set(range(buffers))
    turning = [layer for layer, number in enumerate(numbers) if number < RING and buffers < layers]
    gaps = {later - earlier for earlier, later in pairwise(turning)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert all(numbers.count(number) == 1 for number in range(RING, buffers))
    # Those in a row never wait for the same buffer, but perhaps the last of a pass and the first of the next one.
    assert all(numbers[earlier] != numbers[later] for earlier, later in pairwise(turning))


def test_an_offload_of_no_kind() -> None:
    with pytest.raises(SettingsError, match="offload='modules': must be auto, off, module or layers"):
        Engine.load("demo", device="cpu", offload="modules")


def test_nothing_is_written_behind_the_end(place: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are placed anew lie elsewhere; what was on its way to the old place must not come any more."""
    engine = place(PLACEMENTS["two layers"])
    results(engine, TURNS[:1])  # whose end has the next layers brought
    buffers = [layer.buffer for layer in engine._runner.model.network.gen.blocks._layers[:2]]
    read = weight_stream.read_exactly

    def slowly(*arguments: Any) -> None:
        time.sleep(0.05)
        read(*arguments)

    monkeypatch.setattr(weight_stream, "read_exactly", slowly)
    engine._runner.model.network.und.blocks._start_pass()
    engine._runner.model.release()
    before = [buffer.memory.clone() for buffer in buffers]
    time.sleep(0.5)
    assert all(torch.equal(buffer.memory, held) for buffer, held in zip(buffers, before, strict=True))


def test_the_benchmark_of_reading(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes through all settings, and each reads the drawing tower's matrices."""
    report = tmp_path / "link.json"
    arguments = [str(tiny_checkpoint), "--device", "cpu", "--pieces", "1", "2", "--readers", "1", "3", "--passes", "1"]
    monkeypatch.setattr(sys, "argv", ["weight_link", *arguments, "--json", str(report)])
    read: list[tuple[int, int, int]] = []
    fetched = weight_stream.WeightStream._fetched

    def counted(self: weight_stream.WeightStream, tensor: Any, first: int, count: int) -> Any:
        read.append((self._read_bytes, self._readers, count))
        return fetched(self, tensor, first, count)

    monkeypatch.setattr(weight_stream.WeightStream, "_fetched", counted)
    weight_link.main()
    told = json.loads(report.read_text())
    settings = [(piece * 2**20, readers) for piece in (1, 2) for readers in (1, 3)]
    assert [(row["piece_bytes"], row["readers"]) for row in told["rows"]] == settings
    assert all(row["bytes_per_second"] > 0 for row in told["rows"]) and told["link_bytes_per_second"] is None
    itemsize = safetensors_files.stored_tensors(tiny_checkpoint)[offload.HEAD].dtype.itemsize
    towers = Weights.of(read_config(tiny_checkpoint), itemsize).towers
    for setting in settings:
        counts = [count for *of, count in read if tuple(of) == setting]
        assert max(counts) <= setting[0] and sum(counts) == towers  # half of them, once to warm up and once timed
