"""The cache can be cut, trimmed and grown; what it keeps stays, and what it forgets is gone."""

import pytest
import torch

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


def filled(tokens: int) -> tuple[KVCache, torch.Tensor]:
    """A cache of that many positions, and the keys it was given (layer 1 holds their doubles)."""
    cache = KVCache(CONFIG, tokens, torch.float32, torch.device("cpu"))
    keys = torch.randn(1, CONFIG.kv_heads, tokens, CONFIG.head_dim)
    for layer in range(CONFIG.layers):
        cache.write(layer, keys * (layer + 1), -keys * (layer + 1))
    cache.advance(tokens)
    return cache, keys


def held(cache: KVCache, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    nothing = torch.empty(1, CONFIG.kv_heads, 0, CONFIG.head_dim)
    return cache.write(layer, nothing, nothing)


def test_a_cut_cache_is_like_one_that_never_held_more() -> None:
    cache, keys = filled(300)
    cache.truncate(100)
    assert cache.length == 100
    for layer in range(CONFIG.layers):
        assert torch.equal(held(cache, layer)[0], keys[:, :, :100] * (layer + 1))
        assert torch.equal(held(cache, layer)[1], -keys[:, :, :100] * (layer + 1))
    cache.advance(cache.capacity - 100)
    assert not any(tensor[:, :, 100:].any() for layer in range(CONFIG.layers) for tensor in held(cache, layer))


def test_a_cut_cache_gives_back_memory_only_when_asked() -> None:
    cache, keys = filled(3 * CAPACITY_STEP)
    before = cache.nbytes
    cache.truncate(CAPACITY_STEP + 1)
    assert cache.nbytes == before
    cache.trim()
    assert cache.nbytes == before * 2 // 3
    assert torch.equal(held(cache, 1)[0], 2 * keys[:, :, : CAPACITY_STEP + 1])
    cache.reserve(3 * CAPACITY_STEP)
    assert cache.capacity >= 4 * CAPACITY_STEP + 1
    assert torch.equal(held(cache, 1)[0], 2 * keys[:, :, : CAPACITY_STEP + 1])


def test_a_cut_forgets_what_was_written_behind_the_end() -> None:
    """A denoising step leaves its keys there; should they be NaN, whatever is read next must not see them."""
    cache, _ = filled(10)
    cache.write(0, *[torch.full((1, CONFIG.kv_heads, 5, CONFIG.head_dim), torch.nan)] * 2)
    cache.truncate(10)
    cache.advance(5)
    assert not held(cache, 0)[0][:, :, 10:].any()


def test_a_cache_cannot_be_cut_to_more_than_it_holds() -> None:
    cache, _ = filled(10)
    with pytest.raises(ValueError, match="no 11 positions"):
        cache.truncate(11)
