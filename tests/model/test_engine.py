"""The engine on a tiny checkpoint: events, skipped work, cancellation, and errors."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from PIL import Image

from model import (
    Answer,
    AnswerRequest,
    DenoisingStep,
    EditRequest,
    Engine,
    Event,
    GenerateRequest,
    ImageSettings,
    Notice,
    Picture,
    PrefixRead,
    Statistics,
    TextSettings,
    TextToken,
    ThinkText,
    ThinkToken,
    Trace,
)
from model.inputs.image_tensors import to_image
from model.network.sensenova import SenseNovaU1
from model.sampling import denoise
from model.sampling.guidance import generate_guidance

SMALL = ImageSettings(size="64x96", num_steps=3, seed=5)
EventType = TypeVar("EventType", bound=Event)
CPU = torch.device("cpu")
PICTURE = Image.new("RGB", (100, 80), "orange")


def small(**changes: Any) -> ImageSettings:
    return ImageSettings(**{**SMALL.model_dump(), **changes})


def of(events: list[Event], kind: type[EventType]) -> list[EventType]:
    return [event for event in events if isinstance(event, kind)]


def picture(engine: Engine, request: GenerateRequest | EditRequest) -> Picture:
    return of(list(engine.run(request)), Picture)[0]


def test_events_of_a_picture(engine: Engine) -> None:
    events = list(engine.run(GenerateRequest("a cat", small(size="256x256"))))
    assert [type(event) for event in events] == [PrefixRead, PrefixRead, *[DenoisingStep] * 3, Picture, Statistics]
    steps = of(events, DenoisingStep)
    assert [(step.step, step.steps) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert steps[-1].time == 1
    assert [step.preview for step in steps] == [None] * 3
    made = of(events, Picture)[0]
    assert made.image.size == (256, 256)
    assert made.settings.size == "256x256"
    statistics = of(events, Statistics)[0]
    assert statistics.steps == 3
    assert statistics.prefix_tokens == sum(event.tokens - event.reused for event in of(events, PrefixRead))
    assert statistics.peak_memory > 0


def test_the_last_prediction_is_the_picture(engine: Engine) -> None:
    trace = Trace()
    list(engine.run(GenerateRequest("a cat", small(cfg_scale=1.0)), trace))
    assert (trace.predicted[-1].cpu() - trace.pictures[0]).abs().max() < 1e-4


@pytest.mark.parametrize(("every", "shown"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (5, [5]), (6, []), (0, [])])
def test_previews_follow_preview_every(engine: Engine, every: int, shown: list[int]) -> None:
    request = EditRequest("red", (PICTURE,), small(num_steps=5, num_images=2), preview_every=every, preview_size=40)
    for index in range(2):
        steps = [event for event in of(list(engine.run(request)), DenoisingStep) if event.index == index]
        assert [step.step for step in steps if step.preview is not None] == shown
        assert {step.preview.size for step in steps if step.preview is not None} <= {(27, 40)}


def test_a_preview_is_the_predicted_picture(engine: Engine) -> None:
    """The picture is the same with and without previews."""
    trace = Trace()
    request = GenerateRequest("a cat", small(cfg_scale=1.0), preview_every=1)
    events = list(engine.run(request, trace))
    previews = [step.preview for step in of(events, DenoisingStep)]
    assert previews == [to_image(predicted) for predicted in trace.predicted]
    (made,) = of(events, Picture)
    assert made.image == picture(engine, replace(request, preview_every=0)).image


def test_no_preview_is_made_by_default(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a preview was made")

    monkeypatch.setattr("model.tasks.draw.to_preview", refuse)
    assert picture(engine, GenerateRequest("a cat", SMALL, preview_size=40))


def test_a_trace_holds_what_the_request_computed(engine: Engine) -> None:
    trace = Trace()
    (made, _) = of(list(engine.run(GenerateRequest("a cat", small(num_images=2)), trace)), Picture)
    assert {each.shape for each in trace.predicted} == {(1, 3, 96, 64)}
    assert {each.shape for each in trace.velocities} == {(1, 6, 3 * 32**2)}
    assert len(trace.predicted) == len(trace.velocities) == 6
    assert len(trace.pictures) == 2 and to_image(trace.pictures[0]) == made.image
    assert trace.first_logits is None
    answered = Trace()
    (answer,) = of(list(engine.run(AnswerRequest("hello", settings=TextSettings(max_tokens=2)), answered)), Answer)
    assert answered.first_logits is not None and int(answered.first_logits.argmax()) == answer.token_ids[0]


def test_same_seed_same_picture(engine: Engine) -> None:
    first, again = (picture(engine, GenerateRequest("a cat", SMALL)) for _ in range(2))
    other = picture(engine, GenerateRequest("a cat", small(seed=6)))
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()


def test_each_of_several_pictures_has_its_own_seed(engine: Engine) -> None:
    events = list(engine.run(GenerateRequest("a cat", small(num_images=3))))
    pictures = of(events, Picture)
    assert [made.settings.seed for made in pictures] == [5, 6, 7]
    assert len(of(events, PrefixRead)) == 2, "the prefixes are read once for all pictures"
    alone = picture(engine, GenerateRequest("a cat", pictures[2].settings))
    assert alone.image.tobytes() == pictures[2].image.tobytes()


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"cfg_scale": 4.0}, 6),
        ({"cfg_scale": 1.0}, 3),
        ({"cfg_scale": 4.0, "cfg_interval": (0.0, 0.0)}, 4),
        ({"cfg_scale": 4.0, "cfg_interval": (0.99, 1.0)}, 3),
        ({"cfg_norm": "cfg_zero_star"}, 5),
        ({"timestep_shift": 1.32}, 6),
    ],
)
def test_unneeded_branches_are_not_computed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], passes: int
) -> None:
    calls = count_passes(engine, monkeypatch)
    list(engine.run(GenerateRequest("a cat", small(**changes))))
    assert len(calls) == passes


@pytest.mark.parametrize(("text", "image", "branches"), [(1.0, 1.0, 1), (4.0, 1.0, 2), (3.0, 3.0, 2), (4.0, 2.0, 3)])
def test_edit_branches(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, text: float, image: float, branches: int
) -> None:
    calls = count_passes(engine, monkeypatch)
    settings = small(cfg_scale=text, img_cfg_scale=image)
    events = list(engine.run(EditRequest("paint it red", (PICTURE,), settings)))
    assert len(of(events, PrefixRead)) == branches
    assert len(calls) == 3 * branches


def count_passes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    predict = engine._runner.model.network.predict

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return predict(*arguments)

    monkeypatch.setattr(engine._runner.model.network, "predict", counted)
    return calls


def test_edit_takes_the_first_pictures_aspect(engine: Engine) -> None:
    made = picture(engine, EditRequest("paint it red", (PICTURE,), small(size="auto")))
    assert made.image.size == (288, 224)


def test_pictures_change_the_result(engine: Engine) -> None:
    other = Image.new("RGB", (100, 80), "navy")
    first, second = (picture(engine, EditRequest("paint it red", (image,), SMALL)) for image in (PICTURE, other))
    assert first.image.tobytes() != second.image.tobytes()


def test_a_picture_is_embedded_once_for_all_branches(engine: Engine) -> None:
    embedded: list[torch.Size] = []
    hook = engine._runner.model.network.und_vision.register_forward_hook(
        lambda _, inputs, __: embedded.append(inputs[0].shape)
    )
    dual = small(cfg_scale=4.0, img_cfg_scale=2.0)
    branches = of(list(engine.run(EditRequest("red", (PICTURE, PICTURE), dual))), PrefixRead)
    hook.remove()
    assert len(branches) == 3
    assert len(embedded) == 2


def test_think_text_comes_before_the_picture(engine: Engine) -> None:
    events = list(engine.run(GenerateRequest("a cat", small(think=True, max_think_tokens=12))))
    tokens, think = of(events, ThinkToken), of(events, ThinkText)[0]
    assert 0 < len(think.token_ids) <= 12
    assert "".join(token.text for token in tokens) == think.text
    assert of(events, Picture)[0].think_text == think.text
    assert events.index(think) < events.index(of(events, DenoisingStep)[0])


def test_an_answer_streams_its_text(engine: Engine) -> None:
    events = list(engine.run(AnswerRequest("what is it?", (PICTURE,), settings=TextSettings(max_tokens=9))))
    answer = of(events, Answer)[0]
    assert "".join(token.text for token in of(events, TextToken)) == answer.text
    assert len(answer.token_ids) <= 9
    assert of(events, PrefixRead)[0].image_tokens > 0
    assert isinstance(events[-1], Statistics)


@pytest.mark.parametrize("kind", ["answer", "think"])
def test_every_token_is_yielded_once(parity_engine: Callable[[str, str], Engine], kind: str) -> None:
    """Also if the text ends in the middle of a character, whose bytes belong to the last token."""
    engine = parity_engine("u1", "cpu")
    broken_ends = 0
    for length in range(1, 20):
        if kind == "answer":
            answer_settings = TextSettings(max_tokens=length, do_sample=True, temperature=3.0, seed=length)
            events = list(engine.run(AnswerRequest("hello", settings=answer_settings)))
            tokens, whole = of(events, TextToken), of(events, Answer)[0]
        else:
            draw_settings = small(think=True, max_think_tokens=length, num_steps=1)
            events = list(engine.run(GenerateRequest("a red circle", draw_settings)))
            tokens, whole = of(events, ThinkToken), of(events, ThinkText)[0]
        assert tuple(token.token_id for token in tokens) == whole.token_ids
        assert "".join(token.text for token in tokens) == whole.text
        broken_ends += whole.text.endswith("\N{REPLACEMENT CHARACTER}")
    assert broken_ends


def test_sampling_follows_its_seed(engine: Engine) -> None:
    def answer(**settings: Any) -> tuple[int, ...]:
        sampled = TextSettings(max_tokens=16, do_sample=True, temperature=2.0, **settings)
        return of(list(engine.run(AnswerRequest("hello", settings=sampled))), Answer)[0].token_ids

    greedy = of(list(engine.run(AnswerRequest("hello", settings=TextSettings(max_tokens=16)))), Answer)[0].token_ids
    assert answer(seed=1) == answer(seed=1) != answer(seed=2)
    assert answer(seed=1, top_k=1) == greedy


def test_repetition_penalty_counts_the_new_tokens(engine: Engine) -> None:
    settings = TextSettings(max_tokens=40, repetition_penalty=10.0)
    ids = of(list(engine.run(AnswerRequest("hello", settings=settings))), Answer)[0].token_ids
    assert len(set(ids)) == len(ids)


def test_inference_mode_does_not_leak_to_the_consumer(engine: Engine) -> None:
    for _ in engine.run(GenerateRequest("a cat", small(think=True, max_think_tokens=2))):
        assert not torch.is_inference_mode_enabled()


def test_untrained_sizes_give_a_notice(engine: Engine) -> None:
    notices = of(list(engine.run(GenerateRequest("a cat", SMALL))), Notice)
    assert [notice.text for notice in notices] == [
        "This model was not trained on 64x96, so the picture may be broken; nearest: 192x320"
    ]


@pytest.mark.parametrize("kind", ["device", "cpu"])
def test_noise_is_drawn_on_the_chosen_device(engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    drawn: list[torch.device] = []

    def recorded(size: Any, seed: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        drawn.append(device)
        return torch.zeros(1, 3, size[1], size[0], dtype=dtype)

    elsewhere = torch.device("meta")
    monkeypatch.setattr(denoise, "starting_noise", recorded)
    monkeypatch.setattr(SenseNovaU1, "device", property(lambda network: elsewhere if not drawn else CPU))
    settings = small(noise=kind, num_steps=1)
    with contextlib.suppress(RuntimeError, NotImplementedError):  # the network cannot run on "meta"
        list(denoise.denoise(engine._runner.model.backend, {}, generate_guidance(settings), (64, 96), 1, settings))
    assert drawn == [CPU if kind == "cpu" else elsewhere]


def test_an_edit_of_the_pictures_size_gives_no_notice(engine: Engine) -> None:
    assert of(list(engine.run(EditRequest("red", (PICTURE,), small(size="auto", num_steps=1)))), Notice) == []


def test_the_consumers_time_is_not_counted(engine: Engine) -> None:
    statistics = None
    for event in engine.run(AnswerRequest("hello", settings=TextSettings(max_tokens=3))):
        if isinstance(event, TextToken):
            time.sleep(0.1)
        statistics = event
    assert isinstance(statistics, Statistics)
    assert statistics.text_seconds < statistics.seconds - 0.09


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_pictures_of_other_modes_are_converted_to_rgb(engine: Engine, mode: str) -> None:
    image = Image.new(mode, (64, 64), {"RGBA": (9, 9, 9, 0), "LA": (9, 0), "I;16": 65535}[mode])
    white = Image.new("RGB", (64, 64), "white")
    settings = TextSettings(max_tokens=1)
    traces = [Trace(), Trace()]
    for given, trace in zip((image, white), traces, strict=True):
        list(engine.run(AnswerRequest("what?", (given,), settings=settings), trace))
    assert traces[0].first_logits is not None and traces[1].first_logits is not None
    assert torch.equal(traces[0].first_logits, traces[1].first_logits)


def test_importing_the_library_is_light() -> None:
    code = "import sys, model, model.requests, model.events; print('torch' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_engine_needs_no_terminal_packages() -> None:
    code = "import sys; from model import Engine; Engine; print([m for m in ('typer', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
