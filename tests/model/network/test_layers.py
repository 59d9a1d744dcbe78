"""The parts of a transformer block."""

import pytest
import torch

from model.network import layers
from model.network.configuration import DenseMLP, SparseExperts
from model.network.layers import SparseMoE, SwiGLU
from model.network.norms import RMSNorm
from model.network.operations import Operations, RowGroup


def test_many_rows_in_parts_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp, norm, x = SwiGLU(16, DenseMLP(24)), RMSNorm(16, 1e-6), torch.randn(11, 16)

    def updated() -> torch.Tensor:
        group = RowGroup(x, [])
        with torch.no_grad():
            mlp(group, norm, Operations())
        return group.result()

    whole = updated()
    monkeypatch.setattr(layers, "WHOLE_ROWS", 8)
    monkeypatch.setattr(layers, "SPLIT_ROWS", 4)
    parts = []
    mlp.down_proj.register_forward_hook(lambda _, inputs, __: parts.append(len(inputs[0])))
    torch.testing.assert_close(updated(), whole)
    assert parts == [4, 4, 3]


@pytest.mark.parametrize("renormalised", [True, False])
def test_experts_are_weighted_by_the_router(renormalised: bool) -> None:
    moe = SparseMoE(16, SparseExperts(intermediate_size=8, experts=5, top_k=2, norm_topk_prob=renormalised))
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(7, 16)
    rows = []
    for token in x:
        probabilities = (moe.router.weight @ token).softmax(0)
        best = probabilities.topk(2)
        weights = best.values / best.values.sum() if renormalised else best.values
        row = torch.zeros(16)
        for weight, expert in zip(weights, best.indices, strict=True):
            gate, up = (moe.gate_up_proj[expert] @ token).chunk(2)
            row += weight * (moe.down_proj[expert] @ (torch.nn.functional.silu(gate) * up))
        rows.append(row)
    torch.testing.assert_close(moe.experts(x), torch.stack(rows), rtol=1e-4, atol=1e-5)
