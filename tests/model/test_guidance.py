"""Which branches are needed, and what comes out of combining them."""

import pytest
import torch

from model.sampling.guidance import edit_branches, generate_branches, guide_edit, guide_generate, renormalise

C, IMG, U = (torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))


@pytest.mark.parametrize(
    ("scale", "branches"),
    [(4.0, ("condition", "unconditional")), (1.0, ("condition",)), (0.5, ("condition",))],
)
def test_generate_branches(scale: float, branches: tuple[str, ...]) -> None:
    assert generate_branches(scale) == branches


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


def test_zero_star_projects_and_waits() -> None:
    velocities = {"condition": C, "unconditional": U}
    assert guide_generate(velocities, 4.0, "cfg_zero_star", True).abs().max() == 0
    alpha = (C * U).sum() / U.square().sum()
    torch.testing.assert_close(guide_generate(velocities, 4.0, "cfg_zero_star", False), alpha * U + 4 * (C - alpha * U))
