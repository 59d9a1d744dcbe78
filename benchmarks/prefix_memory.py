"""Measure the memory of prefilling two 2048×2048 pictures, through one layer of the 8B's shape on the CPU.

    python -m benchmarks.prefix_memory --output benchmarks/results/prefix_memory.json

The prefix is that of an edit: text, 4,096 image tokens, text, 4,096 image tokens, text. The figure is the growth of the
peak resident set from pixels to the last hidden state; weights and pixels exist before the measurement begins.
"""

import time

import psutil
import torch

from benchmarks import harness
from model.checkpoint.loader import empty_network
from model.checkpoint.random_weights import EIGHT_B, config_fields
from model.devices import DTYPES, peak_memory
from model.inputs.token_sequence import TokenSequence
from model.network.attention import Segment
from model.network.configuration import parse_config
from model.network.rope import image_positions, text_positions
from model.sampling.prefill import embed_image, prefill

RUNS = [(300, True), (4096, False), (4, True), (4096, False), (40, True)]
"""Tokens of each run, and whether it is text."""


def main() -> None:
    options = harness.parser(__doc__, dtype="bfloat16").parse_args()
    device = torch.device("cpu")
    config = parse_config(config_fields(**{**EIGHT_B, "layers": 1, "vocabulary": 1024}), "benchmark")
    network = empty_network(config, device, DTYPES[options.dtype])
    for parameter in network.parameters():
        parameter.normal_(std=parameter.shape[-1] ** -0.5)
    positions = torch.cat(
        [text_positions(0, count, device) if text else image_positions(0, 64, 64, device) for count, text in RUNS],
        dim=1,
    )
    tokens = positions.shape[1]
    sequence = TokenSequence(
        torch.randint(0, 1024, (tokens,)),
        positions,
        tuple(Segment(count, causal=text) for count, text in RUNS),
        400,
    )
    pixels = torch.randn(1, 3, 2048, 2048), torch.randn(1, 3, 2048, 2048)
    before = psutil.Process().memory_info().rss
    if peak_memory(device) > before + 2**26:
        raise SystemExit("an earlier peak is above the memory in use now, so the growth cannot be measured: run again")
    clock = time.perf_counter()
    with torch.inference_mode():
        prefill(network, sequence, [embed_image(network, each) for each in pixels], reserve=0)
    seconds = time.perf_counter() - clock
    result = {
        "tokens": tokens,
        "image_tokens": sequence.image_tokens,
        "dtype": options.dtype,
        "growth_bytes": peak_memory(device) - before,
        "seconds": seconds,
    }
    row = (str(tokens), options.dtype, f"{result['growth_bytes'] / 2**20:.0f} MiB", f"{seconds:.1f}")
    harness.finish(options, result, harness.table("tokens", "dtype", "growth", "seconds", rows=[row]))


if __name__ == "__main__":
    main()
