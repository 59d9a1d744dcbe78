"""Attention by segments equals attention under the mask that the segments stand for."""

import pytest
import torch
import torch.nn.functional as F

from model.backends.gpu import GpuAttention, block_rows
from model.device_kinds import KINDS
from model.network import attention
from model.network.attention import AttentionKernel, Segment, attend
from model.network.cache import CAPACITY_STEP, KVCache
from model.network.configuration import DenseMLP, TransformerConfig

CONFIG = TransformerConfig(
    hidden_size=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary=10,
    rms_norm_eps=1e-6,
    rope_theta=5e6,
    rope_theta_hw=1e4,
    und_mlp=DenseMLP(64),
    gen_mlp=DenseMLP(64),
)


def dense_mask(segments: list[Segment], before: int) -> torch.Tensor:
    """True where a row may look: causal, and both ways within one image."""
    count = sum(segment.count for segment in segments)
    mask = torch.ones(count, before + count, dtype=torch.bool).tril(diagonal=before)
    start = 0
    for segment in segments:
        if not segment.causal:
            mask[start : start + segment.count, before + start : before + start + segment.count] = True
        start += segment.count
    return mask


@pytest.mark.parametrize("before", [0, 7])
@pytest.mark.parametrize(
    "segments",
    [
        [Segment(9, True)],
        [Segment(6, False)],
        [Segment(1, True)],
        [Segment(3, True), Segment(6, False), Segment(1, True), Segment(4, False), Segment(11, True)],
    ],
    ids=["text", "image", "one token", "mixed"],
)
def test_segments_equal_a_dense_mask(segments: list[Segment], before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CAUSAL_ROWS", 4)  # so that text is split into several masks
    count = sum(segment.count for segment in segments)
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(2, 4, count, 16, generator=generator)
    k, v = (torch.randn(2, 2, before + count, 16, generator=generator) for _ in range(2))
    expected = F.scaled_dot_product_attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), attn_mask=dense_mask(segments, before)
    )
    torch.testing.assert_close(attend(q, k, v, segments, AttentionKernel()), expected)


@pytest.mark.parametrize("masked", [False, True])
def test_stacked_heads_give_the_same_numbers(masked: bool) -> None:
    """GPUs stack the query heads of a group where their fused kernels do not know grouped heads."""
    q, k, v = torch.randn(2, 4, 5, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)
    mask = torch.ones(5, 9, dtype=torch.bool).tril(4) if masked else None
    expected = AttentionKernel()(q, k, v, mask)
    torch.testing.assert_close(GpuAttention(groups_heads=False)(q, k, v, mask), expected)


def test_what_is_written_stays_only_when_advanced() -> None:
    cache = KVCache(CONFIG, 8, torch.float32, torch.device("cpu"))
    first = torch.full((1, 2, 3, 16), 1.0)
    cache.write(0, first, first)
    cache.advance(3)
    cache.write(0, first * 2, first * 2)
    cache.write(0, first * 3, first * 3)
    keys, values = cache.upto(0, 3)
    assert keys.shape[2] == 6
    assert keys[0, 0, :, 0].tolist() == [1, 1, 1, 3, 3, 3]
    assert values.data_ptr() != keys.data_ptr()


def test_reserve_keeps_what_is_there() -> None:
    cache = KVCache(CONFIG, 2, torch.float32, torch.device("cpu"))
    assert cache.capacity == CAPACITY_STEP
    filled = torch.randn(1, 2, CAPACITY_STEP, 16)
    for layer in range(2):
        cache.write(layer, filled, -filled)
    cache.advance(CAPACITY_STEP)
    with pytest.raises(ValueError, match="no room"):
        cache.write(0, filled, filled)
    cache.reserve(CAPACITY_STEP)
    cache.write(1, filled, filled)
    keys, values = cache.upto(1, CAPACITY_STEP)
    torch.testing.assert_close(keys[:, :, :CAPACITY_STEP], filled)
    torch.testing.assert_close(values[:, :, :CAPACITY_STEP], -filled)


@pytest.mark.parametrize("largest_array", [1, 4 * 2 * 7 * 3, 2**32])
@pytest.mark.parametrize("with_mask", [False, True])
def test_blocks_of_rows_give_the_same_attention(largest_array: int, with_mask: bool) -> None:
    """On Apple's GPUs a large picture's scores do not fit into one array."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    mask = torch.ones(5, 7, dtype=torch.bool).tril(2) if with_mask else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    attended = GpuAttention(groups_heads=False, largest_array=largest_array)(q, k, v, mask)
    torch.testing.assert_close(attended, expected)


@pytest.mark.parametrize(
    ("pixels", "branches", "blocks"),
    [(2048, 1, 1), (2048, 2, 2), (3072, 1, 3), (3072, 2, 6), (4096, 2, 17)],
)
def test_no_array_of_scores_is_larger_than_apple_allows(pixels: int, branches: int, blocks: int) -> None:
    """The sizes are those of the 8B: 32 heads, of which 8 have keys; a prompt of 500 tokens."""
    largest = KINDS["mps"].largest_array
    tokens, heads, kv_heads = (pixels // 32) ** 2, 32, 8
    rows, keys = heads // kv_heads * tokens, tokens + 500
    step = block_rows(rows, branches * kv_heads * keys, largest)
    assert branches * kv_heads * step * keys * 4 <= 2**32
    assert -(-rows // step) == blocks
    assert block_rows(rows, branches * kv_heads * keys, None) == rows
