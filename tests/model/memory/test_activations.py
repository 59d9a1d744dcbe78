"""A prefill holds no more memory than the estimate says: no frame keeps tensors that are not needed any more."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.backends.select import select_backend
from model.checkpoint.random_weights import config_fields, random_network
from model.inputs.token_sequence import TokenSequence
from model.memory.estimate import Workload, working_bytes
from model.network.attention import Segment
from model.network.configuration import parse_config
from model.network.layers import WHOLE_ROWS
from model.network.rope import text_positions
from model.sampling.prefill import prefill

CPU = torch.device("cpu")
SHAPE = {"hidden": 128, "layers": 2, "heads": 4, "kv_heads": 1, "head_dim": 32, "ffn": 384, "vocabulary": 300}


class PeakMemory(TorchDispatchMode):
    """The most bytes of tensors that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._alive = 0
        self._storages: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._storages:
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = storage.nbytes()
                self._alive += storage.nbytes()
                self.peak = max(self.peak, self._alive)
                weakref.finalize(storage, self._free, storage._cdata)
        return result

    def _free(self, key: int) -> None:
        self._alive -= self._storages.pop(key)


MIXTURE = {**SHAPE, "ffn": 48, "experts": (10, 10)}


@pytest.mark.parametrize("shape", [SHAPE, MIXTURE], ids=["dense", "experts"])
@pytest.mark.parametrize("tokens", [WHOLE_ROWS - 1000, WHOLE_ROWS + 1000])
def test_a_prefill_stays_within_the_estimate(tokens: int, shape: dict[str, Any]) -> None:
    network = random_network(parse_config(config_fields(**shape, vision_hidden=64), "test"), CPU, torch.bfloat16)
    select_backend(network, enforce_eager=True)
    positions = text_positions(0, tokens, CPU)
    sequence = TokenSequence(torch.zeros(tokens, dtype=torch.long), positions, (Segment(tokens, causal=True),), tokens)
    with torch.inference_mode(), PeakMemory() as memory:
        prefill(network, sequence, [], 0)
    estimate = working_bytes(network.config, Workload(0, (tokens,)), 2, layer_by_layer=False)
    assert memory.peak < 1.05 * estimate
