"""The step cache: when layers are skipped, and that branches, pictures and requests do not share a cache."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from config.step_cache import PRESETS, CacheOptions
from model import EditRequest, Engine, GenerateRequest, ImageSettings, Notice, Picture, RequestError, Statistics, Trace
from model.events import Branch, BranchCaching, CacheSummary, DenoisingStep, Event, ThinkText
from model.memory.estimate import OffloadPlan
from model.network.operations import Operations
from model.sampling.step_cache import RunLayers, StepCache, StepCacheConfig
from model.tasks.statistics import LayerTimer
from tests.model.checkpoint.test_lora import matrices, write_lora

PICTURE = Image.new("RGB", (100, 80), "orange")
CACHED: dict[str, Any] = {
    "size": "64x96",
    "num_steps": 9,
    "seed": 5,
    "cache": "fast",
    "cache_threshold": 0.5,
    "cache_warmup_steps": 2,
    "cache_longest_run": 2,
    "cache_taylor_order": 0,
}
"""With these settings the tiny checkpoint has both computed and reused steps."""


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine.load(tiny_checkpoint, device="cpu", dtype="float32")


def cached(**changes: Any) -> ImageSettings:
    return ImageSettings(**{**CACHED, **changes})


@dataclass(frozen=True, kw_only=True)
class Drawn(Picture):
    """A picture with its values before clamping."""

    tensor: Tensor


def pictures(engine: Engine, request: GenerateRequest | EditRequest) -> list[Drawn]:
    trace = Trace()
    made = [event for event in engine.run(request, trace) if isinstance(event, Picture)]
    return [Drawn(**vars(each), tensor=tensor) for each, tensor in zip(made, trace.pictures, strict=True)]


def summary(picture: Picture) -> CacheSummary:
    assert picture.caching is not None
    return picture.caching


class PlainCache:
    """The rule of the step cache in a few lines, to compare the library with.

    Attributes:
        apart: whether each branch has its own residuals, as it must.
    """

    apart = True

    def __init__(self, config: StepCacheConfig) -> None:
        self._config = config
        self._states: dict[str, tuple[int, int, Tensor, Tensor]] = {}
        self.computed: dict[Branch, int] = {}

    def forward(self, branches: tuple[Branch, ...], hidden: Tensor, run: RunLayers) -> Tensor:
        config, cache_config = self._config, self._config.cache_config
        first = run(branches, config.first, hidden)
        results = []
        for index, branch in enumerate(branches):
            owner = branch if self.apart else "all branches"
            count, in_a_row, before, middle = self._states.get(owner, (0, 0, first[[0]], first[[0]]))
            added = first[[index]] - hidden[[index]]
            difference = (before - added).abs().mean() / before.abs().mean()
            reused = (
                count >= cache_config.max_warmup_steps
                and in_a_row < cache_config.max_continuous_cached_steps
                and bool(difference < cache_config.residual_diff_threshold)
            )
            if reused:
                in_a_row += 1
            else:
                in_a_row, before = 0, added
                middle = run((branch,), config.middle, first[[index]]) - first[[index]]
            results.append(first[[index]] + middle)
            self._states[owner] = (count + 1, in_a_row, before, middle)
            self.computed[branch] = config.last.stop - (len(config.middle) if reused else 0)
        return run(branches, config.last, torch.cat(results)) if config.last else torch.cat(results)

    def summaries(self) -> tuple[BranchCaching, ...]:
        return ()


class SharedCache(PlainCache):
    apart = False


GENERATE = [
    ("cfg 1", GenerateRequest("a cat", cached(cfg_scale=1.0))),
    ("guided", GenerateRequest("a cat", cached())),
    ("interval", GenerateRequest("a cat", cached(cfg_interval=(0.2, 0.8), timestep_shift=1.0, num_steps=16))),
    ("late interval", GenerateRequest("a cat", cached(cfg_interval=(0.4, 1.0), timestep_shift=1.0))),
    ("zero star", GenerateRequest("a cat", cached(cfg_norm="cfg_zero_star"))),
    ("first and last", GenerateRequest("a cat", cached(cache_first_layers=1, cache_last_layers=1))),
    ("two first", GenerateRequest("a cat", cached(cache_first_layers=2))),
]
EDIT = [
    ("two branches", EditRequest("red", (PICTURE,), cached(cfg_scale=4.0))),
    ("three branches", EditRequest("red", (PICTURE,), cached(cfg_scale=4.0, img_cfg_scale=2.0))),
    ("three in an interval", EditRequest("red", (PICTURE,), cached(img_cfg_scale=2.0, cfg_interval=(0.1, 0.7)))),
]
ALL = [*GENERATE, *EDIT]


def drawn_by(
    kind: type[PlainCache], engine: Engine, request: GenerateRequest | EditRequest, monkeypatch: pytest.MonkeyPatch
) -> Tensor:
    with monkeypatch.context() as patched:
        patched.setattr("model.tasks.draw.StepCache", kind)
        return pictures(engine, request)[0].tensor


@pytest.mark.parametrize("together", [False, True], ids=["apart", "together"])
@pytest.mark.parametrize("request_", [each for _, each in ALL], ids=[name for name, _ in ALL])
def test_each_branch_has_its_own_residuals(
    engine: Engine,
    request_: GenerateRequest | EditRequest,
    together: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The picture equals that of the plain rule, and differs from that of a cache that branches share."""
    if together:  # on a GPU small pictures go through the network as one batch
        monkeypatch.setattr(Operations, "batch_rows", 4096)
    (picture,) = pictures(engine, request_)
    found = summary(picture)
    assert all(branch.reused_steps > 0 and branch.computed_steps > 2 for branch in found.branches), found
    expected = drawn_by(PlainCache, engine, request_, monkeypatch)
    assert (picture.tensor - expected).abs().max() < 1e-4
    if len(found.branches) > 1:
        assert (picture.tensor - drawn_by(SharedCache, engine, request_, monkeypatch)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("settings", "branches"),
    [
        (cached(cfg_scale=1.0), ["condition"]),
        (cached(), ["condition", "unconditional"]),
        (cached(cfg_norm="cfg_zero_star"), ["condition", "unconditional"]),
    ],
)
def test_every_step_is_in_the_summary(engine: Engine, settings: ImageSettings, branches: list[str]) -> None:
    (picture,) = pictures(engine, GenerateRequest("a cat", settings))
    found = summary(picture)
    assert [branch.branch for branch in found.branches] == branches
    steps = [branch.computed_steps + branch.reused_steps for branch in found.branches]
    assert steps == [9] if len(branches) == 1 else [9, 8 if settings.cfg_norm == "cfg_zero_star" else 9]
    reused = sum(branch.reused_steps for branch in found.branches)
    assert found.layers == 3 * sum(steps)
    assert found.layers_computed == found.layers - 2 * reused
    assert found.seconds > 0 and found.seconds_saved >= 0
    for branch in found.branches:
        assert branch.reused_steps <= len(branch.differences) <= branch.computed_steps + branch.reused_steps
        assert list(branch.quartiles) == sorted(branch.quartiles)
        assert branch.quartiles[0] == min(branch.differences) and branch.quartiles[-1] == max(branch.differences)


