"""Classifier-free guidance: which branches a step needs, and how their velocities combine.

Velocities are (B, L, D) float32, one row per token. In formulas, c is the branch that sees text and images
("condition"), i the branch that sees images only ("images"), and u the branch that sees neither ("unconditional").
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from config.settings import ImageSettings
from model.events import Branch
from model.requests import EditRequest, GenerateRequest, InterleaveRequest

Velocities = Mapping[Branch, Tensor]

TIME_TOLERANCE = 1e-6
"""How far a step's time may be outside the interval and still count as inside: times have rounding errors."""


@dataclass(frozen=True)
class Guidance:
    """The guidance of a picture's steps.

    Attributes:
        branches: the branches of a guided step, "condition" first; only "condition" if no step is guided.
        formula: combines the branches' velocities into the guided velocity.
        interval: the first and last time at which steps are guided, both included.
        zero_init: whether the first step has velocity zero if it is guided (`cfg_zero_star`).
        every, stop: `cfg_every` and `cfg_stop`, by which `PictureGuidance` leaves out more branches than `needed` does.
    """

    branches: tuple[Branch, ...]
    formula: Callable[[Velocities], Tensor]
    interval: tuple[float, float]
    zero_init: bool = False
    every: int = 1
    stop: float = 0.0

    def needed(self, number: int, time: float) -> tuple[Branch, ...]:
        """Return the branches whose velocities step `number` (from 0), which starts at `time`, combines."""
        return self.branches if self._is_guided(time) and not self._is_zero(number) else ("condition",)

    def ever_needed(self, times: Sequence[float]) -> tuple[Branch, ...]:
        """Return the branches that at least one step computes, given the times at which the steps start."""
        used = {branch for number, time in enumerate(times) for branch in self.needed(number, time)}
        return tuple(branch for branch in self.branches if branch in used)

    def velocity(self, number: int, time: float, velocities: Velocities) -> Tensor:
        """Return the velocity of a step, given the velocities of the branches that it needs."""
        if not self._is_guided(time):
            return velocities["condition"]
        if self._is_zero(number):
            return velocities["condition"] * 0
        return self.formula(velocities)

    def _is_guided(self, time: float) -> bool:
        low, high = self.interval
        return len(self.branches) > 1 and low - TIME_TOLERANCE <= time <= high + TIME_TOLERANCE

    def _is_zero(self, number: int) -> bool:
        return self.zero_init and number == 0


def guidance_of(request: GenerateRequest | EditRequest | InterleaveRequest) -> Guidance:
    """Return the guidance of a request's pictures."""
    settings = request.settings
    return generate_guidance(settings) if isinstance(request, GenerateRequest) else edit_guidance(settings)


def generate_guidance(settings: ImageSettings) -> Guidance:
    """Return the guidance of text to image. It only strengthens the prompt, so a scale of 1 or less turns it off."""
    branches: tuple[Branch, ...] = ("condition", "unconditional") if settings.cfg_scale > 1 else ("condition",)

    def formula(velocities: Velocities) -> Tensor:
        return guide_generate(velocities, settings.cfg_scale, settings.cfg_norm)

    zero_init = settings.cfg_norm == "cfg_zero_star"
    return Guidance(branches, formula, settings.cfg_interval, zero_init, settings.cfg_every, settings.cfg_stop)


def edit_guidance(settings: ImageSettings) -> Guidance:
    """Return the guidance of an edit or an interleaved answer. Branches whose velocities cancel out are left out."""

    def formula(velocities: Velocities) -> Tensor:
        return guide_edit(velocities, settings.cfg_scale, settings.img_cfg_scale, settings.cfg_norm)

    branches = edit_branches(settings.cfg_scale, settings.img_cfg_scale)
    return Guidance(branches, formula, settings.cfg_interval, False, settings.cfg_every, settings.cfg_stop)


def edit_branches(cfg_scale: float, img_cfg_scale: float) -> tuple[Branch, ...]:
    """Return the branches that `guide_edit` needs for these scales."""
    if cfg_scale == 1 and img_cfg_scale == 1:
        return ("condition",)
    if img_cfg_scale == 1:
        return ("condition", "images")
    if img_cfg_scale == cfg_scale:
        return ("condition", "unconditional")
    return ("condition", "images", "unconditional")


def guide_generate(velocities: Velocities, cfg_scale: float, cfg_norm: str) -> Tensor:
    """Return u + s·(c − u), then apply `cfg_norm`.

    `cfg_zero_star` first scales u by its projection on c, ⟨c, u⟩ / ‖u‖² (Fan et al. 2025, arXiv:2503.18886).
    """
    c, u = velocities["condition"], velocities["unconditional"]
    if cfg_norm == "cfg_zero_star":
        u = u * ((c * u).sum(dim=(1, 2), keepdim=True) / (u.square().sum(dim=(1, 2), keepdim=True) + 1e-8))
    return renormalise(u + cfg_scale * (c - u), c, cfg_norm)


def guide_edit(velocities: Velocities, cfg_scale: float, img_cfg_scale: float, cfg_norm: str) -> Tensor:
    """Return u + s·(c − i) + g·(i − u), then apply `cfg_norm`.

    The formula is i + s·(c − i) for g = 1, and u + s·(c − u) for g = s.
    """
    c = velocities["condition"]
    i, u = velocities.get("images"), velocities.get("unconditional")
    if i is not None and u is not None:
        guided = u + cfg_scale * (c - i) + img_cfg_scale * (i - u)
    else:
        base = i if i is not None else u
        assert base is not None
        guided = base + cfg_scale * (c - base)
    # Scales of 1 or less do not strengthen c. The reference implementation does not shrink the velocity then.
    return renormalise(guided, c, cfg_norm) if max(cfg_scale, img_cfg_scale) > 1 else guided


def renormalise(guided: Tensor, condition: Tensor, cfg_norm: str) -> Tensor:
    """Shrink a guided velocity to the length of the conditional velocity if it is longer.

    Args:
        cfg_norm: `global` compares lengths over the whole picture, `channel` token by token; others shrink nothing.
    """
    if cfg_norm not in ("global", "channel"):
        return guided
    dims = (1, 2) if cfg_norm == "global" else (2,)
    target = condition.square().sum(dim=dims, keepdim=True).sqrt()
    length = guided.square().sum(dim=dims, keepdim=True).sqrt()
    return guided * (target / (length + 1e-8)).clamp(max=1)
