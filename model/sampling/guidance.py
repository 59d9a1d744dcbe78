"""Classifier-free guidance: which branches a step needs, and how their velocities combine.

Velocities are (B, L, D) float32: one row a token. c is the branch that sees words and pictures ("condition"), i the
one that sees pictures only ("images"), u the one that sees neither ("unconditional").
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

Branch = Literal["condition", "images", "unconditional"]


def generate_branches(cfg_scale: float) -> tuple[Branch, ...]:
    """Branches of text to image: guidance only strengthens, so a scale of 1 or less needs none."""
    return ("condition", "unconditional") if cfg_scale > 1 else ("condition",)


def edit_branches(cfg_scale: float, img_cfg_scale: float) -> tuple[Branch, ...]:
    """Branches of an edit: those whose velocity does not cancel out of `guide_edit`."""
    if cfg_scale == 1 and img_cfg_scale == 1:
        return ("condition",)
    if img_cfg_scale == 1:
        return ("condition", "images")
    if img_cfg_scale == cfg_scale:
        return ("condition", "unconditional")
    return ("condition", "images", "unconditional")


def guide_generate(velocities: Mapping[Branch, Tensor], cfg_scale: float, cfg_norm: str, first: bool) -> Tensor:
    """u + s·(c − u), normalised as asked.

    `cfg_zero_star` scales u to its projection on c and stands still in the first step (Fan et al. 2025,
    arXiv:2503.18886).
    """
    c, u = velocities["condition"], velocities["unconditional"]
    if cfg_norm == "cfg_zero_star":
        if first:
            return c * 0
        u = u * ((c * u).sum(dim=(1, 2), keepdim=True) / (u.square().sum(dim=(1, 2), keepdim=True) + 1e-8))
    return renormalise(u + cfg_scale * (c - u), c, cfg_norm)


def guide_edit(velocities: Mapping[Branch, Tensor], cfg_scale: float, img_cfg_scale: float, cfg_norm: str) -> Tensor:
    """u + s·(c − i) + g·(i − u), of which g = 1 leaves i + s·(c − i) and g = s leaves u + s·(c − u)."""
    c = velocities["condition"]
    i, u = velocities.get("images"), velocities.get("unconditional")
    if i is not None and u is not None:
        guided = u + cfg_scale * (c - i) + img_cfg_scale * (i - u)
    else:
        base = i if i is not None else u
        assert base is not None
        guided = base + cfg_scale * (c - base)
    return renormalise(guided, c, cfg_norm)


def renormalise(guided: Tensor, condition: Tensor, cfg_norm: str) -> Tensor:
    """Shrink a guided velocity to the conditional one's length where it is longer: over the whole picture
    (`global`) or token by token (`channel`)."""
    if cfg_norm not in ("global", "channel"):
        return guided
    dims = (1, 2) if cfg_norm == "global" else (2,)
    target = condition.square().sum(dim=dims, keepdim=True).sqrt()
    length = guided.square().sum(dim=dims, keepdim=True).sqrt()
    return guided * (target / (length + 1e-8)).clamp(max=1)
