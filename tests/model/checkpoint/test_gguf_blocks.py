"""Number formats of GGUF files: every block means what the package `gguf` says, bit for bit."""

import pytest
import torch

from model.checkpoint.gguf_blocks import FORMATS, BlockFormat, dequantize

gguf = pytest.importorskip("gguf")

QUICK_BLOCKS = 4_000
ALL_BLOCKS = 1_000_000
BATCH = 50_000


def random_blocks(count: int, block_format: BlockFormat, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count * block_format.size.nbytes,), dtype=torch.uint8, generator=generator)


def require_equal(blocks: torch.Tensor, number: int) -> None:
    """Compare all numbers by their bits; random scales include infinity and NaN, and a NaN has many bit patterns."""
    ours = dequantize(blocks, FORMATS[number])
    theirs = gguf.dequantize(blocks.view(-1, FORMATS[number].size.nbytes).numpy(), gguf.GGMLQuantizationType(number))
    expected = torch.from_numpy(theirs.copy()).flatten()
    same = (ours.view(torch.int32) == expected.view(torch.int32)) | (ours.isnan() & expected.isnan())
    assert same.all()
    assert ours.isfinite().float().mean() > 0.5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("number", FORMATS, ids=lambda number: FORMATS[number].size.name)
def test_random_blocks(number: int) -> None:
    require_equal(random_blocks(QUICK_BLOCKS, FORMATS[number], number), number)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("number", FORMATS, ids=lambda number: FORMATS[number].size.name)
def test_a_million_random_blocks(number: int) -> None:
    for start in range(0, ALL_BLOCKS, BATCH):
        require_equal(random_blocks(BATCH, FORMATS[number], start + number), number)


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
