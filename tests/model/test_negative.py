"""A negative prompt: the words of guidance's unconditional branch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from config.settings import ImageSettings
from model import EditRequest, Engine, Event, GenerateRequest, InterleaveRequest, Notice, Picture, PrefixRead
from model.errors import RequestError
from model.wire import UnpackedRequest, pack, unpack_request
from tests.model.prefix_reuse import SMALL, drawing, of

WORDS = "a red dog, blurry"
GUIDED = SMALL.model_copy(update={"cfg_scale": 4.0})
EDIT = {"cfg_scale": 4.0, "img_cfg_scale": 2.0}


def with_words(settings: ImageSettings, words: str = WORDS, **changes: float | tuple[float, float]) -> ImageSettings:
    return settings.model_copy(update={"negative": words, **changes})


def picture(events: list[Event]) -> bytes:
    return of(events, Picture)[0].image.tobytes()


def prefix(events: list[Event], branch: str) -> PrefixRead:
    return next(event for event in of(events, PrefixRead) if event.branch == branch)


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in of(events, Notice) if "`negative`" in event.text]


def test_the_branch_has_the_tokens_of_a_picture_of_these_words(engines: tuple[Engine, Engine]) -> None:
    engine, fresh = engines
    drawn = list(fresh.run(GenerateRequest(WORDS, SMALL.model_copy(update={"cfg_scale": 1.0}))))
    guided = list(engine.run(GenerateRequest("a cat", with_words(GUIDED))))
    assert prefix(guided, "unconditional").tokens == prefix(drawn, "condition").tokens
    assert notices(guided) == []
    fresh.clear_cache()
    same = list(fresh.run(GenerateRequest(WORDS, with_words(GUIDED))))
    assert picture(same) == picture(drawn), "with the prompt as negative prompt, guidance has no effect"


def test_without_words_nothing_changes(engines: tuple[Engine, Engine]) -> None:
    engine, fresh = engines
    expected = picture(list(fresh.run(GenerateRequest("a cat", GUIDED))))
    for words in ("", "  ", "\u200b\n"):
        request = GenerateRequest("a cat", ImageSettings.model_validate({**GUIDED.model_dump(), "negative": words}))
        assert request.settings.negative == ""
        events = list(engine.run(request))
        assert picture(events) == expected
    assert picture(list(engine.run(GenerateRequest("a cat", with_words(GUIDED))))) != expected


def test_the_prefix_cache_knows_the_words(engines: tuple[Engine, Engine]) -> None:
    engine, fresh = engines
    first = GenerateRequest("a cat", with_words(GUIDED))
    list(engine.run(first))
    again = list(engine.run(first))
    assert prefix(again, "unconditional").reused == prefix(again, "unconditional").tokens
    other = list(engine.run(GenerateRequest("a cat", with_words(GUIDED, "a blue dog"))))
    assert prefix(other, "unconditional").reused == 0
    fresh.clear_cache()
    assert picture(list(fresh.run(GenerateRequest("a cat", with_words(GUIDED, "a blue dog"))))) == picture(other)


def test_an_edit_uses_them_in_the_branch_without_pictures(engines: tuple[Engine, Engine]) -> None:
    engine, _ = engines
    image = drawing((64, 96), 1)
    plain = list(engine.run(EditRequest("make it red", (image,), SMALL.model_copy(update=EDIT))))
    events = list(engine.run(EditRequest("make it red", (image,), with_words(SMALL, **EDIT))))
    assert prefix(events, "unconditional").image_tokens == 0
    assert prefix(events, "images").tokens == prefix(plain, "images").tokens
    assert prefix(events, "unconditional").tokens > prefix(plain, "unconditional").tokens
    assert picture(events) != picture(plain) and notices(events) == []


def test_an_interleaved_answer_uses_them(pair: Callable[[str], tuple[Engine, Engine]]) -> None:
    engine, _ = pair("u1")
    events = list(engine.run(InterleaveRequest("a tale", settings=with_words(SMALL, **EDIT))))
    drawn = list(engine.run(GenerateRequest(WORDS, SMALL)))
    assert prefix(events, "unconditional").tokens == prefix(drawn, "condition").tokens


@pytest.mark.parametrize(
    ("changes", "notice"),
    [
        (
            {"cfg_scale": 1.0},
            "no effect here: it is used where guidance is on, with `cfg_scale` above 1",
        ),
        ({"cfg_scale": 4.0, "cfg_interval": (0.9, 0.91)}, "no step has guidance in this `cfg_interval`"),
    ],
)
def test_no_effect_is_said(engine: Engine, changes: dict[str, float], notice: str) -> None:
    (text,) = notices(list(engine.run(GenerateRequest("a cat", with_words(SMALL, **changes)))))
    assert notice in text


@pytest.mark.parametrize(
    ("scale", "notice"),
    [
        (1.0, "no effect here: it is used where `img_cfg_scale` is above 1"),
        (0.5, "led towards `negative`"),
    ],
)
def test_an_edit_says_where_they_lead(engine: Engine, scale: float, notice: str) -> None:
    settings = with_words(SMALL, cfg_scale=4.0, img_cfg_scale=scale)
    (text,) = notices(list(engine.run(EditRequest("make it red", (drawing((64, 64), 2),), settings))))
    assert notice in text


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("a <image>", "the negative prompt contains <image>"),
        ("</img>", "the negative prompt contains </img>"),
        ("caf\udce9", "the negative prompt contains bytes that are not UTF-8 text"),
        ("a\0b", "the negative prompt contains a NUL character"),
    ],
)
def test_wrong_words(words: str, problem: str) -> None:
    settings = with_words(GUIDED, words)
    with pytest.raises(RequestError, match=problem):
        GenerateRequest("a cat", settings)
    with pytest.raises(RequestError, match=problem):
        EditRequest("make it red", (drawing((64, 64), 2),), settings)


def test_the_wire_form_names_them_only_if_there_are_any() -> None:
    """An older server would report that it ignores the setting."""
    request = GenerateRequest("a cat", with_words(GUIDED))
    assert unpack_request(pack(request)).request == request
    plain = pack(GenerateRequest("a cat", GUIDED))
    assert isinstance(plain.content["settings"], dict) and "negative" not in plain.content["settings"]
    assert unpack_request(plain) == UnpackedRequest(GenerateRequest("a cat", GUIDED), ())


def test_layers_that_are_streamed(tiny_checkpoint: Path, engine: Engine) -> None:
    request = GenerateRequest("a cat", with_words(GUIDED))
    streamed = Engine.load(tiny_checkpoint, device="cpu", dtype="float32", offload="layers")
    assert picture(list(streamed.run(request))) == picture(list(engine.run(request)))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"tensor_parallel_size": 2}, {"cfg_parallel_size": 2}])
def test_ranks(tiny_checkpoint: Path, engine: Engine, sizes: dict[str, int]) -> None:
    request = GenerateRequest("a cat", with_words(GUIDED))
    shared = Engine.load(tiny_checkpoint, device="cpu", dtype="float32", **sizes)
    try:
        made = of(list(shared.run(request)), Picture)[0].image
    finally:
        shared.close()
    expected = of(list(engine.run(request)), Picture)[0].image
    assert np.abs(np.asarray(made, np.int16) - np.asarray(expected, np.int16)).max() <= 1


def test_the_demo_leaves_out_what_they_name() -> None:
    """Without words, seed 2 draws a blue circle."""
    demo = Engine.load("demo", device="cpu", dtype="float32")
    settings = ImageSettings(size="256x256", seed=2, num_steps=12, cfg_scale=2.5)

    def center(words: str) -> tuple[float, ...]:
        events = list(demo.run(GenerateRequest("a circle", with_words(settings, words))))
        return tuple(np.asarray(of(events, Picture)[0].image, np.float32)[112:144, 112:144].mean(axis=(0, 1)))

    red, green, blue = center("")
    assert blue > 180 and max(red, green) < 110
    red, green, blue = center("a blue circle")
    assert blue < 110 and max(red, green) > 180
