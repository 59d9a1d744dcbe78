"""Compare our decoders of GGUF blocks with the package `gguf`, bit for bit, on random blocks of every format.

    python -m benchmarks.gguf_blocks --blocks 1000000

Exits with 1 if a number differs. Needs the package `gguf`, which the extra `dev` has. A million blocks of each format
take about a minute.
"""

import sys
import time
import warnings

import gguf
import torch

from benchmarks import harness
from model.checkpoint.gguf_blocks import FORMATS, BlockFormat, dequantize

BATCH = 50_000
"""Blocks that are decoded at once."""


def random_blocks(count: int, block_format: BlockFormat, seed: int) -> torch.Tensor:
    """Return random bytes of some blocks, (count · bytes of a block,) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count * block_format.size.nbytes,), dtype=torch.uint8, generator=generator)


def differences(blocks: torch.Tensor, number: int) -> int:
    """Return how many decoded numbers have other bits than those of `gguf`. Any two NaNs count as equal.

    Args:
        blocks: bytes of whole blocks.
        number: ggml's number of their format.
    """
    ours = dequantize(blocks, FORMATS[number])
    rows = blocks.view(-1, FORMATS[number].size.nbytes).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # random scales include infinity and NaN
        theirs = torch.from_numpy(gguf.dequantize(rows, gguf.GGMLQuantizationType(number)).copy()).flatten()
    same = (ours.view(torch.int32) == theirs.view(torch.int32)) | (ours.isnan() & theirs.isnan())
    return int((~same).sum())


def main() -> None:
    """Compare all formats, print a table, and exit with 1 if a number differs."""
    made = harness.parser(__doc__ or "")
    made.add_argument("--blocks", type=int, default=1_000_000, help="blocks of each format (default: 1000000)")
    options = made.parse_args()
    result, rows = {}, []
    for number, block_format in FORMATS.items():
        began, wrong = time.perf_counter(), 0
        for start in range(0, options.blocks, BATCH):
            count = min(BATCH, options.blocks - start)
            wrong += differences(random_blocks(count, block_format, start + number), number)
        name = block_format.size.name
        result[name] = {"blocks": options.blocks, "different_numbers": wrong}
        rows.append((name, f"{options.blocks:,}", str(wrong), f"{time.perf_counter() - began:.1f} s"))
        harness.progress(f"{name}: {wrong} numbers differ")
    harness.finish(options, result, harness.table("format", "blocks", "numbers that differ", "time", rows=rows))
    sys.exit(any(each["different_numbers"] for each in result.values()))


if __name__ == "__main__":
    main()
