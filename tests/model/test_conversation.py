"""What the engine keeps between requests: later ones read only what is new, and nothing comes out otherwise for it.

"Fresh" is a second engine of the same checkpoint, which forgets everything before each request.
"""

import gc
import random
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from PIL import Image, ImageDraw

from model import (
    Answer,
    AnswerRequest,
    Conversation,
    DeviceMemoryError,
    EditRequest,
    Engine,
    Event,
    GenerateRequest,
    ImageSettings,
    Message,
    Picture,
    PrefixRead,
    Request,
    RequestError,
    Statistics,
    TextSettings,
    ThinkText,
    Trace,
)
from model.events import Branch
from model.inputs.image_tensors import prepare_image
from model.inputs.prompts import answer_prompt
from model.inputs.token_sequence import TokenSequence, build_sequence
from model.network.attention import Segment
from model.network.cache import CAPACITY_STEP, KVCache
from model.sampling import prefill as prefix
from model.sampling.prefill import embed_image, prefill

SHORT = TextSettings(max_tokens=6)
SMALL = ImageSettings(size="64x96", num_steps=2, seed=5)
CHECKPOINTS = ["tiny", "u1", "u15", "a3b"]
EventType = TypeVar("EventType", bound=Event)


@pytest.fixture(scope="module")
def pair(
    tiny_checkpoint: Path, parity_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Engine, Engine]]:
    """Two engines of a checkpoint in float32: the one that is tested, which has nothing kept yet, and a fresh one."""
    engines: dict[str, tuple[Engine, Engine]] = {}

    def load(name: str) -> tuple[Engine, Engine]:
        if name not in engines:
            folder = parity_checkpoint(name) if name != "tiny" else unlimited(tiny_checkpoint, tmp_path_factory)
            first, second = (Engine.load(folder, device="cpu", dtype="float32") for _ in range(2))
            engines[name] = first, second
        engines[name][0].clear_cache()
        return engines[name]

    return load


