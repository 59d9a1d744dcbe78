"""Read two 2048×2048 pictures through one layer of the 8B's shape on the CPU: growth of the peak resident set.

    python -m benchmarks.prefix_memory --json benchmarks/results/prefix_memory.json

The prefix is that of an edit: words, 4,096 image tokens, words, 4,096 image tokens, words. Weights and the
embeddings that go in are there before the measurement begins.
"""

import argparse
import json
import time
from pathlib import Path

import psutil
import torch

from model.network.attention import Segment
from model.network.cache import KVCache
from model.network.configuration import parse_config
from model.network.rope import attention_rotary, image_positions, text_positions
from model.network.transformer import Tower
from model.placement.devices import peak_memory
from model.weights.synthetic import EIGHT_B, config_fields

RUNS = [(300, True), (4096, False), (4, True), (4096, False), (40, True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dtype, device = getattr(torch, options.dtype), torch.device("cpu")
    fields = config_fields(**{**EIGHT_B, "layers": 1})
    config = parse_config(fields, "benchmark").transformer
    segments = [Segment(count, causal) for count, causal in RUNS]
    positions = torch.cat(
        [text_positions(0, count, device) if causal else image_positions(0, 64, 64, device) for count, causal in RUNS],
        dim=1,
    )
    torch.set_default_dtype(dtype)  # no float32 copy, which would already raise the peak
    tower = Tower(config, config.und_mlp)
    torch.set_default_dtype(torch.float32)
    tokens = positions.shape[1]
    hidden = torch.randn(1, tokens, config.hidden_size, dtype=dtype)
    with torch.inference_mode():
        tower(
            hidden[:, :8],
            attention_rotary(positions[:, :8], config, dtype),
            KVCache(config, 8, dtype, device),
            [Segment(8, True)],
        )
        before = psutil.Process().memory_info().rss
        clock = time.perf_counter()
        cache = KVCache(config, tokens, dtype, device)
        tower(hidden, attention_rotary(positions, config, dtype), cache, segments)
        seconds = time.perf_counter() - clock
    growth = peak_memory(device) - before
    report = {
        "command": f"python -m benchmarks.prefix_memory --dtype {options.dtype}",
        "tokens": tokens,
        "image_tokens": sum(count for count, causal in RUNS if not causal),
        "dtype": options.dtype,
        "growth_bytes": growth,
        "seconds": seconds,
    }
    print(f"{tokens} tokens, one layer, {options.dtype}: {growth / 2**20:.0f} MiB, {seconds:.1f} s")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