def test_seconds_saved_are_those_of_the_layers_only() -> None:
    """Steps take 0.5 s for each layer and 1 s for the rest, and more at the start."""
    timer = LayerTimer(10)
    for number, (condition, other) in enumerate([(10, 10), (10, 10), (10, 10), (1, 1), (1, 10), (10, 1), (1, 1)]):
        seconds = 1 + 0.5 * (condition + other) + (30 if number < 2 else 0)
        timer.add_step({"condition": condition, "unconditional": other}, seconds)
    result = timer.summary(())
    assert (result.layers_computed, result.layers) == (86, 140)
    assert result.seconds_saved == pytest.approx(0.5 * 54)
    alike = LayerTimer(10)
    for _ in range(5):
        alike.add_step({"condition": 10}, 1.0)
    assert alike.summary(()).seconds_saved == 0


def test_skipped_layers_are_not_counted(engine: Engine) -> None:
    def flops(settings: ImageSettings) -> int:
        return next(
            e for e in engine.run(GenerateRequest("a cat", settings)) if isinstance(e, Statistics)
        ).denoise_flops

    (picture,) = pictures(engine, GenerateRequest("a cat", cached()))
    found = summary(picture)
    share = found.layers_computed / found.layers
    assert flops(cached()) == pytest.approx(flops(cached(cache="off")) * share, rel=0.01)