def unlimited(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny checkpoint that reads pictures in the published sizes, as the parity checkpoints do."""
    folder = Path(shutil.copytree(checkpoint, tmp_path_factory.mktemp("unlimited") / "checkpoint"))
    (folder / "recommended_settings.json").unlink()
    return folder


@pytest.fixture
def engines(pair: Callable[[str], tuple[Engine, Engine]]) -> tuple[Engine, Engine]:
    return pair("tiny")


def drawing(size: tuple[int, int], seed: int) -> Image.Image:
    """A picture unlike that of any other seed."""
    numbers = random.Random(seed)
    image = Image.new("RGB", size, (numbers.randrange(256), numbers.randrange(256), numbers.randrange(256)))
    for _ in range(8):
        corner = numbers.randrange(size[0]), numbers.randrange(size[1])
        ImageDraw.Draw(image).circle(corner, min(size) / 4, (numbers.randrange(256), 0, numbers.randrange(256)))
    return image


def of(events: list[Event], kind: type[EventType]) -> list[EventType]:
    return [event for event in events if isinstance(event, kind)]


@dataclass(frozen=True)
class Answered(Answer):
    """With the logits of its first token."""

    first_logits: torch.Tensor


def answer_of(events: list[Event], trace: Trace) -> Answered:
    assert trace.first_logits is not None
    return Answered(**vars(of(events, Answer)[0]), first_logits=trace.first_logits)


def ask(engine: Engine, request: AnswerRequest) -> tuple[Answered, PrefixRead]:
    trace = Trace()
    events = list(engine.run(request, trace))
    return answer_of(events, trace), of(events, PrefixRead)[0]


def require_fresh(answer: Answered, fresh: Engine, request: AnswerRequest) -> None:
    """The answer is the one that an engine gives that has read everything for it."""
    fresh.clear_cache()
    expected, read = ask(fresh, request)
    assert read.reused == 0
    assert answer.token_ids == expected.token_ids
    assert answer.text == expected.text
    torch.testing.assert_close(answer.first_logits, expected.first_logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_second_question_about_a_picture_reads_only_the_new_tokens(
    pair: Callable[[str], tuple[Engine, Engine]], name: str
) -> None:
    engine, fresh = pair(name)
    picture = drawing((1024, 1024), 1)
    request = Conversation().ask("What is it?", (picture,), SHORT)
    answer, read = ask(engine, request)
    assert read.image_tokens == 1024
    assert read.reused == 0
    for question in ("Which colour?", "How many?"):
        request = Conversation.after(request, answer.text).ask(question, settings=SHORT)
        trace = Trace()
        events = list(engine.run(request, trace))
        answer, read, statistics = answer_of(events, trace), of(events, PrefixRead)[0], of(events, Statistics)[0]
        assert read.image_tokens == 1024
        assert 0 < read.tokens - read.reused <= 64
        assert statistics.prefix_tokens == read.tokens - read.reused
    require_fresh(answer, fresh, request)


@pytest.mark.parametrize(("name", "seed"), [("tiny", 0), ("tiny", 1), ("u1", 2), ("u15", 3), ("a3b", 4)])
def test_any_conversation_is_answered_as_if_all_of_it_were_read(
    pair: Callable[[str], tuple[Engine, Engine]], name: str, seed: int
) -> None:
    """Questions with and without new pictures, changes of what was said and shown before, pictures in between."""
    engine, fresh = pair(name)
    numbers = random.Random(seed)
    conversation = Conversation(system=numbers.choice(["", "Be brief."]))
    reused = 0
    for turn in range(6):
        images = tuple(drawing((64, 96), numbers.randrange(99)) for _ in range(numbers.choice([0, 0, 1, 2])))
        request = conversation.ask(numbers.choice(["What is it?", "And now?", "Why so?"]), images, SHORT)
        answer, read = ask(engine, request)
        require_fresh(answer, fresh, request)
        reused += read.reused
        conversation = Conversation.after(request, answer.text)
        match numbers.choice(["go on", "go on", "edit a turn", "exchange a picture", "start anew", "draw"]):
            case "edit a turn":
                place = numbers.randrange(len(conversation.turns))
                turns = list(conversation.turns)
                turns[place] = replace(turns[place], text=turns[place].text + f" ({turn})")
                conversation = replace(conversation, turns=tuple(turns))
            case "exchange a picture" if conversation.images:
                place = numbers.randrange(len(conversation.images))
                other = drawing(conversation.images[place].size, 100 + turn)
                kept = conversation.images
                conversation = replace(conversation, images=(*kept[:place], other, *kept[place + 1 :]))
            case "start anew":
                conversation = Conversation()
            case "draw":
                list(engine.run(GenerateRequest("a cat", SMALL)))
    assert reused


def conversation_about(*pictures: Image.Image, answer: str = "A cat.", system: str = "") -> Conversation:
    request = Conversation(system=system).ask("What is it?", pictures, SHORT)
    return Conversation.after(request, answer)


def picture_tokens(engine: Engine, picture: Image.Image) -> int:
    prepared = prepare_image(picture, engine.card.recommended.answer_input)
    return prepared.shape[2] * prepared.shape[3] // 32**2


def test_another_picture_of_the_same_size_is_read(engines: tuple[Engine, Engine]) -> None:
    engine, fresh = engines
    first, second = (conversation_about(drawing((256, 256), seed)).ask("Sure?", settings=SHORT) for seed in (1, 2))
    answers = [ask(engine, request) for request in (first, second)]
    assert answers[1][1].reused < 16, "nothing but the words before the picture"
    assert answers[0][0].first_logits.tolist() != answers[1][0].first_logits.tolist()
    require_fresh(answers[1][0], fresh, second)


def test_a_picture_is_not_taken_for_one_of_another_shape(engines: tuple[Engine, Engine]) -> None:
    """Both have as many tokens, and the same numbers in the same order."""
    engine, fresh = engines
    wide, tall = (
        conversation_about(Image.new("RGB", size, "navy")).ask("Sure?", settings=SHORT)
        for size in ((512, 256), (256, 512))
    )
    ask(engine, wide)
    answer, read = ask(engine, tall)
    assert read.reused < 16
    require_fresh(answer, fresh, tall)


def test_of_two_pictures_the_one_that_stayed_is_not_read_again(engines: tuple[Engine, Engine]) -> None:
    engine, fresh = engines
    one, two, three = (drawing((256, 288), seed) for seed in (1, 2, 3))
    ask(engine, conversation_about(one, two).ask("Sure?", settings=SHORT))
    request = conversation_about(one, three).ask("Sure?", settings=SHORT)
    answer, read = ask(engine, request)
    assert picture_tokens(engine, one) < read.reused < 2 * picture_tokens(engine, one)
    require_fresh(answer, fresh, request)


def test_an_answer_that_reads_differently_costs_only_itself(engines: tuple[Engine, Engine]) -> None:
    """As when a tokenizer writes an answer's text with other tokens than the model had chosen."""
    engine, fresh = engines
    picture = drawing((256, 256), 1)
    ask(engine, conversation_about(picture, answer="A CAT.").ask("Sure?", settings=SHORT))
    request = conversation_about(picture, answer="a cat.").ask("Sure?", settings=SHORT)
    answer, read = ask(engine, request)
    assert read.reused > picture_tokens(engine, picture)
    assert read.tokens - read.reused <= 64
    require_fresh(answer, fresh, request)


def test_the_answers_own_tokens_are_not_read_again(engines: tuple[Engine, Engine], ascii_only: None) -> None:
    engine, fresh = engines
    request = Conversation().ask("What is it?", settings=TextSettings(max_tokens=30))
    answer, read = ask(engine, request)
    follow_up = Conversation.after(request, answer.text).ask("Sure?", settings=SHORT)
    second, second_read = ask(engine, follow_up)
    assert second_read.reused == read.tokens + len(answer.token_ids) - 1, "the last token was not read by the answer"
    require_fresh(second, fresh, follow_up)


@pytest.fixture
def ascii_only(engines: tuple[Engine, Engine]) -> Iterator[None]:
    """The model writes letters only, as its random weights would not: their text reads back as the same tokens."""
    spoken = [engine._runner._tokenizer.encode("abcdefghij") for engine in engines]
    hooks = []
    for engine, ids in zip(engines, spoken, strict=True):
        network = engine._runner.model.network
        allowed = torch.full((network.config.transformer.vocabulary,), -1e9)
        allowed[ids] = 0
        hooks.append(network.lm_head.register_forward_hook(lambda _, __, out, allowed=allowed: out + allowed))
    yield
    for hook in hooks:
        hook.remove()


def test_a_changed_system_message_changes_the_answer(engines: tuple[Engine, Engine]) -> None:
    engine, fresh = engines
    picture = drawing((256, 256), 1)
    ask(engine, conversation_about(picture, system="Be brief.").ask("Sure?", settings=SHORT))
    request = conversation_about(picture, system="Be long.").ask("Sure?", settings=SHORT)
    answer, read = ask(engine, request)
    assert read.reused < 24
    require_fresh(answer, fresh, request)


def test_a_shorter_conversation_is_answered_from_its_part(engines: tuple[Engine, Engine]) -> None:
    """As after an undo: the question that is asked again ends where tokens were read before."""
    engine, fresh = engines
    first = Conversation().ask("What is it?", (drawing((256, 256), 1),), SHORT)
    answer, _ = ask(engine, first)
    ask(engine, Conversation.after(first, answer.text).ask("Sure?", settings=SHORT))
    again, read = ask(engine, first)
    assert read.tokens - read.reused == 1, "one token has to be read for the first logits"
    assert again.token_ids == answer.token_ids
    require_fresh(again, fresh, first)


def test_a_kept_picture_is_not_even_embedded(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    embedded: list[torch.Size] = []
    hook = engine._runner.model.network.und_vision.register_forward_hook(
        lambda _, inputs, __: embedded.append(inputs[0].shape)
    )
    request = conversation_about(drawing((256, 256), 1), drawing((256, 256), 2)).ask("Sure?", settings=SHORT)
    ask(engine, request)
    assert len(embedded) == 2
    ask(engine, Conversation.after(request, "Yes.").ask("So?", (drawing((256, 320), 3),), SHORT))
    hook.remove()
    assert [shape[-1] for shape in embedded] == [256, 256, 256]
    assert embedded[-1][-2] == 320


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
def test_a_turn_cancelled_at_any_event_leaves_no_trace_in_later_ones(engines: tuple[Engine, Engine], kind: str) -> None:
    engine, fresh = engines
    request = requests_to_cancel()[kind]
    question = Conversation().ask("What is it?", (drawing((64, 96), 1),), SHORT)
    fresh.clear_cache()
    expected = results(list(fresh.run(request)))
    fresh.clear_cache()
    expected_answer = results(list(fresh.run(question)))
    count = len(list(fresh.run(request)))
    list(engine.run(question))
    for told in range(1, count):
        stream = engine.run(request)
        for _ in range(told):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert_settled(engine)
        assert results(list(engine.run(request))) == expected
        assert results(list(engine.run(question))) == expected_answer


def results(events: list[Event]) -> list[tuple[int, ...] | bytes]:
    """Everything that was written and drawn."""
    return [
        event.image.tobytes() if isinstance(event, Picture) else event.token_ids
        for event in events
        if isinstance(event, Answer | ThinkText | Picture)
    ]


def assert_settled(engine: Engine) -> None:
    """What is kept is whole, and takes no more memory than its tokens need."""
    assert engine.cached_tokens > 0
    for kept in engine._runner.prefix_cache.prefixes.values():
        assert kept.prefix.cache.length == kept.tokens
        assert kept.prefix.cache.capacity - kept.tokens < CAPACITY_STEP


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken"), torch.OutOfMemoryError("full")])
@pytest.mark.parametrize("layer", [0, 2])
def test_an_error_while_reading_drops_what_may_be_half_written(
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
    again, read = ask(engine, follow_up)
    assert read.reused == 0
    require_fresh(again, fresh, follow_up)


def test_running_out_of_memory_before_reading_drops_what_is_kept(
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


def test_no_memory_to_trim_what_is_kept_is_no_failure(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = engines

    def full(_: KVCache) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(KVCache, "trim", full)
    ask(engine, Conversation().ask("What is it?", settings=SHORT))
    assert engine.cached_bytes == 0


def test_a_refused_request_drops_nothing(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    request = conversation_about(drawing((64, 96), 1)).ask("Sure?", settings=SHORT)
    ask(engine, request)
    held = engine.cached_tokens
    with pytest.raises(RequestError):
        list(engine.run(AnswerRequest("what is <image>?")))
    assert engine.cached_tokens == held > 0


def test_only_the_last_request_is_kept(engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_cannot_be_used_is_freed_before_reading(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = engines
    ask(engine, conversation_about(drawing((64, 96), 1)).ask("Sure?", settings=SHORT))
    kept = weakref.ref(engine._runner.prefix_cache.prefixes["condition"].prefix.cache)
    alive: list[bool] = []

    def watched(*arguments: Any) -> KVCache:
        alive.append(kept() is not None)
        return KVCache(*arguments)

    monkeypatch.setattr(prefix, "KVCache", watched)
    list(engine.run(GenerateRequest("a cat", SMALL)))
    assert alive == [False, False]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def drawing_engines(tiny_checkpoint: Path, request: pytest.FixtureRequest) -> tuple[Engine, Engine]:
    first, second = (Engine.load(tiny_checkpoint, device="cpu", dtype=request.param) for _ in range(2))
    return first, second


def drawn(engine: Engine, request: GenerateRequest | EditRequest) -> tuple[list[bytes], dict[Branch, int]]:
    """The pictures, and the tokens that each branch read for them."""
    events = list(engine.run(request))
    read: dict[Branch, int] = {each.branch: each.tokens - each.reused for each in of(events, PrefixRead)}
    assert of(events, Statistics)[0].prefix_tokens == sum(read.values())
    return [made.image.tobytes() for made in of(events, Picture)], read


@pytest.mark.parametrize(("edit", "think"), [(False, True), (True, False)])
def test_another_seed_reads_nothing_and_draws_the_same_bytes(
    drawing_engines: tuple[Engine, Engine], edit: bool, think: bool
) -> None:
    engine, fresh = drawing_engines
    engine.clear_cache()
    settings = SMALL.model_copy(update={"cfg_scale": 4.0, "img_cfg_scale": 2.0, "think": think, "max_think_tokens": 9})
    branches: set[Branch] = {"condition", "images", "unconditional"} if edit else {"condition", "unconditional"}
    for number, changes in enumerate([{}, {"seed": 6}, {"seed": 7, "size": "96x128", "num_images": 2}]):
        changed = settings.model_copy(update=changes)
        if edit:
            # The picture is read as it is: by itself its size would follow the result's.
            changed = changed.model_copy(update={"input_pixels": "native"})
            request: GenerateRequest | EditRequest = EditRequest("make it red", (drawing((64, 96), 1),), changed)
        else:
            request = GenerateRequest("a cat", changed)
        pictures, read = drawn(engine, request)
        assert set(read) == branches
        assert not number or not any(read.values())
        fresh.clear_cache()
        assert pictures == drawn(fresh, request)[0]


def test_another_instruction_reads_only_the_branch_that_sees_it(drawing_engines: tuple[Engine, Engine]) -> None:
    engine, fresh = drawing_engines
    engine.clear_cache()
    settings = SMALL.model_copy(update={"cfg_scale": 4.0, "img_cfg_scale": 2.0})
    first, second = (EditRequest(text, (drawing((64, 96), 1),), settings) for text in ("make it red", "make it blue"))
    drawn(engine, first)
    pictures, read = drawn(engine, second)
    assert read["images"] == read["unconditional"] == 0
    assert read["condition"] == drawn(fresh, second)[1]["condition"], "part of a prefix would round otherwise"
    fresh.clear_cache()
    assert pictures == drawn(fresh, second)[0]


def read_in_parts(engine: Engine, sequence: TokenSequence, pictures: list[torch.Tensor], cut: int) -> torch.Tensor:
    """Logits behind a sequence of which the first `cut` tokens are read first."""
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
def test_what_is_left_of_a_sequence_may_hold_pictures(pair: Callable[[str], tuple[Engine, Engine]], name: str) -> None:
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


def test_a_follow_up_keeps_each_picture_where_it_was() -> None:
    one, two, three = (drawing((64, 96), seed) for seed in (1, 2, 3))
    request = Conversation(system="Be brief.").ask("Compare them.", (one, two))
    conversation = Conversation.after(request, "They differ.")
    assert conversation.turns == (
        Message("user", "Image-1:<image>\nImage-2:<image>\nCompare them."),
        Message("assistant", "They differ."),
    )
    follow_up = conversation.ask("And this?", (three,))
    assert follow_up.history == conversation.turns
    assert follow_up.images == (one, two, three)
    assert follow_up.system == "Be brief."
    longer = Conversation.after(follow_up, "That <image> too.")
    assert longer.turns[2:] == (Message("user", "<image>\nAnd this?"), Message("assistant", "That <image> too."))
    assert Conversation.after(longer.ask("Why?"), "So.").turns[:4] == longer.turns
    assert conversation.images == (one, two), "a conversation does not change"


def test_a_question_without_a_picture_for_its_placeholder_is_refused() -> None:
    conversation = conversation_about(drawing((64, 96), 1))
    with pytest.raises(RequestError, match="2 <image> placeholders for 1 picture"):
        conversation.ask("What about <image>?")
    with pytest.raises(RequestError, match="question is empty"):
        conversation.ask(" ")
