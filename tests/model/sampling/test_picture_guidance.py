"""The guidance of a picture in fewer passes: the steps that compute all branches, and the step that ends guidance."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from config.settings import ImageSettings
from model.events import Branch
from model.sampling.guidance import Guidance, edit_guidance, generate_guidance
from model.sampling.picture_guidance import PictureGuidance

TIMES = [number / 12 for number in range(12)]
C, IMG, U = (torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))


def same(numbers: Tensor) -> Tensor:
    return numbers


def generating(**changes: Any) -> Guidance:
    return generate_guidance(ImageSettings(**changes))


def run(
    guidance: Guidance,
    distance: Callable[[int], float] = lambda number: 1.0,
    broadcast: Callable[[Tensor], Tensor] = same,
) -> tuple[str, list[Tensor]]:
    """Take all steps; return the first letters of their branches, such as `cu c cu`, and their velocities.

    Args:
        distance: returns how far the other branches are from the condition branch in a step.
    """
    picture = PictureGuidance(guidance, broadcast)
    computed, velocities = [], []
    for number, time in enumerate(TIMES):
        branches = picture.begin_step(number, time)
        computed.append("".join(branch[0] for branch in branches))
        condition = C * (1 + number)
        others = {"images": condition - distance(number) * IMG, "unconditional": condition - distance(number) * U}
        found: dict[Branch, Tensor] = {branch: {"condition": condition, **others}[branch] for branch in branches}
        velocities.append(picture.velocity(found))
    return " ".join(computed), velocities


def test_without_the_settings_every_step_is_that_of_guidance() -> None:
    for interval, norm in product([(0.0, 1.0), (0.2, 0.5)], ["none", "global", "cfg_zero_star"]):
        guidance = generating(cfg_interval=interval, cfg_norm=norm)
        computed, velocities = run(guidance)
        for number, time in enumerate(TIMES):
            needed = guidance.needed(number, time)
            assert computed.split()[number] == "".join(branch[0] for branch in needed)
            found = {"condition": C * (1 + number), "unconditional": C * (1 + number) - U}
            assert torch.equal(velocities[number], guidance.velocity(number, time, found))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "computed"),
    [
        ({"cfg_every": 1}, "cu cu cu cu cu cu cu cu cu cu cu cu"),
        ({"cfg_every": 2}, "cu cu cu cu c cu c cu c cu c cu"),
        ({"cfg_every": 3}, "cu cu cu cu c c cu c c cu c c"),
        ({"cfg_every": 1000}, "cu cu cu cu c c c c c c c c"),
        ({"cfg_every": 2, "cfg_norm": "cfg_zero_star"}, "c cu cu cu cu c cu c cu c cu c"),
        ({"cfg_every": 2, "cfg_interval": (0.3, 0.9)}, "c c c c cu cu cu cu c cu c c"),
        ({"cfg_every": 2, "cfg_scale": 1.0}, "c c c c c c c c c c c c"),
    ],
)
def test_the_first_guided_steps_and_then_every_nth_compute_all_branches(changes: dict[str, Any], computed: str) -> None:
    assert run(generating(**changes))[0] == computed


@pytest.mark.parametrize("norm", ["none", "global", "channel", "cfg_zero_star"])
def test_the_other_steps_reuse_the_last_difference(norm: str) -> None:
    """Step 6 computes the condition branch alone, and takes the difference of step 5."""
    guidance = generating(cfg_every=2, cfg_norm=norm)
    _, velocities = run(guidance, distance=lambda number: 1.0 + number)
    number = 5 if norm == "cfg_zero_star" else 6
    estimated = {"condition": C * (1 + number), "unconditional": C * (1 + number) - number * U}
    expected = guidance.velocity(number, 0.5, estimated)  # type: ignore[arg-type]
    torch.testing.assert_close(velocities[number], expected, rtol=1e-4, atol=1e-4)


def test_an_edit_reuses_both_differences() -> None:
    guidance = edit_guidance(ImageSettings(img_cfg_scale=2.0, cfg_every=3))
    computed, velocities = run(guidance, distance=lambda number: 1.0 + number)
    assert computed == "ciu ciu ciu ciu c c ciu c c ciu c c"
    estimated = {"condition": C * 6, "images": C * 6 - 4 * IMG, "unconditional": C * 6 - 4 * U}
    expected = guidance.velocity(5, 0.5, estimated)  # type: ignore[arg-type]
    torch.testing.assert_close(velocities[5], expected, rtol=1e-4, atol=1e-4)


def test_guidance_ends_two_steps_after_the_branches_agree() -> None:
    """They agree in step 5, where the difference falls below a tenth of the condition branch."""
    limit = float(0.1 * 6 * C.norm() / U.norm())
    computed, velocities = run(generating(cfg_stop=0.1), lambda number: 0.99 * limit if number == 5 else 2 * limit)
    assert computed == "cu cu cu cu cu cu cu c c c c c"
    assert all(torch.equal(velocities[number], C * (1 + number)) for number in range(7, 12))
    assert not torch.equal(velocities[6], C * 7)
    assert run(generating(cfg_stop=0.1), lambda number: 1.01 * limit * (1 + number) / 6)[0].count("u") == 12


def test_all_branches_of_an_edit_have_to_agree() -> None:
    edit = edit_guidance(ImageSettings(img_cfg_scale=2.0, cfg_stop=0.5))
    assert run(edit, lambda number: 0.0)[0] == "ciu ciu " + " ".join("c" * 10)
    picture = PictureGuidance(edit, same)
    for number in range(4):
        picture.begin_step(number, TIMES[number])
        picture.velocity({"condition": C, "images": C, "unconditional": C - U})
    assert len(picture.begin_step(4, TIMES[4])) == 3


def test_both_settings_together() -> None:
    """Only steps that compute all branches are measured: agreement in step 5 ends guidance before step 7."""
    guidance = generating(cfg_every=2, cfg_stop=0.1)
    assert run(guidance, lambda number: 0.0 if number >= 5 else 9.0)[0] == "cu cu cu cu c cu c c c c c c"


def test_rank_0_decides() -> None:
    def from_rank_0(numbers: Tensor) -> Tensor:
        assert numbers.dtype == torch.int64 and numbers.shape == ()
        return torch.ones_like(numbers)

    assert run(generating(cfg_stop=0.01), lambda number: 9.0, from_rank_0)[0].startswith("cu cu c c c")


def test_branches_that_are_not_numbers_do_not_end_guidance() -> None:
    assert run(generating(cfg_stop=0.5), lambda number: torch.nan)[0].count("u") == 12


def test_after_a_change_of_size_no_old_difference_is_used() -> None:
    picture = PictureGuidance(generating(cfg_every=4), same)
    computed = []
    for number, time in enumerate(TIMES):
        if number == 6:
            picture.change_size()
        size = 4 if number < 6 else 6
        branches = picture.begin_step(number, time)
        computed.append(len(branches))
        assert picture.velocity(dict.fromkeys(branches, C[:, :size])).shape[1] == size
    assert computed == [2, 2, 2, 2, 1, 1, 2, 1, 1, 1, 2, 1]