def test_pictures_of_one_request_share_nothing(engine: Engine) -> None:
    four = pictures(engine, GenerateRequest("a cat", cached(num_images=4)))
    for picture in four:
        (alone,) = pictures(engine, GenerateRequest("a cat", cached(seed=picture.settings.seed)))
        assert torch.equal(alone.tensor, picture.tensor)
        assert summary(alone).branches == summary(picture).branches


def test_requests_in_a_row_share_nothing(engine: Engine, tiny_checkpoint: Path) -> None:
    requests = [
        GenerateRequest("a cat", cached()),
        EditRequest("paint it red", (PICTURE,), cached(img_cfg_scale=2.0)),
        GenerateRequest("another prompt", cached(seed=9)),
    ]
    for request in requests:
        (in_a_row,) = pictures(engine, request)
        fresh = Engine.load(tiny_checkpoint, device="cpu", dtype="float32")
        (alone,) = pictures(fresh, request)
        assert torch.equal(in_a_row.tensor, alone.tensor)
        assert summary(in_a_row).branches == summary(alone).branches


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_cancelled_request_does_not_affect_the_next(engine: Engine, steps: int) -> None:
    (before,) = pictures(engine, GenerateRequest("a cat", cached()))
    stream = engine.run(GenerateRequest("a cat", cached(seed=6)))
    for event in stream:
        if isinstance(event, DenoisingStep) and event.step == steps:
            break
    stream.close()  # type: ignore[attr-defined]
    (after,) = pictures(engine, GenerateRequest("a cat", cached()))
    assert torch.equal(before.tensor, after.tensor)
    assert summary(before).branches == summary(after).branches


def test_without_a_step_to_reuse_the_picture_is_the_uncached_one(engine: Engine) -> None:
    (plain,) = pictures(engine, GenerateRequest("a cat", cached(cache="off")))
    (picture,) = pictures(engine, GenerateRequest("a cat", cached(cache_warmup_steps=9)))
    assert plain.caching is None
    assert summary(picture).layers_computed == summary(picture).layers
    assert torch.equal(picture.tensor, plain.tensor)


def test_prefill_and_think_text_are_never_skipped(engine: Engine) -> None:
    def thinking(settings: ImageSettings) -> tuple[list[Event], int]:
        engine.clear_cache()
        calls: list[int] = []
        hook = engine._runner.model.network.und.blocks[2].register_forward_hook(lambda *_: calls.append(1))
        events = list(engine.run(GenerateRequest("a cat", settings)))
        hook.remove()
        return events, len(calls)

    think = {"think": True, "max_think_tokens": 12}
    plain, plain_calls = thinking(cached(cache="off", **think))
    events, calls = thinking(cached(**think))
    assert calls == plain_calls > 3
    texts = [next(e for e in each if isinstance(e, ThinkText)).token_ids for each in (plain, events)]
    assert texts[0] == texts[1]


def test_a_model_with_experts(parity_checkpoint: Callable[[str], Path]) -> None:
    engine = Engine.load(parity_checkpoint("a3b"), device="cpu", dtype="float32")
    (picture,) = pictures(engine, GenerateRequest("a cat", cached(cache_threshold=1.0)))
    assert summary(picture).layers_computed < summary(picture).layers


