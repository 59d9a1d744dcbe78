"""The parts of a transformer block."""

import pytest
import torch

from model.network import layers
from model.network.configuration import DenseMLP
from model.network.layers import SwiGLU
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
