"""The full-size U1-8B with random weights on one GPU: guided steps, decoding, prefix reading, memory.

    python -m benchmarks.full_size --json benchmarks/results/full_size.json

Weights are drawn on the device; no files are needed. A step is a guided one (two forward passes), the median of
those after the first; the whole eager path of `denoise` is timed, as a request runs it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.report import write_report
from config.schema import ImageSettings
from model.events import Branch
from model.network.attention import Segment
from model.network.configuration import parse_config
from model.network.rope import image_positions, text_positions
from model.network.sensenova import SenseNovaU1
from model.sampling.decode import decode, greedy
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefix import Prefix, embed_picture, read_prefix
from model.sequences.sequence import TokenSequence
from model.weights.checkpoint import empty_network
from model.weights.synthetic import EIGHT_B, config_fields

GIB = 2**30


def random_network(device: torch.device) -> SenseNovaU1:
    fields = config_fields(**EIGHT_B, convolutional_head=False)
    network = empty_network(parse_config(fields, "benchmark"), device, torch.bfloat16)
    for parameter in network.parameters():
        if parameter.dim() == 1:
            parameter.fill_(1)
        else:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return network


def text_prefix(network: SenseNovaU1, tokens: int, room: int) -> Prefix:
    device = network.device
    ids = torch.randint(0, 150000, (tokens,), device=device)
    sequence = TokenSequence(ids, text_positions(0, tokens, device), (Segment(tokens, causal=True),), tokens)
    with torch.inference_mode():
        return read_prefix(network, sequence, [], room)


def picture_prefix(network: SenseNovaU1, side: int) -> Iterator[float]:
    """Seconds to read an edit's prefix with one picture of side × side pixels."""
    device = network.device
    grid = side // 32
    runs = [(300, True), (grid * grid, False), (30, True)]
    positions = torch.cat(
        [text_positions(0, n, device) if text else image_positions(0, grid, grid, device) for n, text in runs], dim=1
    )
    count = positions.shape[1]
    pixels = torch.randn(1, 3, side, side, device=device)
    ids = torch.randint(0, 150000, (count,), device=device)
    sequence = TokenSequence(ids, positions, tuple(Segment(n, text) for n, text in runs), 400)
    for _ in range(3):
        torch.cuda.synchronize()
        clock = time.perf_counter()
        with torch.inference_mode():
            read_prefix(network, sequence, [embed_picture(network, pixels)], 0)
        torch.cuda.synchronize()
        yield time.perf_counter() - clock


def guided_step(network: SenseNovaU1, size: tuple[int, int], steps: int) -> dict[str, float]:
    tokens = size[0] * size[1] // 1024
    prefixes: dict[Branch, Prefix] = {
        "condition": text_prefix(network, 330, tokens),
        "unconditional": text_prefix(network, 10, tokens),
    }
    settings = ImageSettings(num_steps=steps)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    clock = time.perf_counter()
    for _ in denoise(
        network,
        prefixes,
        generate_guidance(settings),
        size,
        42,
        settings,
    ):
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - clock)
        clock = time.perf_counter()
    return {
        "seconds": statistics.median(seconds[1:]),
        "first_seconds": seconds[0],
        "peak_gib": torch.cuda.max_memory_allocated() / GIB,
    }


def decoding(network: SenseNovaU1, tokens: int) -> float:
    prefix = text_prefix(network, 300, tokens)
    clock = 0.0
    for number, _ in enumerate(decode(network, prefix, greedy, tokens, ())):
        if number == 8:
            torch.cuda.synchronize()
            clock = time.perf_counter()
    return (tokens - 9) / (time.perf_counter() - clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda")
    network = random_network(device)
    report = {
        "command": f"python -m benchmarks.full_size --steps {options.steps}",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "weights_gib": torch.cuda.memory_allocated() / GIB,
        "guided_step": {
            f"{width}x{height}": guided_step(network, (width, height), options.steps)
            for width, height in ((2048, 2048), (1024, 1024), (1536, 2720))
        },
        "decode_tokens_per_second": decoding(network, 64),
        "edit_prefix_2048_seconds": statistics.median(picture_prefix(network, 2048)),
    }
    print(json.dumps(report, indent=1))
    write_report(report, options.json)


if __name__ == "__main__":
    main()
