"""A decode pass of several tokens gives the bits of passes of one token.

TRITON_INTERPRET=1 python -m pytest tests/model/backends/test_decode_pass.py     # triton must be installed
"""

import importlib.util
import os

import pytest
import torch

from model.checkpoint.random_weights import config_fields, random_network
from model.inputs.token_sequence import TokenSequence
from model.network.attention import Segment
from model.network.configuration import parse_config
from model.network.rope import text_positions
from model.network.sensenova import SenseNovaU1
from model.sampling.backend import Backend
from model.sampling.prefill import Prefix, prefill
from model.sampling.prompt_lookup import MOST_DRAFTED

HAS_CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_CUDA else "cpu")
PROMPT = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6], device=DEVICE)
TOKENS = [7, 8, 9, 10, 11]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (HAS_CUDA or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="needs triton, and a CUDA device or TRITON_INTERPRET=1",
)
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device is here")]


def new_prefix(network: SenseNovaU1) -> Prefix:
    count = len(PROMPT)
    sequence = TokenSequence(PROMPT, text_positions(0, count, DEVICE), (Segment(count, causal=True),), count)
    return prefill(network, sequence, [], len(TOKENS))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=ON_GPU)])
def test_several_tokens_give_the_bits_of_single_ones(dtype: torch.dtype) -> None:
    from model.backends.decode import DecodePass

    torch.manual_seed(0)
    shape = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 96, "vocabulary": 50}
    config = parse_config(config_fields(**shape, vision_hidden=32), "tiny")
    network = random_network(config, DEVICE, dtype)
    run = DecodePass(network, as_graph=False)._on_device  # without choosing a CUDA device
    assert len(TOKENS) == 1 + MOST_DRAFTED
    one_by_one, expected = new_prefix(network), []
    for token in TOKENS:
        expected += run(one_by_one, torch.tensor([token], device=DEVICE))
        one_by_one.append([token], expected[-1][0])
    together = new_prefix(network)
    found = run(together, torch.tensor(TOKENS, device=DEVICE))
    together.append(TOKENS, found[-1][0])
    for (hidden, logits), (own_hidden, own_logits) in zip(expected, found, strict=True):
        assert torch.equal(hidden, own_hidden) and torch.equal(logits, own_logits)
    for layer in range(2):
        for own, theirs in zip(together.cache.upto(layer, 0), one_by_one.cache.upto(layer, 0), strict=True):
            assert torch.equal(own, theirs)
    if dtype == torch.float32:
        plain = Backend(network).forward_tokens(new_prefix(network), TOKENS)
        for (_, logits), (_, own_logits) in zip(plain, found, strict=True):
            torch.testing.assert_close(logits, own_logits)