@pytest.mark.parametrize("how", ["fp8", "eager", "lora"])
def test_it_works_with(how: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"fp8": {"quantization": "fp8"}, "eager": {"enforce_eager": True}}.get(how, {})
    if how == "lora":
        options["lora"] = str(write_lora(tmp_path / "a.safetensors", matrices(tiny_checkpoint), rank=2))
    engine = Engine.load(tiny_checkpoint, device="cpu", **options)
    (picture,) = pictures(engine, GenerateRequest("a cat", cached()))
    (plain,) = pictures(engine, GenerateRequest("a cat", cached(cache="off")))
    assert summary(picture).layers_computed < summary(picture).layers
    assert torch.isfinite(picture.tensor).all() and not torch.equal(picture.tensor, plain.tensor)


@pytest.mark.parametrize("request_", [each for _, each in (GENERATE[1], GENERATE[5], EDIT[1])])
@pytest.mark.parametrize("buffers", [2, 3])
def test_streaming_layers_gives_the_same_pictures(
    engine: Engine,
    tiny_checkpoint: Path,
    request_: GenerateRequest | EditRequest,
    buffers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Offloading with two layer buffers for three layers, and with one tower at a time on the device."""
    offload_plan = OffloadPlan("layers" if buffers < 3 else "module", buffers, buffers, whole_head=False)
    monkeypatch.setattr("model.loaded_model.choose_offload_plan", lambda *_: offload_plan)
    placed = Engine.load(tiny_checkpoint, device="cpu", dtype="float32", gpu_memory="2GiB")
    for _ in range(2):
        (picture,) = pictures(placed, request_)
        (resident,) = pictures(engine, request_)
        assert torch.equal(picture.tensor, resident.tensor)
        assert summary(picture).branches == summary(resident).branches
    assert placed.weights_summary.startswith(f"offload {offload_plan.kind}: ")


class Layers:
    """Seven layers of which the first one adds `first`, the middle ones together add `middle`, and the rest nothing."""

    def __init__(self) -> None:
        self.runs: list[tuple[tuple[Branch, ...], range]] = []
        self.first: dict[str, float] = {}
        self.middle = 0.0

    def __call__(self, branches: tuple[Branch, ...], layers: range, hidden: Tensor) -> Tensor:
        self.runs.append((branches, layers))
        if layers.start == 0:
            return hidden + torch.tensor([self.first.get(branch, 1.0) for branch in branches])[:, None, None]
        return hidden + self.middle if layers.start == 1 else hidden


def steps_of(options: CacheOptions, middles: list[float]) -> Iterator[tuple[float, bool]]:
    """Yield what the middle layers added in each step of one branch, and whether they were computed."""
    cache, layers = StepCache(StepCacheConfig.of(options, 7)), Layers()
    for middle in middles:
        layers.middle = middle
        result = cache.forward(("condition",), torch.zeros(1, 4, 8), layers)
        yield float(result.mean()) - 1.0, cache.computed["condition"] == 7


def test_warm_up_and_longest_run() -> None:
    options = CacheOptions(0.1, warmup_steps=3, longest_run=2, first_layers=1, last_layers=1, taylor_order=0)
    steps = list(steps_of(options, [float(number) for number in range(10)]))
    assert [computed for _, computed in steps] == [True, True, True, False, False, True, False, False, True, False]
    assert [round(value) for value, _ in steps] == [0, 1, 2, 2, 2, 5, 5, 5, 8, 8]


@pytest.mark.parametrize("order", [1, 2])
def test_a_series_is_closer_than_repeating(order: int) -> None:
    options = CacheOptions(0.1, warmup_steps=5, longest_run=3, first_layers=1, last_layers=0, taylor_order=order)
    values = [float(number**order) for number in range(8)]
    steps = list(steps_of(options, values))
    assert [computed for _, computed in steps] == [True] * 5 + [False] * 3
    errors = [abs(value - true) for (value, _), true in zip(steps, values, strict=True)]
    # The second derivative comes from the differences of differences, one half step late.
    assert max(errors) < (1e-4 if order == 1 else 4)
    captured = values[4]
    assert all(error < abs(captured - true) / 2 for error, true in zip(errors[5:], values[5:], strict=True))


def test_in_a_batch_only_the_branches_that_need_it_are_computed() -> None:
    cache, layers = StepCache(StepCacheConfig.of(CacheOptions(0.1, 1, 9, 1, 2, 0), 7)), Layers()
    branches: tuple[Branch, ...] = ("condition", "images", "unconditional")
    hidden = torch.zeros(3, 4, 8)
    cache.forward(branches, hidden, layers)
    layers.runs.clear()
    layers.first, layers.middle = {"images": 2.0}, 5.0
    result = cache.forward(branches, hidden, layers)
    assert layers.runs == [(branches, range(1)), (("images",), range(1, 5)), (branches, range(5, 7))]
    assert cache.computed == {"condition": 3, "images": 7, "unconditional": 3}
    assert result[:, 0, 0].tolist() == [1.0, 7.0, 1.0]


def test_a_threshold_of_one_always_reuses() -> None:
    cache, layers = StepCache(StepCacheConfig.of(CacheOptions(1.0, 1, 9, 1, 0, 0), 7)), Layers()
    for first in (1.0, 100.0, -3.0):
        layers.first = {"condition": first}
        cache.forward(("condition",), torch.zeros(1, 4, 8), layers)
    (branch,) = cache.summaries()
    assert (branch.computed_steps, branch.reused_steps, branch.differences, branch.quartiles) == (1, 2, (), ())


@pytest.mark.parametrize(("first", "last"), [(3, 0), (2, 1), (50, 4)])
def test_options_that_leave_no_layer_to_skip(engine: Engine, first: int, last: int) -> None:
    settings = cached(cache_first_layers=first, cache_last_layers=last)
    with pytest.raises(
        RequestError, match=f"cache_first_layers {first} and cache_last_layers {last}.* this model has 3"
    ):
        pictures(engine, GenerateRequest("a cat", settings))


def test_a_notice_names_options_while_the_cache_is_off(engine: Engine) -> None:
    events = engine.run(GenerateRequest("a cat", ImageSettings(size="64x96", num_steps=1, cache_longest_run=2)))
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert "cache_longest_run: no effect while cache is off" in notices


def test_options_that_are_set_replace_those_of_the_preset() -> None:
    assert ImageSettings().cache_options is None
    assert ImageSettings(cache_threshold=0.3).cache_options is None
    assert ImageSettings(cache="careful").cache_options == PRESETS["careful"]
    options = ImageSettings(cache="balanced", cache_last_layers=2, cache_threshold=0.3).cache_options
    assert options is not None and (options.last_layers, options.threshold) == (2, 0.3)
    assert options.longest_run == PRESETS["balanced"].longest_run


def test_the_library_is_not_installed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request itself does not need it: a server may have it."""
    request = GenerateRequest("a cat", cached())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="cache-dit, which is not installed") as raised:
        pictures(engine, request)
    assert "pip install '.[cache]'" in raised.value.hint


def test_the_library_cannot_be_imported(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cache_dit.caching", None)
    with pytest.raises(RequestError, match="cache-dit cannot be imported") as raised:
        pictures(engine, GenerateRequest("a cat", cached()))
    assert "pip install -U '.[cache]'" in raised.value.hint


def test_the_library_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, model.engine, model.sampling.step_cache\n"
        "from model import GenerateRequest, ImageSettings\n"
        "GenerateRequest('a cat', ImageSettings(cache='balanced'))\n"
        "assert not {'cache_dit', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
