"""Number formats of GGUF files: every block means what the package `gguf` says, bit for bit."""

import pytest
import torch

from model.checkpoint.gguf_blocks import FORMATS, dequantize

gguf = pytest.importorskip("gguf")
from benchmarks.gguf_blocks import differences, random_blocks  # noqa: E402

BLOCKS = 4_000
"""`python -m benchmarks.gguf_blocks` compares a million."""


@pytest.mark.parametrize("number", FORMATS, ids=lambda number: FORMATS[number].size.name)
def test_random_blocks(number: int) -> None:
    blocks = random_blocks(BLOCKS, FORMATS[number], number)
    assert differences(blocks, number) == 0
    assert dequantize(blocks, FORMATS[number]).isfinite().float().mean() > 0.5


@pytest.mark.parametrize("number", FORMATS, ids=lambda number: FORMATS[number].size.name)
def test_sizes_are_those_of_ggml(number: int) -> None:
    kind = gguf.GGMLQuantizationType(number)
    assert gguf.GGML_QUANT_SIZES[kind] == (FORMATS[number].size.numbers, FORMATS[number].size.nbytes)
    assert kind.name == FORMATS[number].size.name


def test_one_block_at_an_odd_place() -> None:
    for number, block_format in FORMATS.items():
        blocks = random_blocks(3, block_format, number)
        whole = dequantize(blocks, block_format).view(3, -1)
        shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), blocks])[1:]
        one = dequantize(shifted[block_format.size.nbytes : 2 * block_format.size.nbytes], block_format)
        assert torch.equal(one.view(torch.int32), whole[1].contiguous().view(torch.int32))
