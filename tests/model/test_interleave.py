"""Interleaved answers on the parity checkpoints: events, budgets, cancellation, replays and bad input.

`deciding` makes the model take the decisions of a golden case, and `writing` makes it write given tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from PIL import Image

from config.settings import MAX_SEED, ImageSettings, TextSettings
from model import (
    DenoisingStep,
    Engine,
    Event,
    InterleavedAnswer,
    InterleaveRequest,
    Message,
    Notice,
    Picture,
    PicturePart,
    PrefixRead,
    RequestError,
    Statistics,
    TextPart,
    TextToken,
    ThinkText,
    ThinkToken,
)
from model.checkpoint.named_lora import NamedLora
from model.engine import LocalEngine
from model.inputs.tokenizer import Tokenizer
from tests.model.checkpoint.test_lora import matrices, write_lora
from tests.parity.cases import Case, case_id
from tests.parity.interleaved import deciding, interleave_request, interleaved_cases

CASES = {case_id(case): case for case in interleaved_cases()}
RED = Image.new("RGB", (64, 64), "red")
SMALL = ImageSettings(size="64x64", num_steps=2, seed=5)
EventType = TypeVar("EventType", bound=Event)


@pytest.fixture
def u1(parity_engine: Callable[[str, str], Engine]) -> LocalEngine:
    engine = parity_engine("u1", "cpu")
    assert isinstance(engine, LocalEngine)
    engine.clear_cache()
    return engine


@contextmanager
def writing(monkeypatch: pytest.MonkeyPatch, engine: LocalEngine, *script: str | int) -> Iterator[None]:
    """Make the model write these tokens; after them, the end of the turn."""
    tokenizer = Tokenizer(engine.checkpoint)
    ids = [token if isinstance(token, int) else tokenizer.encode(token)[0] for token in script]
    remaining = iter([*ids, *[tokenizer.end_of_turn] * 9])
    with monkeypatch.context() as patched:
        sampler = lambda settings, device: lambda logits, tokens: torch.tensor(next(remaining))  # noqa: E731
        patched.setattr("model.tasks.interleaved_text.make_sampler", sampler)
        yield


def run(engine: LocalEngine, case: Case, request: InterleaveRequest | None = None) -> list[Event]:
    with deciding(engine, case):
        return list(engine.run(request or interleave_request(case)))


def of(events: list[Event], kind: type[EventType]) -> list[EventType]:
    return [event for event in events if isinstance(event, kind)]


def answer_of(events: list[Event]) -> InterleavedAnswer:
    (answer,) = of(events, InterleavedAnswer)
    return answer


def pictures_of(events: list[Event]) -> list[bytes]:
    return [picture.image.tobytes() for picture in of(events, Picture)]


def test_events_come_in_the_order_of_the_answer(u1: LocalEngine) -> None:
    events = run(u1, CASES["u1/two_pictures"])
    picture = [*[DenoisingStep] * 3, Picture]
    words = [[TextToken] * count for count in (5, 4, 3)]
    start = [Notice, PrefixRead, PrefixRead]
    assert [type(event) for event in events] == [
        *start, *words[0], *picture, *words[1], *picture, *words[2], InterleavedAnswer, Statistics,
    ]  # fmt: skip
    parts = answer_of(events).parts
    assert [type(part) for part in parts] == [TextPart, PicturePart, TextPart, PicturePart, TextPart]
    assert [part for part in parts if isinstance(part, PicturePart)] == [
        PicturePart(0, 21, "96x96"),
        PicturePart(1, 22, "96x96"),
    ]
    steps = of(events, DenoisingStep)
    assert [(step.index, step.count, step.step) for step in steps] == [(k, 10, n) for k in (0, 1) for n in (1, 2, 3)]
    for picture in of(events, Picture):
        assert (picture.settings.seed, picture.settings.size) == (21 + picture.index, "96x96")
        assert picture.settings.num_images == 1
    statistics = of(events, Statistics)[0]
    assert (statistics.steps, statistics.new_tokens) == (6, 12)


@pytest.mark.parametrize("name", ["u1/two_pictures", "u1/think", "u1/text_only"])
def test_every_token_is_yielded_once(u1: LocalEngine, name: str) -> None:
    events = run(u1, CASES[name])
    tokens = [event for event in events if isinstance(event, TextToken | ThinkToken)]
    parts = [part for part in answer_of(events).parts if isinstance(part, TextPart)]
    assert [token.token_id for token in tokens] == [number for part in parts for number in part.token_ids]
    assert [isinstance(token, ThinkToken) for token in tokens] == [
        part.thinking for part in parts for _ in part.token_ids
    ]
    shown = "".join(part.text for part in parts).replace("<think>", "").replace("</think>", "")
    assert "".join(token.text for token in tokens) == shown


def test_a_picture_inside_the_thinking(u1: LocalEngine) -> None:
    events = run(u1, CASES["u1/think"])
    (think,) = of(events, ThinkText)
    before, picture, after, answer = answer_of(events).parts
    assert isinstance(picture, PicturePart)
    assert isinstance(before, TextPart) and isinstance(after, TextPart) and isinstance(answer, TextPart)
    assert (before.thinking, after.thinking, answer.thinking) == (True, True, False)
    assert before.text.startswith("<think>") and after.text.endswith("</think>")
    assert think.token_ids == before.token_ids + after.token_ids
    assert think.text == (before.text + after.text).removeprefix("<think>").removesuffix("</think>")
    assert think.finish == "end"
    assert events.index(of(events, Picture)[0]) < events.index(think) < events.index(of(events, TextToken)[0])


@pytest.mark.parametrize("most", [1, 3])
def test_another_picture_after_the_last_allowed_one_ends_the_answer(u1: LocalEngine, most: int) -> None:
    case = CASES["u1/ten_pictures"]
    whole, cut = run(u1, case), run(u1, case, interleave_request(case, max_images=most))
    assert answer_of(cut).finish == "images"
    assert pictures_of(cut) == pictures_of(whole)[:most]
    assert answer_of(cut).parts == answer_of(whole).parts[: most + 1]


@pytest.mark.parametrize(
    ("name", "max_tokens", "pictures"),
    [
        ("u1/two_pictures", 4, 0),
        ("u1/two_pictures", 5, 0),
        ("u1/two_pictures", 7, 1),
        ("u1/think", 7, 1),
        ("u1/think", 1, 0),
    ],
)
def test_the_budget_is_that_of_the_whole_answer(u1: LocalEngine, name: str, max_tokens: int, pictures: int) -> None:
    """It ends the answer also where the model would have opened a picture next."""
    events = run(u1, CASES[name], interleave_request(CASES[name], max_tokens=max_tokens))
    answer = answer_of(events)
    assert answer.finish == "length"
    assert sum(len(part.token_ids) for part in answer.parts if isinstance(part, TextPart)) == max_tokens
    assert len(of(events, Picture)) == pictures
    assert [think.finish for think in of(events, ThinkText)] == (["length"] if name == "u1/think" else [])
    notices = [notice.text for notice in of(events, Notice) if "no picture" in notice.text]
    assert notices == ([] if pictures else ["the answer has no picture: `max_tokens` was reached first"])


def test_an_answer_without_pictures_says_so(u1: LocalEngine) -> None:
    events = run(u1, CASES["u1/text_only"])
    assert "the answer has no picture: the model ended it without opening one" in [
        notice.text for notice in of(events, Notice)
    ]


def test_thinking_that_is_never_closed(u1: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(monkeypatch, u1, "<think>", 300, "<img>", 301):
        events = list(u1.run(InterleaveRequest("a book", settings=SMALL)))
    answer = answer_of(events)
    assert answer.finish == "end"
    assert [isinstance(part, PicturePart) or part.thinking for part in answer.parts] == [True, True, True]
    (think,) = of(events, ThinkText)
    assert think.finish == "end" and events.index(think) > events.index(of(events, Picture)[0])


def test_tags_out_of_place_are_text(u1: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(monkeypatch, u1, "</think>", 300, "<think>", "<think>", 301, "</think>", "<think>", "</think>"):
        events = list(u1.run(InterleaveRequest("a book", settings=SMALL)))
    texts = [(part.text, part.thinking) for part in answer_of(events).parts if isinstance(part, TextPart)]
    a, b = Tokenizer(u1.checkpoint).decode([300]), Tokenizer(u1.checkpoint).decode([301])
    assert texts == [(f"</think>{a}", False), (f"<think><think>{b}</think><think></think>", True)]
    assert [think.text for think in of(events, ThinkText)] == [b, ""]


def test_an_answer_may_begin_and_end_with_pictures(u1: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(monkeypatch, u1, "<img>", "<img>"):
        events = list(u1.run(InterleaveRequest("a book", settings=SMALL)))
    assert [type(part) for part in answer_of(events).parts] == [PicturePart, PicturePart]
    first, second = pictures_of(events)
    assert first != second


def test_a_cancelled_answer_leaves_the_engine_usable(u1: LocalEngine) -> None:
    case = CASES["u1/ten_pictures"]
    request = interleave_request(case, max_images=2)
    whole = run(u1, case, request)
    with deciding(u1, case):
        for count in range(1, len(whole)):
            with closing(u1.run(request)) as events:
                taken = [next(events) for _ in range(count)]
            assert pictures_of(taken) == pictures_of(whole)[: len(of(taken, Picture))]
        again = list(u1.run(request))
    assert pictures_of(again) == pictures_of(whole) and answer_of(again) == answer_of(whole)
    assert [read.reused for read in of(again, PrefixRead)] == [read.tokens for read in of(again, PrefixRead)]


def test_a_picture_is_replayed_with_fewer_pictures_and_on_any_cache(u1: LocalEngine) -> None:
    case = CASES["u1/two_inputs_dual"]
    whole = run(u1, case)
    list(u1.run(InterleaveRequest("something else", settings=SMALL, text_settings=TextSettings(max_tokens=2))))
    for index, picture in enumerate(pictures_of(whole)):
        assert pictures_of(run(u1, case, interleave_request(case, max_images=index + 1)))[index] == picture


def test_previews_are_those_of_each_picture(u1: LocalEngine) -> None:
    case = CASES["u1/two_pictures"]
    request = replace(interleave_request(case), preview_every=2, preview_size=48)
    events = run(u1, case, request)
    shown = [(step.index, step.step) for step in of(events, DenoisingStep) if step.preview is not None]
    assert shown == [(0, 2), (1, 2)]
    assert pictures_of(events) == pictures_of(run(u1, case))


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({"cfg_scale": 1.0}, ["condition"]),
        ({}, ["condition", "images"]),
        ({"img_cfg_scale": 4.0}, ["condition", "unconditional"]),
        ({"img_cfg_scale": 2.0}, ["condition", "images", "unconditional"]),
        ({"cfg_interval": (0.99, 1.0)}, ["condition"]),
    ],
)
def test_branches_that_guidance_does_not_need_are_not_read(
    u1: LocalEngine, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], read: list[str]
) -> None:
    passes: list[int] = []
    prefill = u1._runner.model.network.prefill

    def counted(embeddings: torch.Tensor, *others: Any) -> torch.Tensor:
        passes.append(embeddings.shape[1])
        return prefill(embeddings, *others)

    monkeypatch.setattr(u1._runner.model.network, "prefill", counted)
    with writing(monkeypatch, u1, "<img>", "<img>"):
        events = list(u1.run(InterleaveRequest("a book", settings=SMALL.model_copy(update=changes))))
    assert [event.branch for event in of(events, PrefixRead)] == read
    # Four tokens a picture, `</img>`, and in the images branch the next `<img>`. That branch never reads the last one.
    assert passes[len(read) :] == ([5, 6, 5] if "images" in read else [5, 5])


def test_sampling_has_one_generator_for_the_whole_answer(u1: LocalEngine) -> None:
    case = CASES["u1/two_pictures"]

    def ids(seed: int) -> list[tuple[int, ...]]:
        request = interleave_request(case, do_sample=True, temperature=2.0, seed=seed, max_tokens=24)
        return [part.token_ids for part in answer_of(run(u1, case, request)).parts if isinstance(part, TextPart)]

    assert ids(1) == ids(1) != ids(2)


def test_the_repetition_penalty_counts_the_whole_answer(u1: LocalEngine) -> None:
    case = CASES["u1/two_pictures"]
    events = run(u1, case, interleave_request(case, repetition_penalty=1.5, max_tokens=12))
    assert len(of(events, Picture)) == 2, "`<img>` is not counted"
    written = [number for part in answer_of(events).parts if isinstance(part, TextPart) for number in part.token_ids]
    assert len(set(written)) == len(written)


def test_the_size_follows_the_first_picture_of_this_turn(u1: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    history = (Message("user", "<image>"), Message("assistant", "I see.", (1,)))
    settings = SMALL.model_copy(update={"size": "auto", "num_steps": 1})
    wide = Image.new("RGB", (900, 200))
    with writing(monkeypatch, u1, "<img>"):
        events = list(u1.run(InterleaveRequest("a book", (RED, RED, wide), settings, history=history)))
    assert of(events, Picture)[0].settings.size == "1088x256"
    assert "is not a size this model was trained on" not in "".join(notice.text for notice in of(events, Notice))


def test_earlier_interleaved_answers_are_read_with_their_pictures(
    u1: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = (Message("user", "a kite"), Message("assistant", "It flies.", (3,)))
    reads = []
    for image in (RED, Image.new("RGB", (64, 64), "blue")):
        with writing(monkeypatch, u1, 300, "<img>"):
            events = list(u1.run(InterleaveRequest("more", (image,), SMALL, history=history)))
        reads.append(pictures_of(events))
        assert [event.image_tokens for event in of(events, PrefixRead)] == [256, 256]
    assert reads[0] != reads[1]


BAD: dict[str, Callable[[], InterleaveRequest]] = {
    "the prompt is empty": lambda: InterleaveRequest(" "),
    "2 <image> placeholders for 1 picture": lambda: InterleaveRequest("<image> and <image>", (RED,)),
    "1 <image> placeholders for 0 picture": lambda: InterleaveRequest(
        "<image>", (RED,), history=(Message("assistant", "a", (0,)),)
    ),
    "the earlier answers show 2 pictures, and the request has 1": lambda: InterleaveRequest(
        "a", (RED,), history=(Message("assistant", "a", (0, 1)),)
    ),
    "`images_at` is .2. for a text of 1 characters": lambda: InterleaveRequest(
        "a", (RED,), history=(Message("assistant", "a", (2,)),)
    ),
    "a user's turn has `images_at`": lambda: InterleaveRequest("a", (RED,), history=(Message("user", "a", (0,)),)),
    "10 pictures from seed": lambda: InterleaveRequest("a", settings=ImageSettings(seed=MAX_SEED - 8)),
    "cfg_zero_star works for generating only": lambda: InterleaveRequest(
        "a", settings=ImageSettings(cfg_norm="cfg_zero_star")
    ),
    "the system message contains <img>": lambda: InterleaveRequest("a", system="<img>"),
    "preview_every is -1": lambda: InterleaveRequest("a", preview_every=-1),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_request_is_refused(message: str) -> None:
    with pytest.raises(RequestError, match=message):
        BAD[message]()


def test_the_largest_seed_is_that_of_the_last_picture() -> None:
    InterleaveRequest("a", settings=ImageSettings(seed=MAX_SEED - 9))
    InterleaveRequest("a", settings=ImageSettings(seed=MAX_SEED), text_settings=TextSettings(max_images=1))


def test_defaults_are_those_of_the_task() -> None:
    request = InterleaveRequest("a")
    assert (request.settings.think, request.text_settings.max_tokens, request.text_settings.max_images) == (
        True,
        8192,
        10,
    )


@pytest.mark.skipif(find_spec("cache_dit") is None, reason="needs cache-dit")
def test_each_picture_has_a_step_cache_of_its_own(u1: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {"num_steps": 6, "cache_threshold": 1.0, "cache_warmup_steps": 2, "cache_first_layers": 1}
    settings = SMALL.model_copy(update={"cache": "balanced", "cache_last_layers": 0, **quick})
    with writing(monkeypatch, u1, 300, "<img>", 301, "<img>"):
        events = list(u1.run(InterleaveRequest("a book", settings=settings)))
    for picture in of(events, Picture):
        assert picture.caching is not None
        for branch in picture.caching.branches:
            assert (branch.computed_steps >= 2, branch.computed_steps + branch.reused_steps) == (True, 6)
        assert picture.caching.layers_computed < picture.caching.layers


def test_a_lora_of_the_generation_tower_changes_pictures_only(u1: LocalEngine, tmp_path: Path) -> None:
    case = CASES["u1/one_picture"]
    shapes = {name: shape for name, shape in matrices(u1.checkpoint).items() if "_mot_gen" in name}
    plain = run(u1, case)
    u1.use_loras([NamedLora(str(write_lora(tmp_path / "style.safetensors", shapes)))])
    styled = run(u1, case)
    u1.use_loras([])
    assert pictures_of(styled) != pictures_of(plain)
    assert answer_of(styled).parts[0] == answer_of(plain).parts[0]
    assert pictures_of(run(u1, case)) == pictures_of(plain)
