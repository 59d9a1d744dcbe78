"""The counts of operations and bytes behind the rates."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.bench.ceilings import REPEATS, WARM_UPS, median_seconds
from model.checkpoint.random_weights import SHAPES, config_fields, random_network
from model.network.attention import Segment
from model.network.cache import KVCache
from model.network.configuration import ModelConfig, SparseExperts, parse_config
from model.network.counts import prediction_flops, token_bytes
from model.network.rope import attention_rotary, image_positions

TINY = {**SHAPES["u1.5-8b"], "hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 32, "ffn": 96}
TINY |= {"vocabulary": 300, "vision_hidden": 32}


def config(shape: dict[str, object]) -> ModelConfig:
    return parse_config(config_fields(**shape), "test")  # type: ignore[arg-type]


def test_a_guided_step_at_2048_is_the_published_158_tflop() -> None:
    u1, tokens = config(SHAPES["u1-8b"]), (2048 // 32) ** 2
    flops = prediction_flops(u1, tokens, 330) + prediction_flops(u1, tokens, 10)
    assert flops == pytest.approx(158e12, rel=0.01)


def test_a_token_reads_the_published_17_5_gb() -> None:
    assert token_bytes(config(SHAPES["u1-8b"]), 500, itemsize=2, weight_itemsize=2) == pytest.approx(17.5e9, rel=0.01)


def test_matrix_products_are_counted_as_by_pytorch() -> None:
    """Without attention scores, the count equals PyTorch's count for the gen tower's linear layers."""
    tiny, grid, device = config(TINY), (3, 4), torch.device("cpu")
    network = random_network(tiny, device, torch.float32)
    transformer, tokens = tiny.transformer, grid[0] * grid[1]
    rotary = attention_rotary(image_positions(0, *grid, device), transformer, torch.float32)
    cache = KVCache(transformer, tokens, torch.float32, device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network.gen(torch.randn(1, tokens, transformer.hidden_size), [rotary], [cache], [Segment(tokens, causal=False)])
    counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
    scores = 4 * transformer.layers * transformer.heads * transformer.head_dim * tokens * tokens
    assert prediction_flops(tiny, tokens, 0) - scores == counted


def test_only_the_experts_that_a_token_uses_are_counted() -> None:
    dense = config(TINY)
    experts = SparseExperts(intermediate_size=48, experts=8, top_k=2, norm_topk_prob=True)
    sparse = replace(dense, transformer=replace(dense.transformer, gen_mlp=experts, und_mlp=experts))
    assert prediction_flops(sparse, 64, 10) == prediction_flops(dense, 64, 10)  # 2 · 48 is the dense width, 96
    assert token_bytes(sparse, 10, 2, 2) == token_bytes(dense, 10, 2, 2)


def test_slow_work_is_not_repeated() -> None:
    runs: list[int] = []
    for enough, count in ((60.0, WARM_UPS + REPEATS), (1e-9, 1)):
        runs.clear()
        assert median_seconds(lambda: runs.append(1), torch.device("cpu"), enough) > 0
        assert len(runs) == count
