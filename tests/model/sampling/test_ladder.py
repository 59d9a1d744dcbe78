"""The resolution ladder: noise of a draft, its enlargement, and the steps that draft."""

import pytest
import torch

from config.errors import SettingsError
from config.sizes import half_size
from model.sampling.ladder import count_draft_steps, draft_noise, enlarge, lift

TIMES = [0.0, 0.1, 0.3, 0.6, 1.0]


@pytest.mark.parametrize(("until", "steps"), [(0.0, 0), (0.05, 1), (0.1, 1), (0.2, 2), (0.5, 3), (0.61, 3), (1.0, 3)])
def test_steps_that_start_before_the_time_draft_but_never_the_last(until: float, steps: int) -> None:
    assert count_draft_steps(TIMES, until) == steps


def test_a_single_step_has_the_full_size() -> None:
    assert count_draft_steps([0.0, 1.0], 1.0) == 0


def test_a_draft_has_normal_noise_and_the_layout_of_the_picture() -> None:
    noise = torch.randn(1, 3, 256, 512, generator=torch.Generator().manual_seed(0))
    small = draft_noise(noise)
    assert small.shape == (1, 3, 128, 256)
    assert float(small.mean()) == pytest.approx(0, abs=0.01) and float(small.std()) == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(small[0, 1, 3, 5], noise[0, 1, 6:8, 10:12].sum() / 2)
    assert draft_noise(noise.bfloat16()).dtype == torch.bfloat16


def test_a_picture_is_enlarged_where_it_is() -> None:
    ramp = torch.linspace(-1, 1, 64)[None, None, None].expand(1, 3, 32, 64)
    larger = enlarge(ramp)
    assert larger.shape == (1, 3, 64, 128)
    torch.testing.assert_close(
        larger[..., 4:-4].unflatten(3, (-1, 2)).mean(-1), ramp.repeat_interleave(2, 2)[..., 2:-2]
    )


def test_a_lifted_draft_has_the_noise_of_its_time() -> None:
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    draft = torch.full((1, 3, 32, 32), 0.5)
    torch.testing.assert_close(lift(draft, noise, 3.0, 0.25), 0.125 + 0.75 * 3 * noise)


@pytest.mark.parametrize(
    ("size", "hint"),
    [((2720, 1536), "2688x1536"), ((96, 64), "64x64"), ((32, 32), "64x64"), ((2368, 1760), "2368x1728")],
)
def test_sizes_without_a_half(size: tuple[int, int], hint: str) -> None:
    with pytest.raises(SettingsError, match="both sides must be multiples of 64") as raised:
        half_size(size)
    assert raised.value.hint == f"use `size={hint}` or `half_size_until=0`"


def test_half_a_size() -> None:
    assert half_size((2048, 1152)) == (1024, 576)
