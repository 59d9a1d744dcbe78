"""Prompt lookup: the same tokens with fewer passes, whatever the drafts are."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from config.settings import TextSettings
from model.checkpoint.random_weights import config_fields, random_network
from model.inputs.token_sequence import TokenSequence
from model.network.attention import Segment
from model.network.configuration import parse_config
from model.network.rope import text_positions
from model.network.sensenova import SenseNovaU1
from model.sampling.backend import Backend
from model.sampling.decode import decode, decode_with_lookup, greedy, make_sampler
from model.sampling.prefill import Prefix, prefill
from model.sampling.prompt_lookup import MOST_DRAFTED, PromptLookup

CPU = torch.device("cpu")
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
VOCABULARY = 50


@pytest.mark.parametrize(
    ("tokens", "most", "drafted"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3], 9, [4, 5, 6, 7]),  # three tokens are found
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3], 9, [4, 5, 6, 7]),  # or two
        ([1, 2, 3, 4, 5, 6, 1, 2, 3, 7, 8, 1, 2, 3], 2, [7, 8]),  # the last occurrence counts
        ([5, 2, 3, 4, 7, 2, 3, 8, 5, 2, 3], 9, [4, 7, 2, 3]),  # but a longer one more
        ([1, 2, 3, 1, 2], 9, [3, 1, 2]),  # the text ends
        ([7, 7, 7], 9, [7]),
        ([1, 2, 3], 9, []),
        ([1, 2, 3, 4, 1], 9, []),  # one token is too common
        ([1, 2], 9, []),
        ([], 9, []),
        ([1, 2, 3, 1, 2], 0, []),
    ],
)
def test_drafts(tokens: list[int], most: int, drafted: list[int]) -> None:
    for known in range(len(tokens) + 1):
        lookup = PromptLookup(tokens[:known])
        for token in tokens[known:]:
            lookup.append(token)
        assert lookup.draft(most) == drafted


class Drafts(PromptLookup):
    """Drafts with tokens that the text will have, and some that it will not have."""

    def __init__(self, text: Sequence[int], right: Sequence[int]) -> None:
        """
        Args:
            right: numbers of right tokens at the start of each draft, in turn.
        """
        super().__init__([])
        self._text, self._right = list(text), list(right)

    def draft(self, most: int) -> list[int]:
        count = min(most, MOST_DRAFTED)
        self._right.append(right := self._right.pop(0))
        following = self._text[len(self._tokens) : len(self._tokens) + count]
        wrong = [(token + 1) % VOCABULARY for token in following[right:]]
        return following[:right] + wrong


@pytest.fixture(scope="module")
def network() -> SenseNovaU1:
    torch.manual_seed(0)
    shape = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 96, "vocabulary": VOCABULARY}
    return random_network(parse_config(config_fields(**shape, vision_hidden=32), "tiny"), CPU, torch.float32)


@pytest.fixture
def prefix(network: SenseNovaU1) -> Prefix:
    return new_prefix(network)


def new_prefix(network: SenseNovaU1) -> Prefix:
    ids, count = torch.tensor(PROMPT), len(PROMPT)
    sequence = TokenSequence(ids, text_positions(0, count, CPU), (Segment(count, causal=True),), count)
    with torch.inference_mode():
        return prefill(network, sequence, [], 1)


class CountingBackend(Backend):
    """A backend that records the number of tokens in each pass with prompt lookup."""

    def __init__(self, network: SenseNovaU1) -> None:
        super().__init__(network)
        self.passes: list[int] = []

    def forward_tokens(self, prefix: Prefix, tokens: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        self.passes.append(len(tokens))
        return super().forward_tokens(prefix, tokens)


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "penalty": {"repetition_penalty": 1.3},
    "sampling": {"do_sample": True, "temperature": 1.5, "seed": 5},
    "everything": {"do_sample": True, "temperature": 0.8, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.1},
}


@pytest.mark.parametrize("right", [(4,), (0,), (2, 0, 4, 1), (3, 4, 1)])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_text(network: SenseNovaU1, prefix: Prefix, name: str, right: tuple[int, ...]) -> None:
    """The text outgrows the cache. Keys, values and hidden states have the same bits, and the rest of the cache is
    empty."""
    settings, one_by_one = TextSettings(**SETTINGS[name]), new_prefix(network)
    expected = list(decode(Backend(network), one_by_one, make_sampler(settings, CPU), 150, ()))
    backend, lookup = CountingBackend(network), Drafts(expected, right)
    written = list(decode_with_lookup(backend, prefix, make_sampler(settings, CPU), 150, (), lookup))
    assert written == expected
    assert lookup.passes == len(backend.passes)
    accepted = sum(1 + right[index % len(right)] for index in range(lookup.passes))
    assert 149 <= accepted <= 149 + MOST_DRAFTED
    assert prefix.written == expected[:-1] and prefix.next_position == len(PROMPT) + 149
    assert torch.equal(prefix.last_hidden, one_by_one.last_hidden)
    assert prefix.cache.length == one_by_one.cache.length
    for layer in range(2):
        for own, theirs in zip(prefix.cache.upto(layer, 0), one_by_one.cache.upto(layer, 0), strict=True):
            assert torch.equal(own, theirs)
        room = prefix.cache.capacity - prefix.cache.length
        assert not any(part.any() for part in prefix.cache.room(layer, room))


@pytest.mark.parametrize("place", [1, 2, 3, 4, 5])
def test_a_text_that_ends_inside_a_draft(network: SenseNovaU1, place: int) -> None:
    whole = list(decode(Backend(network), new_prefix(network), greedy, 30, ()))
    end = whole.index(whole[place])
    for stop, most in (((whole[place],), 30), ((), end + 1)):
        prefix, backend = new_prefix(network), CountingBackend(network)
        written = list(decode_with_lookup(backend, prefix, greedy, most, stop, Drafts(whole, (4,))))
        assert written == whole[: end + 1]
        assert prefix.written == whole[:end] and prefix.cache.length == len(PROMPT) + end
        assert stop or sum(backend.passes) <= end  # nothing is drafted that may not be written


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_text_that_is_cancelled(network: SenseNovaU1, prefix: Prefix, count: int) -> None:
    """The prefix contains the yielded tokens but the last one, and the text can go on."""
    whole = list(decode(Backend(network), new_prefix(network), greedy, 30, ()))
    text = decode_with_lookup(Backend(network), prefix, greedy, 30, (), Drafts(whole, (4,)))
    assert [next(text) for _ in range(count)] == whole[:count]
    text.close()
    assert prefix.written == whole[: count - 1] and prefix.cache.length == len(PROMPT) + count - 1
    assert list(decode(Backend(network), prefix, greedy, 31 - count, ())) == whole[count - 1 :]


def test_a_repeated_text_takes_fewer_passes(network: SenseNovaU1, prefix: Prefix) -> None:
    """The text repeats the prompt's tokens again and again, whatever the network says."""
    script: Iterator[int] = iter(PROMPT * 5)

    def repeat(logits: Tensor, tokens: list[int]) -> Tensor:
        return torch.tensor(next(script))

    lookup = PromptLookup(PROMPT)
    assert list(decode_with_lookup(Backend(network), prefix, repeat, 40, (), lookup)) == PROMPT * 5
    # The first two tokens are looked up in vain. Each later pass gives five tokens.
    assert lookup.passes <= 2 + 8
