"""The parts of a transformer block."""

import pytest
import torch

from model.network import layers
from model.network.configuration import DenseMLP, SparseExperts
from model.network.layers import SparseMoE, SwiGLU


def test_long_sequences_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = SwiGLU(16, DenseMLP(24))
    x = torch.randn(11, 16)
    with torch.no_grad():
        whole = mlp(x)
    monkeypatch.setattr(layers, "WHOLE_ROWS", 8)
    monkeypatch.setattr(layers, "SPLIT_ROWS", 4)
    pieces = []
    mlp.down_proj.register_forward_hook(lambda _, inputs, __: pieces.append(len(inputs[0])))
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), whole)
    assert pieces == [4, 4, 3]


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
    torch.testing.assert_close(moe(x), torch.stack(rows), rtol=1e-4, atol=1e-5)
