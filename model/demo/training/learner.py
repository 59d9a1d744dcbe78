"""The optimizer of the training: float32 master weights, their running mean, and the update step."""

import math
from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.device_kinds import DeviceKind
from model.network.sensenova import SenseNovaU1

LAST_LEARNING_RATE, WARM_UP = 0.02, 300
"""The last learning rate as a share of the highest, and the steps until the highest; a half cosine between them."""
BETAS = (0.9, 0.95)
MOMENTUM = 0.95
MAX_GRADIENT = 1.0
EMA = 0.9995
"""Decay of the running mean of the weights. The mean is saved as the checkpoint."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that moves all singular values toward 1 (K. Jordan et al., Muon, 2024)."""
NEWTON_SCHULZ_STEPS = 5
UPDATE_RMS = 0.3
"""Root mean square of an update at a learning rate of 1, similar to AdamW's (Liu et al., arXiv:2502.16982, §2.2: 0.2 to
0.4)."""


class Learner:
    """The weights in float32, their running mean, and the optimizers. The network computes in its own dtype.

    Muon updates the matrices within the blocks, AdamW everything else. PyTorch's own Muon runs about forty small
    kernels for each of the 84 matrices, which takes a third of a step. Here all matrices of one shape are updated
    together.

    Attributes:
        step: steps of the training so far.
        updates: steps since the optimizers were new. They begin with a low learning rate.
    """

    def __init__(self, network: SenseNovaU1, learning_rate: float) -> None:
        """learning_rate: the highest one."""
        self._learning_rate = learning_rate
        self.step = self.updates = 0
        named = list(network.named_parameters())
        self._parameters: list[Tensor] = [parameter for _, parameter in named]
        self.weights = [parameter.detach().float().clone() for parameter in self._parameters]
        self.means = [weight.clone() for weight in self.weights]
        # One tensor holds all gradients, so that processes exchange them at once.
        self._gradients = torch.zeros(sum(map(Tensor.numel, self.weights)), device=network.device)
        parts = self._gradients.split([weight.numel() for weight in self.weights])
        for weight, part in zip(self.weights, parts, strict=True):
            weight.grad = part.view_as(weight)
        self._momenta = [torch.zeros_like(weight) for weight in self.weights]
        self._matrices: dict[torch.Size, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
        rest = []
        for (name, _), weight, momentum in zip(named, self.weights, self._momenta, strict=True):
            if not name.endswith("_proj.weight"):
                rest.append(weight)
                continue
            sizes = part_sizes(name, network)
            assert weight.grad is not None
            parts = (each.split(sizes) for each in (weight, weight.grad, momentum))
            for part in zip(*parts, strict=True):
                self._matrices[part[0].shape].append(part)
        self.optimizer = torch.optim.AdamW(
            rest, betas=BETAS, weight_decay=0.0, fused=DeviceKind.of(network.device).has_streams
        )

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Take one step along the gradients of the network's parameters, averaged over all processes, and clear them.

        Args:
            progress: share of the training that is done, 0 to 1, which determines the learning rate.
        """
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        torch._foreach_copy_([weight.grad for weight in self.weights if weight.grad is not None], gradients)
        if dist.is_initialized():
            dist.all_reduce(self._gradients)
            self._gradients /= dist.get_world_size()
        torch.nn.utils.clip_grad_norm_(self.weights, MAX_GRADIENT, foreach=True)
        rate = self._learning_rate * self._schedule(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for shape, parts in self._matrices.items():
            weights, gradients, momenta = map(list, zip(*parts, strict=True))
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            nesterov = torch._foreach_lerp(gradients, momenta, MOMENTUM)
            updates = orthogonalised(torch.stack(nesterov))
            torch._foreach_add_(weights, list(updates), alpha=-rate * UPDATE_RMS * max(shape) ** 0.5)
        self.step += 1
        self.updates += 1
        decay = min(EMA, self.updates / (self.updates + 10))
        torch._foreach_lerp_(self.means, self.weights, 1 - decay)
        torch._foreach_copy_(self._parameters, self.weights)
        for parameter in self._parameters:
            parameter.grad = None

    def _schedule(self, progress: float) -> float:
        warm = min(1.0, (self.updates + 1) / WARM_UP)
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
        return warm * (LAST_LEARNING_RATE + (1 - LAST_LEARNING_RATE) * cosine)

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "updates": self.updates,
            "weights": self.weights,
            "means": self.means,
            "momenta": self._momenta,
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.updates = state["step"], state["updates"]
        torch._foreach_copy_(self.weights, state["weights"])
        torch._foreach_copy_(self.means, state["means"])
        torch._foreach_copy_(self._momenta, state["momenta"])
        torch._foreach_copy_(self._parameters, self.weights)
        self.optimizer.load_state_dict(state["optimizer"])


def part_sizes(name: str, network: SenseNovaU1) -> list[int]:
    """Return the rows of the matrices that a parameter fuses: query, key and value, or gate and up."""
    transformer = network.config.transformer
    if name.endswith("qkv_proj.weight"):
        key_rows = transformer.kv_heads * transformer.head_dim
        return [transformer.heads * transformer.head_dim, key_rows, key_rows]
    rows = network.get_parameter(name).shape[0]
    return [rows // 2, rows // 2] if name.endswith("gate_up_proj.weight") else [rows]


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return approximately the nearest semi-orthogonal matrices: (N, rows, columns) → same shape, float32.

    Newton–Schulz iterations bring the singular values to between about 0.7 and 1.2, enough for Muon. They run in
    bfloat16 on a GPU, and in float32 on a CPU, where bfloat16 may be slow.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return (x if wide else x.mT).float()
