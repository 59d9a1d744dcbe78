"""The KV cache can be truncated, trimmed and grown. Its prefix stays, and the rest is zeros."""

import copy

import pytest
import torch

from model.network.cache import CAPACITY_STEP, KVCache, ScratchCache
from tests.model.network.test_attention import CONFIG


def filled(tokens: int) -> tuple[KVCache, torch.Tensor]:
    """Return a cache of `tokens` positions, and its keys (layer 1 holds their doubles)."""
    cache = KVCache(CONFIG, tokens, torch.float32, torch.device("cpu"))
    keys = torch.randn(1, CONFIG.kv_heads, tokens, CONFIG.head_dim)
    for layer in range(CONFIG.layers):
        cache.write(layer, keys * (layer + 1), -keys * (layer + 1))
    cache.advance(tokens)
    return cache, keys


def held(cache: KVCache, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    return cache.upto(layer, 0)


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
    with pytest.raises(ValueError, match="cannot keep 11 positions: the cache holds 10"):
        cache.truncate(11)


def test_one_layer_at_a_time_is_like_all_of_them() -> None:
    """The same numbers at the same distances, twice through the layers, and zeros behind them; the prefix stays."""
    prefix, _ = filled(100)
    whole = copy.deepcopy(prefix)
    before = [tensor.clone() for layer in range(CONFIG.layers) for tensor in prefix.upto(layer, 0)]
    whole.reserve(200)
    scratch = ScratchCache(prefix, 200)
    for layer in [*range(CONFIG.layers)] * 2:
        tokens = torch.randn(2, 1, CONFIG.kv_heads, 200, CONFIG.head_dim)
        scratch.begin(layer)
        scratch.write(layer, *tokens)
        whole.write(layer, *tokens)
        for one, other in zip(scratch.upto(layer, 200), whole.upto(layer, 200), strict=True):
            assert torch.equal(one, other)
            assert one.stride() == other.stride()
        assert whole.capacity > 300
        assert not any(tensor[:, :, 300:].any() for tensor in scratch.upto(layer, whole.capacity - 100))
    after = [tensor for layer in range(CONFIG.layers) for tensor in prefix.upto(layer, 0)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_layer_that_has_not_begun_is_not_there() -> None:
    prefix, _ = filled(10)
    scratch = ScratchCache(prefix, 5)
    with pytest.raises(ValueError, match="layer 0 has not begun"):
        scratch.room(0, 5)
    scratch.begin(0)
    scratch.room(0, 5)
    with pytest.raises(ValueError, match="layer 1 has not begun; the cache holds layer 0"):
        scratch.upto(1, 5)
    with pytest.raises(ValueError, match="no room in the cache: 129 positions of 128"):
        scratch.room(0, 119)
