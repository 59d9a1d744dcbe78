"""Pictures in fewer passes, from requests to pictures: `cfg_every`, `cfg_stop` and `half_size_until`."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from config.errors import SettingsError
from config.settings import ImageSettings
from model import EditRequest, Engine, GenerateRequest, InterleaveRequest, Notice, Picture, Statistics, TextSettings
from model.errors import RequestError
from model.events import DenoisingStep, Event
from model.memory.estimate import Workload, working_bytes
from model.network.configuration import read_config
from model.sampling import denoise as denoise_module
from model.sampling.ladder import lift
from model.sampling.schedule import noise_amplitude, starting_noise, time_grid
from model.wire import pack, unpack_request
from tests.model.prefix_reuse import drawing, of

ALL: dict[str, Any] = {"cfg_every": 2, "cfg_stop": 0.3, "half_size_until": 0.2}
SETTINGS: list[dict[str, Any]] = [{"cfg_every": 2}, {"cfg_stop": 1.0}, {"half_size_until": 0.2}, ALL]


def small(**changes: Any) -> ImageSettings:
    return ImageSettings(**{"size": "128x64", "num_steps": 8, "seed": 5, "cfg_scale": 4.0, **changes})


def cat(**changes: Any) -> GenerateRequest:
    return GenerateRequest("a cat", small(**changes))


def picture(events: list[Event]) -> bytes:
    return of(events, Picture)[0].image.tobytes()


def statistics(events: list[Event]) -> Statistics:
    return of(events, Statistics)[0]


def test_passes_are_counted(engine: Engine) -> None:
    full = list(engine.run(cat()))
    assert statistics(full).denoise_passes == 16
    every = list(engine.run(cat(cfg_every=2)))
    assert statistics(every).denoise_passes == 8 + 4 + 2
    assert statistics(list(engine.run(cat(cfg_stop=1.0)))).denoise_passes == 8 + 2
    half = list(engine.run(cat(half_size_until=0.2)))
    assert statistics(half).denoise_passes == 16
    assert statistics(half).denoise_flops < 0.75 * statistics(full).denoise_flops
    assert len({picture(events) for events in (full, every, half)}) == 3


def test_settings_at_their_defaults_change_nothing(engine: Engine) -> None:
    assert picture(list(engine.run(cat(cfg_every=1, cfg_stop=0.0, half_size_until=0.0)))) == picture(
        list(engine.run(cat()))
    )


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_a_record_repeats_the_picture(engine: Engine, changes: dict[str, Any]) -> None:
    """Also after other requests, as one of several pictures, and with asynchronous steps."""
    (first,) = of(list(engine.run(cat(**changes))), Picture)
    assert {name: getattr(first.settings, name) for name in changes} == changes
    series = of(list(engine.run(cat(**changes, seed=4, num_images=2))), Picture)
    assert series[1].image.tobytes() == first.image.tobytes()
    backend = engine._runner.model.backend  # type: ignore[attr-defined]
    backend.denoises_async = True
    try:
        events = list(engine.run(GenerateRequest("a cat", first.settings)))
    finally:
        backend.denoises_async = False
    assert picture(events) == first.image.tobytes()
    assert [event.step for event in of(events, DenoisingStep)] == list(range(1, 9))


def test_a_draft_is_lifted_once_with_the_noise_of_the_picture(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    lifted: list[tuple[Any, ...]] = []

    def recording(*arguments: Any) -> torch.Tensor:
        lifted.append(arguments)
        return lift(*arguments)

    monkeypatch.setattr(denoise_module, "lift", recording)
    list(engine.run(cat(half_size_until=0.2)))
    ((predicted, noise, amplitude, time),) = lifted
    assert predicted.shape == (1, 3, 32, 64) and predicted.dtype == torch.float32
    network = engine._runner.model.network  # type: ignore[attr-defined]
    assert torch.equal(noise, starting_noise((128, 64), 5, network.device, network.dtype))
    assert amplitude == noise_amplitude(8, network.config.flow)
    times = time_grid(8, 3.0)
    assert time == next(each for each in times if each >= 0.2)


def test_previews_of_a_draft_have_the_size_of_the_picture(engine: Engine) -> None:
    events = list(engine.run(GenerateRequest("a cat", small(half_size_until=0.5), preview_every=1)))
    assert {step.preview.size for step in of(events, DenoisingStep) if step.preview} == {(128, 64)}
    smaller = list(engine.run(GenerateRequest("a cat", small(half_size_until=0.5), preview_every=1, preview_size=100)))
    assert {step.preview.size for step in of(smaller, DenoisingStep) if step.preview} == {(100, 50)}


@pytest.mark.parametrize("stop_after", [1, 3, 6])
def test_a_cancelled_picture_leaves_nothing_behind(engine: Engine, stop_after: int) -> None:
    expected = picture(list(engine.run(cat(**ALL))))
    with contextlib.closing(engine.run(cat(**ALL, seed=9))) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, DenoisingStep) and event.step == stop_after:
                break
    assert picture(list(engine.run(cat(**ALL)))) == expected


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_an_edit_with_three_branches(engine: Engine, changes: dict[str, Any]) -> None:
    image = drawing((64, 96), 1)
    plain, fewer = (
        list(engine.run(EditRequest("make it red", (image,), small(img_cfg_scale=2.0, **each))))
        for each in ({}, changes)
    )
    assert statistics(plain).denoise_passes == 24
    assert statistics(fewer).denoise_flops < statistics(plain).denoise_flops
    assert picture(fewer) != picture(plain) and of(fewer, Picture)[0].image.size == (128, 64)


def test_an_interleaved_answer(engine: Engine) -> None:
    """Each picture begins with guidance in full, and with a draft."""

    def run(**changes: Any) -> Statistics:
        settings = small(**changes)
        text = TextSettings(max_tokens=40, max_images=2)
        events = list(engine.run(InterleaveRequest("a tale", settings=settings, text_settings=text)))
        return statistics(events)

    plain, fewer = run(), run(**ALL)
    assert plain.steps == fewer.steps or fewer.steps % 8 == 0
    assert fewer.denoise_flops <= plain.denoise_flops


def test_layers_that_are_streamed(tiny_checkpoint: Path, engine: Engine) -> None:
    streamed = Engine.load(tiny_checkpoint, device="cpu", dtype="float32", offload="layers")
    assert picture(list(streamed.run(cat(**ALL)))) == picture(list(engine.run(cat(**ALL))))


def test_with_a_step_cache(engine: Engine) -> None:
    """The branches have caches of their own, so that a branch may leave out steps."""
    pytest.importorskip("cache_dit")
    cached = {"cache": "fast", "cache_threshold": 0.9, "cache_warmup_steps": 2, "num_steps": 12}
    (made,) = of(list(engine.run(cat(**cached, cfg_every=2))), Picture)
    assert made.caching is not None
    steps = {each.branch: each.computed_steps + each.reused_steps for each in made.caching.branches}
    assert steps == {"condition": 12, "unconditional": 8}
    assert made.caching.layers_computed < made.caching.layers


def test_a_draft_refuses_a_step_cache() -> None:
    settings = small(half_size_until=0.5, cache="fast")
    image = Image.new("RGB", (64, 64))
    for make in (
        lambda: GenerateRequest("a cat", settings),
        lambda: EditRequest("red", (image,), settings),
        lambda: InterleaveRequest("a tale", settings=settings),
    ):
        with pytest.raises(RequestError, match=r"`half_size_until` 0[.]5 does not work with `cache` fast") as raised:
            make()
        assert raised.value.hint == "use `cache=off` or `half_size_until=0`"


def test_a_size_without_a_half(engine: Engine) -> None:
    with pytest.raises(SettingsError, match="a picture of 96x64 has no draft of half its size"):
        list(engine.run(cat(size="96x64", half_size_until=0.5)))


def test_an_untrained_draft_is_said(engine: Engine) -> None:
    (notice,) = [each.text for each in of(list(engine.run(cat(half_size_until=0.5))), Notice) if "drafts" in each.text]
    assert notice.startswith("`half_size_until` drafts at 64x32, on which this model was not trained")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cfg_every": 2, "cfg_stop": 0.1, "cfg_scale": 1.0}, ["`cfg_every` and `cfg_stop`: no effect"]),
        ({"cfg_stop": 0.1, "cfg_interval": (0.99, 1.0)}, ["`cfg_stop`: no effect"]),
        ({"cfg_every": 2, "cfg_stop": 0.1}, []),
        ({"cfg_every": 2, "cfg_stop": 0.1, "num_steps": 4}, ["`cfg_every`: no effect"]),
        ({"cfg_every": 2, "cfg_stop": 0.1, "num_steps": 2}, ["`cfg_every` and `cfg_stop`: no effect"]),
        ({"half_size_until": 0.5, "num_steps": 1}, ["`half_size_until` has no effect on 1 step: none of them drafts"]),
    ],
)
def test_no_effect_is_said(engine: Engine, changes: dict[str, Any], said: list[str]) -> None:
    notices = [each.text for each in of(list(engine.run(cat(**changes))), Notice) if "no effect" in each.text]
    assert [text.partition(",")[0] for text in notices] == said


def test_requests_name_them_only_if_they_are_set() -> None:
    """A server of an earlier version would report that it ignores them."""
    plain = pack(cat()).content["settings"]
    assert isinstance(plain, dict) and not {"cfg_every", "cfg_stop", "half_size_until"} & set(plain)
    assert unpack_request(pack(cat(**ALL))).request == cat(**ALL)
    assert unpack_request(pack(cat())).request == cat()


def test_pictures_that_stay_in_memory_are_estimated(tiny_checkpoint: Path) -> None:
    config = read_config(tiny_checkpoint)
    kept = denoise_module.kept_pictures(small(**ALL), 3)
    assert (kept, denoise_module.kept_pictures(small(), 3)) == (3, 0)
    more, less = (working_bytes(config, Workload(4096, (9, 9, 9), kept_pictures=each), 2, False) for each in (kept, 0))
    assert more - less == 3 * 4096 * 3072 * 4
