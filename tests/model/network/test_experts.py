"""Experts: the sorted way gives what the definition says, and what one expert after another gives."""

import pytest
import torch

from model.network import operations
from model.network.configuration import SparseExperts
from model.network.experts import Routing
from model.network.layers import SparseMoE
from model.network.norms import RMSNorm
from model.network.operations import Operations, RowGroup


def mixture(experts: int, top_k: int, *, renormalised: bool = True) -> SparseMoE:
    torch.manual_seed(0)
    moe = SparseMoE(16, SparseExperts(8, experts, top_k, renormalised))
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return moe.requires_grad_(False)


@pytest.mark.parametrize("renormalised", [True, False])
def test_experts_are_weighted_by_the_router(renormalised: bool) -> None:
    moe = mixture(5, 2, renormalised=renormalised)
    x = torch.randn(7, 16)
    rows = []
    for token in x:
        probabilities = (moe.router.weight @ token).softmax(0)
        best = probabilities.topk(2)
        weights = best.values / best.values.sum() if renormalised else best.values
        row = torch.zeros(16)
        for weight, expert in zip(weights, best.indices, strict=True):
            gate, up = (moe.gate_up_proj.weight[expert] @ token).chunk(2)
            row += weight * (moe.down_proj.weight[expert] @ (torch.nn.functional.silu(gate) * up))
        rows.append(row)
    torch.testing.assert_close(moe.grouped(x), torch.stack(rows), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moe.one_by_one(x), torch.stack(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 3, 200])
@pytest.mark.parametrize(("experts", "top_k"), [(8, 8), (20, 3), (300, 4)])
def test_sorted_experts_equal_one_by_one(experts: int, top_k: int, tokens: int) -> None:
    """Also with experts that no token chooses."""
    moe, x = mixture(experts, top_k), torch.randn(tokens, 16)
    torch.testing.assert_close(moe.grouped(x), moe.one_by_one(x), rtol=1e-4, atol=1e-5)


def test_in_bfloat16_both_ways_differ_by_rounding_alone() -> None:
    moe, x = mixture(20, 4).to(torch.bfloat16), torch.randn(100, 16).to(torch.bfloat16)
    plain = moe.one_by_one(x).float()
    assert 0 < float((moe.grouped(x).float() - plain).norm() / plain.norm()) < 0.01


def test_rows_are_sorted_by_expert_and_then_by_token() -> None:
    chosen = torch.tensor([[3, 0], [1, 3], [0, 1]])
    routing = Routing.of(torch.ones(3, 2), chosen, 5)
    assert routing.ends.tolist() == [2, 4, 4, 6, 6]
    assert routing.tokens.tolist() == [0, 2, 1, 2, 0, 1]
    assert routing.places.tolist() == [[4, 0], [2, 5], [1, 3]]


def test_only_the_chosen_experts_are_read() -> None:
    """A token does not touch the weights of other experts, here NaN."""
    moe, x = mixture(20, 4), torch.randn(1, 16)
    expected, chosen = moe.grouped(x), moe.route(x)[1][0]
    others = torch.ones(20, dtype=torch.bool)
    others[chosen] = False
    for projection in moe.projections():
        projection.weight[others] = float("nan")
    assert torch.equal(moe.grouped(x), expected)


def test_many_rows_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    moe, norm, x = mixture(5, 2), RMSNorm(16, 1e-6), torch.randn(11, 16)

    def updated() -> torch.Tensor:
        group = RowGroup(x, [])
        with torch.no_grad():
            moe(group, norm, Operations())
        return group.result()

    whole, parts = updated(), []
    original = SparseMoE.grouped
    monkeypatch.setattr(operations, "EXPERT_ROWS", 4)
    monkeypatch.setattr(SparseMoE, "grouped", lambda self, rows: (parts.append(len(rows)), original(self, rows))[1])
    torch.testing.assert_close(updated(), whole)
    assert parts == [4, 4, 3]
