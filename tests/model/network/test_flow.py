"""The flow-matching modules."""

import pytest
import torch

from model.network.flow import (
    ConvolutionalHead,
    MLPHead,
    ScalarEmbedding,
    picture_to_tokens,
    sinusoids,
    tokens_to_picture,
)


def test_tokens_are_32_pixel_squares_channel_last() -> None:
    picture = torch.arange(2 * 3 * 64 * 96).view(2, 3, 64, 96)
    tokens = picture_to_tokens(picture)
    assert tokens.shape == (2, 6, 3072)
    assert torch.equal(tokens_to_picture(tokens, 2, 3), picture)
    assert tokens[1, 4, 3 * (32 * 5 + 7) + 2] == picture[1, 2, 32 + 5, 32 + 7]


def test_sinusoids_put_cosines_first() -> None:
    table = sinusoids(torch.tensor([0.0, 1.0]))
    assert table.shape == (2, 256)
    assert table[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert table[1, [0, 128]].tolist() == pytest.approx([0.5403, 0.8415], abs=1e-4)


def test_embeddings_of_several_numbers_at_once() -> None:
    embedding = ScalarEmbedding(16)
    values = torch.tensor([0.0, 0.3, 1.0])
    torch.testing.assert_close(embedding(values)[1], embedding(values[1:2])[0])


@pytest.mark.parametrize("head", [MLPHead, ConvolutionalHead])
def test_heads_give_a_row_of_pixels_for_each_token(head: type[MLPHead] | type[ConvolutionalHead]) -> None:
    assert head(64, 1024)(torch.randn(2, 6, 64), 2, 3).shape == (2, 6, 3072)


def test_the_convolutional_head_lets_neighbours_meet() -> None:
    head = ConvolutionalHead(64, 1024)
    hidden = torch.randn(1, 6, 64)
    other = hidden.clone()
    other[0, 1] += 1
    changed = (head(hidden, 2, 3) - head(other, 2, 3)).abs().amax(dim=-1)[0] > 1e-6
    assert changed.tolist() == [True, True, True, True, True, True]
