"""The prefix cache between requests: after cancellation, errors and changed requests it is complete or empty."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model import (
    Answer,
    AnswerRequest,
    Conversation,
    DeviceMemoryError,
    EditRequest,
    Engine,
    Event,
    GenerateRequest,
    Message,
    Picture,
    PrefixRead,
    Request,
    RequestError,
    Statistics,
    ThinkText,
)
from model.events import Branch
from model.inputs.image_tensors import prepare_image
from model.inputs.prompts import answer_prompt
from model.inputs.token_sequence import TokenSequence, build_sequence
from model.network.attention import Segment
from model.network.cache import CAPACITY_STEP, KVCache
from model.sampling import prefill as prefix
from model.sampling.prefill import embed_image, prefill
from tests.model.prefix_reuse import SHORT, SMALL, ask, conversation_about, drawing, of, require_fresh


def requests_to_cancel() -> dict[str, Request]:
    picture = drawing((64, 96), 1)
    dual = SMALL.model_copy(update={"cfg_scale": 4.0, "img_cfg_scale": 2.0, "num_steps": 1})
    think = SMALL.model_copy(update={"think": True, "max_think_tokens": 3, "num_steps": 1, "num_images": 2})
    return {
        "answer": conversation_about(picture).ask("Sure?", settings=SHORT),
        "generate, thinking": GenerateRequest("a cat", think),
        "edit": EditRequest("make it red", (picture,), dual),
    }


@pytest.mark.parametrize("kind", list(requests_to_cancel()))
def test_a_request_cancelled_at_any_event_does_not_affect_later_ones(engines: tuple[Engine, Engine], kind: str) -> None:
    engine, fresh = engines
    request = requests_to_cancel()[kind]
    question = Conversation().ask("What is it?", (drawing((64, 96), 1),), SHORT)
    fresh.clear_cache()
    expected = results(list(fresh.run(request)))
    fresh.clear_cache()
    expected_answer = results(list(fresh.run(question)))
    count = len(list(fresh.run(request)))
    list(engine.run(question))
    for yielded in range(1, count):
        stream = engine.run(request)
        for _ in range(yielded):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert_trimmed(engine)
        assert results(list(engine.run(request))) == expected
        assert results(list(engine.run(question))) == expected_answer


def results(events: list[Event]) -> list[tuple[int, ...] | bytes]:
    """Return all generated tokens and pictures."""
    return [
        event.image.tobytes() if isinstance(event, Picture) else event.token_ids
        for event in events
        if isinstance(event, Answer | ThinkText | Picture)
    ]


def assert_trimmed(engine: Engine) -> None:
    """Require that cached prefixes are complete and use no more memory than their tokens need."""
    assert engine.cached_tokens > 0
    for cached in engine._runner.prefix_cache.prefixes.values():
        assert cached.prefix.cache.length == cached.tokens
        assert cached.prefix.cache.capacity - cached.tokens < CAPACITY_STEP


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken"), torch.OutOfMemoryError("full")])
@pytest.mark.parametrize("layer", [0, 2])
def test_an_error_in_the_prefill_clears_the_cache(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch, error: BaseException, layer: int
) -> None:
    engine, fresh = engines
    request = conversation_about(drawing((64, 96), 1)).ask("Sure?", settings=SHORT)
    answer, _ = ask(engine, request)
    follow_up = Conversation.after(request, answer.text).ask("Really?", settings=SHORT)
    write = KVCache.write

    def failing(cache: KVCache, number: int, keys: torch.Tensor, values: torch.Tensor) -> Any:
        written = write(cache, number, keys * torch.nan, values)
        if number == layer:
            raise error
        return written

    with monkeypatch.context() as patched, pytest.raises((type(error), DeviceMemoryError)):
        patched.setattr(KVCache, "write", failing)
        list(engine.run(follow_up))
    assert engine.cached_tokens == engine.cached_bytes == 0
    repeated, read = ask(engine, follow_up)
    assert read.reused == 0
    require_fresh(repeated, fresh, follow_up)


def test_running_out_of_memory_before_the_prefill_clears_the_cache(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = engines
    request = conversation_about(drawing((64, 96), 1)).ask("Sure?", settings=SHORT)
    ask(engine, request)

    def full(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(DeviceMemoryError):
        patched.setattr("model.tasks.answer.prepare_image", full)
        list(engine.run(request))
    assert engine.cached_bytes == 0


def test_a_failed_trim_clears_the_cache_without_an_error(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = engines

    def full(_: KVCache) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(KVCache, "trim", full)
    ask(engine, Conversation().ask("What is it?", settings=SHORT))
    assert engine.cached_bytes == 0


def test_a_refused_request_keeps_the_cache(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    request = conversation_about(drawing((64, 96), 1)).ask("Sure?", settings=SHORT)
    ask(engine, request)
    cached = engine.cached_tokens
    with pytest.raises(RequestError):
        list(engine.run(AnswerRequest("what is <image>?")))
    assert engine.cached_tokens == cached > 0


def test_only_the_last_request_is_cached(engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = engines
    caches: list[weakref.ref[KVCache]] = []

    def watched(*arguments: Any) -> KVCache:
        cache = KVCache(*arguments)
        caches.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(prefix, "KVCache", watched)
    token_bytes = 2 * 3 * 2 * 32 * 4  # keys and values, layers, heads, width, float32
    for turn in range(2):
        picture = drawing((256 + 32 * turn, 256), turn)
        for request in (
            GenerateRequest("a cat", SMALL),
            EditRequest(f"edit {turn}", (picture,), SMALL),
            conversation_about(picture).ask("Sure?", settings=SHORT),
        ):
            branches = of(list(engine.run(request)), PrefixRead)
            assert engine.cached_tokens <= sum(branch.tokens for branch in branches) + SHORT.max_tokens
            spare = CAPACITY_STEP * len(branches)
            assert engine.cached_bytes <= (engine.cached_tokens + spare) * token_bytes
            gc.collect()
            assert sum(cache() is not None for cache in caches) == len(branches)
    engine.clear_cache()
    gc.collect()
    assert not any(cache() for cache in caches)
    assert engine.cached_tokens == engine.cached_bytes == 0


def test_useless_prefixes_are_freed_before_the_prefill(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = engines
    ask(engine, conversation_about(drawing((64, 96), 1)).ask("Sure?", settings=SHORT))
    cached = weakref.ref(engine._runner.prefix_cache.prefixes["condition"].prefix.cache)
    alive: list[bool] = []

    def watched(*arguments: Any) -> KVCache:
        alive.append(cached() is not None)
        return KVCache(*arguments)

    monkeypatch.setattr(prefix, "KVCache", watched)
    list(engine.run(GenerateRequest("a cat", SMALL)))
    assert alive == [False, False]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def drawing_engines(tiny_checkpoint: Path, request: pytest.FixtureRequest) -> tuple[Engine, Engine]:
    first, second = (Engine.load(tiny_checkpoint, device="cpu", dtype=request.param) for _ in range(2))
    return first, second


def drawn(engine: Engine, request: GenerateRequest | EditRequest) -> tuple[list[bytes], dict[Branch, int]]:
    """Return the pictures, and the number of tokens that each branch processed."""
    events = list(engine.run(request))
    read: dict[Branch, int] = {each.branch: each.tokens - each.reused for each in of(events, PrefixRead)}
    assert of(events, Statistics)[0].prefix_tokens == sum(read.values())
    return [made.image.tobytes() for made in of(events, Picture)], read


@pytest.mark.parametrize(("edit", "think"), [(False, True), (True, False)])
def test_another_seed_reuses_all_tokens_and_draws_the_same_bytes(
    drawing_engines: tuple[Engine, Engine], edit: bool, think: bool
) -> None:
    engine, fresh = drawing_engines
    engine.clear_cache()
    settings = SMALL.model_copy(update={"cfg_scale": 4.0, "img_cfg_scale": 2.0, "think": think, "max_think_tokens": 9})
    branches: set[Branch] = {"condition", "images", "unconditional"} if edit else {"condition", "unconditional"}
    for number, changes in enumerate([{}, {"seed": 6}, {"seed": 7, "size": "96x128", "num_images": 2}]):
        changed = settings.model_copy(update=changes)
        if edit:
            # By default the input picture is resized with the result.
            changed = changed.model_copy(update={"input_pixels": "native"})
            request: GenerateRequest | EditRequest = EditRequest("make it red", (drawing((64, 96), 1),), changed)
        else:
            request = GenerateRequest("a cat", changed)
        pictures, read = drawn(engine, request)
        assert set(read) == branches
        assert not number or not any(read.values())
        fresh.clear_cache()
        assert pictures == drawn(fresh, request)[0]


def test_another_instruction_changes_only_the_condition_branch(drawing_engines: tuple[Engine, Engine]) -> None:
    engine, fresh = drawing_engines
    engine.clear_cache()
    settings = SMALL.model_copy(update={"cfg_scale": 4.0, "img_cfg_scale": 2.0})
    first, second = (EditRequest(text, (drawing((64, 96), 1),), settings) for text in ("make it red", "make it blue"))
    drawn(engine, first)
    pictures, read = drawn(engine, second)
    assert read["images"] == read["unconditional"] == 0
    assert read["condition"] == drawn(fresh, second)[1]["condition"], "a partly reused prefix would round differently"
    fresh.clear_cache()
    assert pictures == drawn(fresh, second)[0]


def read_in_parts(engine: Engine, sequence: TokenSequence, pictures: list[torch.Tensor], cut: int) -> torch.Tensor:
    """Process the first `cut` tokens of a sequence, then the others; return the logits after the last one."""
    network, rest = engine._runner.model.network, sequence.after(cut)
    seen = len(pictures) - rest.images
    segments: list[Segment] = []
    for segment in sequence.segments:
        left = cut - sum(each.count for each in segments)
        if left:
            segments.append(replace(segment, count=min(left, segment.count)))
    start = TokenSequence(sequence.ids[:cut], sequence.positions[:, :cut], tuple(segments), 0)
    with torch.inference_mode():
        first = prefill(network, start, pictures[:seen], 0)
        both = prefill(network, rest, pictures[seen:], 3, first.cache)
        assert both.next_position == sequence.next_position
        assert both.cache.length == len(sequence)
        return network.logits(both.last_hidden)[0, 0]


@pytest.mark.parametrize("name", ["tiny", "a3b"])
def test_a_sequence_can_be_processed_in_two_parts(pair: Callable[[str], tuple[Engine, Engine]], name: str) -> None:
    engine, _ = pair(name)
    prepared = [
        prepare_image(drawing(size, 1), engine.card.recommended.answer_input) for size in ((256, 256), (288, 320))
    ]
    text = answer_prompt([Message("user", "a <image> and <image>?")], 2, "")
    sequence = build_sequence(text, [(8, 8), (10, 9)], engine._runner._tokenizer, torch.device("cpu"))
    network = engine._runner.model.network
    with torch.inference_mode():
        pictures = [embed_image(network, each) for each in prepared]
        whole = network.logits(prefill(network, sequence, pictures, 0).last_hidden)[0, 0]
    context, tried = engine._runner._tokenizer.image_context, 0
    for cut in range(1, len(sequence)):
        if context == sequence.ids[cut - 1] == sequence.ids[cut]:
            with pytest.raises(ValueError, match="inside an image"):
                sequence.after(cut)
            continue
        torch.testing.assert_close(read_in_parts(engine, sequence, pictures, cut), whole, rtol=1e-4, atol=1e-4)
        tried += 1
    assert tried > 20
