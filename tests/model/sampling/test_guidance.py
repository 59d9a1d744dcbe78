"""Guidance: which branches are needed, and how their velocities combine."""

import pytest
import torch

from config.settings import ImageSettings
from model.events import Branch
from model.sampling.guidance import (
    edit_branches,
    edit_guidance,
    generate_guidance,
    guide_edit,
    guide_generate,
    renormalise,
)

C, IMG, U = (torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))


@pytest.mark.parametrize(
    ("scale", "branches"),
    [(4.0, ("condition", "unconditional")), (1.0, ("condition",)), (0.5, ("condition",))],
)
def test_generate_branches(scale: float, branches: tuple[str, ...]) -> None:
    assert generate_guidance(ImageSettings(cfg_scale=scale)).branches == branches


@pytest.mark.parametrize(
    ("text", "image", "branches"),
    [
        (1.0, 1.0, ("condition",)),
        (4.0, 1.0, ("condition", "images")),
        (3.0, 3.0, ("condition", "unconditional")),
        (4.0, 2.0, ("condition", "images", "unconditional")),
    ],
)
def test_edit_branches_give_what_all_three_would(text: float, image: float, branches: tuple[str, ...]) -> None:
    everything = {"condition": C, "images": IMG, "unconditional": U}
    assert edit_branches(text, image) == branches
    expected = U + text * (C - IMG) + image * (IMG - U)
    if len(branches) == 1:
        torch.testing.assert_close(C, expected)
    else:
        torch.testing.assert_close(
            guide_edit({name: everything[name] for name in branches}, text, image, "none"), expected
        )


def test_norms_only_shrink() -> None:
    long, short = C * 5, C * 0.2
    torch.testing.assert_close(renormalise(long, C, "global"), C)
    torch.testing.assert_close(renormalise(short, C, "global"), short)
    mixed = torch.cat([C[:, :3] * 5, C[:, 3:] * 0.2], dim=1)
    torch.testing.assert_close(renormalise(mixed, C, "channel"), torch.cat([C[:, :3], C[:, 3:] * 0.2], dim=1))
    torch.testing.assert_close(renormalise(long, C, "none"), long)


@pytest.mark.parametrize(("text", "image", "shrunk"), [(0.5, 0.5, False), (0.5, 1.5, True), (1.5, 1.0, True)])
def test_an_edit_is_shrunk_only_if_guidance_strengthens_it(text: float, image: float, shrunk: bool) -> None:
    velocities = {"condition": C, "images": IMG, "unconditional": U}
    used: dict[Branch, torch.Tensor] = {name: velocities[name] for name in edit_branches(text, image)}
    plain, normed = (guide_edit(used, text, image, norm) for norm in ("none", "channel"))
    assert torch.equal(plain, normed) is not shrunk


def test_zero_star_projects() -> None:
    alpha = (C * U).sum() / U.square().sum()
    guided = guide_generate({"condition": C, "unconditional": U}, 4.0, "cfg_zero_star")
    torch.testing.assert_close(guided, alpha * U + 4 * (C - alpha * U))


def test_zero_star_has_no_velocity_in_the_first_step_and_computes_one_branch() -> None:
    guidance = generate_guidance(ImageSettings(cfg_norm="cfg_zero_star"))
    assert guidance.needed(0, 0.0) == ("condition",)
    assert guidance.velocity(0, 0.0, {"condition": C}).abs().max() == 0
    assert guidance.needed(1, 0.1) == ("condition", "unconditional")


BOTH: tuple[Branch, ...] = ("condition", "unconditional")


@pytest.mark.parametrize(
    ("interval", "guided"),
    [((0.0, 1.0), [0, 1, 2, 3]), ((0.1, 0.25), [1, 2]), ((0.0, 0.0), [0]), ((0.3, 0.4), []), ((0.5, 1.0), [3])],
)
def test_the_interval_includes_both_its_ends(interval: tuple[float, float], guided: list[int]) -> None:
    guidance = generate_guidance(ImageSettings(cfg_interval=interval))
    starts = [0.0, 0.1 + 2e-8, 0.25 - 2e-8, 0.5]
    needed = [guidance.needed(number, time) for number, time in enumerate(starts)]
    assert [number for number, branches in enumerate(needed) if branches == BOTH] == guided
    assert guidance.ever_needed(starts) == (BOTH if guided else ("condition",))


def test_an_edit_without_a_guided_step_needs_one_branch() -> None:
    guidance = edit_guidance(ImageSettings(cfg_scale=4, img_cfg_scale=2, cfg_interval=(0.9, 0.95)))
    assert guidance.ever_needed([0.0, 0.5]) == ("condition",)
    assert guidance.ever_needed([0.0, 0.9]) == ("condition", "images", "unconditional")
