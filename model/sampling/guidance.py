"""Classifier-free guidance: which branches a step needs, and how their velocities combine.

Velocities are (B, L, D) float32: one row a token. c is the branch that sees words and pictures ("condition"), i the
one that sees pictures only ("images"), u the one that sees neither ("unconditional").
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from config.settings import ImageSettings
from model.events import Branch
from model.requests import EditRequest, GenerateRequest

Velocities = Mapping[Branch, Tensor]

TIME_TOLERANCE = 1e-6
"""How far rounding may carry a step's time past an end of the interval, which is meant to include it."""


@dataclass(frozen=True)
class Guidance:
    """The guidance of one picture, step by step.

    Attributes:
        branches: those of a guided step, "condition" first; that one alone where nothing is guided.
        formula: their velocities → the guided one.
        interval: times from and to which steps are guided, both included.
        zero_init: whether the first step, if it is guided, has velocity zero (`cfg_zero_star`).
    """

    branches: tuple[Branch, ...]
    formula: Callable[[Velocities], Tensor]
    interval: tuple[float, float]
    zero_init: bool = False

    def needed(self, number: int, time: float) -> tuple[Branch, ...]:
        """The branches that step `number` (from 0), which starts at `time`, has to compute."""
        return self.branches if self._is_guided(time) and not self._is_zero(number) else ("condition",)

    def ever_needed(self, times: Sequence[float]) -> tuple[Branch, ...]:
        """The branches that any of the steps starting at these times has to compute."""
        used = {branch for number, time in enumerate(times) for branch in self.needed(number, time)}
        return tuple(branch for branch in self.branches if branch in used)

    def velocity(self, number: int, time: float, velocities: Velocities) -> Tensor:
        """The velocity of a step, from those of the branches it needed."""
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


def guidance_of(request: GenerateRequest | EditRequest) -> Guidance:
    """The guidance of a request's pictures."""
    settings = request.settings
    return edit_guidance(settings) if isinstance(request, EditRequest) else generate_guidance(settings)


def generate_guidance(settings: ImageSettings) -> Guidance:
    """Text to image: guidance only strengthens, so a scale of 1 or less is none."""
    branches: tuple[Branch, ...] = ("condition", "unconditional") if settings.cfg_scale > 1 else ("condition",)

    def formula(velocities: Velocities) -> Tensor:
        return guide_generate(velocities, settings.cfg_scale, settings.cfg_norm)

    return Guidance(branches, formula, settings.cfg_interval, zero_init=settings.cfg_norm == "cfg_zero_star")


def edit_guidance(settings: ImageSettings) -> Guidance:
    """Edit: the branches whose velocities do not cancel out of the formula."""

    def formula(velocities: Velocities) -> Tensor:
        return guide_edit(velocities, settings.cfg_scale, settings.img_cfg_scale, settings.cfg_norm)

    branches = edit_branches(settings.cfg_scale, settings.img_cfg_scale)
    return Guidance(branches, formula, settings.cfg_interval)


def edit_branches(cfg_scale: float, img_cfg_scale: float) -> tuple[Branch, ...]:
    """Of c, i and u, those that `guide_edit` needs for these scales."""
    if cfg_scale == 1 and img_cfg_scale == 1:
        return ("condition",)
    if img_cfg_scale == 1:
        return ("condition", "images")
    if img_cfg_scale == cfg_scale:
        return ("condition", "unconditional")
    return ("condition", "images", "unconditional")


def guide_generate(velocities: Velocities, cfg_scale: float, cfg_norm: str) -> Tensor:
    """u + s·(c − u), normalised as asked.

    `cfg_zero_star` scales u to its projection on c, ⟨c, u⟩ / ‖u‖² (Fan et al. 2025, arXiv:2503.18886).
    """
    c, u = velocities["condition"], velocities["unconditional"]
    if cfg_norm == "cfg_zero_star":
        u = u * ((c * u).sum(dim=(1, 2), keepdim=True) / (u.square().sum(dim=(1, 2), keepdim=True) + 1e-8))
    return renormalise(u + cfg_scale * (c - u), c, cfg_norm)


def guide_edit(velocities: Velocities, cfg_scale: float, img_cfg_scale: float, cfg_norm: str) -> Tensor:
    """u + s·(c − i) + g·(i − u), of which g = 1 leaves i + s·(c − i) and g = s leaves u + s·(c − u)."""
    c = velocities["condition"]
    i, u = velocities.get("images"), velocities.get("unconditional")
    if i is not None and u is not None:
        guided = u + cfg_scale * (c - i) + img_cfg_scale * (i - u)
    else:
        base = i if i is not None else u
        assert base is not None
        guided = base + cfg_scale * (c - base)
    # Scales of 1 or less guide nothing away from c: the reference implementation does not shrink there.
    return renormalise(guided, c, cfg_norm) if max(cfg_scale, img_cfg_scale) > 1 else guided


def renormalise(guided: Tensor, condition: Tensor, cfg_norm: str) -> Tensor:
    """Shrink a guided velocity to the conditional one's length where it is longer: over the whole picture
    (`global`) or token by token (`channel`)."""
    if cfg_norm not in ("global", "channel"):
        return guided
    dims = (1, 2) if cfg_norm == "global" else (2,)
    target = condition.square().sum(dim=dims, keepdim=True).sqrt()
    length = guided.square().sum(dim=dims, keepdim=True).sqrt()
    return guided * (target / (length + 1e-8)).clamp(max=1)
