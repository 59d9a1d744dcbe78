"""The engine on a tiny checkpoint: its events, what it does not compute, and stopping it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from PIL import Image

from model import (
    Answer,
    AnswerRequest,
    CheckpointError,
    DenoisingStep,
    DeviceMemoryError,
    EditRequest,
    Engine,
    Event,
    GenerateRequest,
    ImageSettings,
    Notice,
    Picture,
    PrefixRead,
    RequestError,
    Statistics,
    TextSettings,
    TextToken,
    ThinkText,
    ThinkToken,
)
from model.errors import DeviceError

SMALL = ImageSettings(size="64x96", num_steps=3, seed=5)
EventType = TypeVar("EventType", bound=Event)
PICTURE = Image.new("RGB", (100, 80), "orange")


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine.load(tiny_checkpoint, device="cpu", dtype="float32")


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
    assert steps[0].preview().size == (256, 256)
    made = of(events, Picture)[0]
    assert made.image.size == (256, 256)
    assert made.settings.size == "256x256"
    statistics = of(events, Statistics)[0]
    assert statistics.steps == 3
    assert statistics.prefix_tokens == sum(event.tokens for event in of(events, PrefixRead))
    assert statistics.peak_memory > 0


def test_the_last_prediction_is_the_picture(engine: Engine) -> None:
    events = list(engine.run(GenerateRequest("a cat", small(cfg_scale=1.0))))
    difference = of(events, DenoisingStep)[-1].predicted.cpu() - of(events, Picture)[0].tensor
    assert difference.abs().max() < 1e-4


def test_same_seed_same_picture(engine: Engine) -> None:
    first, again = (picture(engine, GenerateRequest("a cat", SMALL)) for _ in range(2))
    other = picture(engine, GenerateRequest("a cat", small(seed=6)))
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()


def test_several_pictures_are_those_of_their_seeds(engine: Engine) -> None:
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
    ],
)
def test_no_branch_is_computed_for_nothing(
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
    predict = engine._network.predict

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return predict(*arguments)

    monkeypatch.setattr(engine._network, "predict", counted)
    return calls


def test_edit_takes_the_first_pictures_aspect(engine: Engine) -> None:
    made = picture(engine, EditRequest("paint it red", (PICTURE,), small(size="auto")))
    assert made.image.size == (288, 224)


def test_pictures_change_the_result(engine: Engine) -> None:
    other = Image.new("RGB", (100, 80), "navy")
    first, second = (picture(engine, EditRequest("paint it red", (image,), SMALL)) for image in (PICTURE, other))
    assert first.image.tobytes() != second.image.tobytes()


def test_think_text_comes_before_the_picture(engine: Engine) -> None:
    events = list(engine.run(GenerateRequest("a cat", small(think=True, max_think_tokens=12))))
    tokens, think = of(events, ThinkToken), of(events, ThinkText)[0]
    assert 0 < len(think.token_ids) <= 12
    assert "".join(token.text for token in tokens) == think.text
    assert of(events, Picture)[0].think_text == think.text
    assert events.index(think) < events.index(of(events, DenoisingStep)[0])


def test_answer_streams_what_it_says(engine: Engine) -> None:
    events = list(engine.run(AnswerRequest("what is it?", (PICTURE,), settings=TextSettings(max_tokens=9))))
    answer = of(events, Answer)[0]
    assert "".join(token.text for token in of(events, TextToken)) == answer.text
    assert len(answer.token_ids) <= 9
    assert of(events, PrefixRead)[0].image_tokens > 0
    assert isinstance(events[-1], Statistics)


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


def test_inference_mode_does_not_leak_to_the_listener(engine: Engine) -> None:
    for _ in engine.run(GenerateRequest("a cat", small(think=True, max_think_tokens=2))):
        assert not torch.is_inference_mode_enabled()


def test_untrained_sizes_are_remarked(engine: Engine) -> None:
    notices = of(list(engine.run(GenerateRequest("a cat", SMALL))), Notice)
    assert [notice.text for notice in notices] == [
        "64x96 is no size this model was trained on; the nearest one is 192x320"
    ]


def test_running_out_of_memory_says_what_to_do(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(engine._network, "predict", full)
        with pytest.raises(DeviceMemoryError, match="--size"):
            list(engine.run(GenerateRequest("a cat", SMALL)))
    assert picture(engine, GenerateRequest("a cat", SMALL)).image.size == (64, 96)


def test_cpu_noise_is_another_picture_only_elsewhere(engine: Engine) -> None:
    """On the CPU both kinds of noise are the same numbers."""
    device, cpu = (picture(engine, GenerateRequest("a cat", small(noise=kind))) for kind in ("device", "cpu"))
    assert device.image.tobytes() == cpu.image.tobytes()


def test_requests_are_checked() -> None:
    with pytest.raises(RequestError, match="prompt is empty"):
        GenerateRequest("  ")
    with pytest.raises(RequestError, match="at least one picture"):
        EditRequest("red", ())
    with pytest.raises(RequestError, match="cfg_zero_star"):
        EditRequest("red", (PICTURE,), small(cfg_norm="cfg_zero_star"))


def test_no_such_device(tiny_checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match="cuda:63 is not there"):
        Engine.load(tiny_checkpoint, device="cuda:63")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Engine.load(tmp_path / "nothing")


def test_importing_the_library_is_light() -> None:
    code = "import sys, model, model.requests, model.events; print('torch' in sys.modules, 'rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_engine_needs_no_terminal_packages() -> None:
    code = "import sys; from model import Engine; Engine; print([m for m in ('typer', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
