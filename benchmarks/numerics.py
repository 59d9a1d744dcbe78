"""How far the fused kernels and eight-bit weights are from the network as it is written, at full size.

    python -m benchmarks.numerics --json benchmarks/results/numerics_h100.json

Random weights of the 8B's shape, bfloat16, a CUDA device. A picture is drawn by the network as it is written; at each
of its steps the other ways predict the clean picture from the same noisy one, and the relative difference
‖a − b‖ / ‖b‖ is told. `another attention kernel` is the network as it is written with FlashAttention instead of cuDNN's
kernel: what rounding alone makes of 42 layers.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from benchmarks.report import write_report
from config.settings import ImageSettings
from config.sizes import TOKEN_PIXELS, format_size, parse_size
from model.backends.cuda import CudaBackend, FusedTower
from model.bench.bench import shape_config, text_prefix
from model.checkpoint.quantization import quantize_network
from model.checkpoint.random_weights import random_network
from model.network import attention
from model.network.attention import Segment
from model.network.cache import KVCache
from model.network.flow import picture_to_tokens
from model.network.rope import attention_rotary, image_positions, patch_rotary
from model.network.sensenova import SenseNovaU1
from model.network.transformer import Blocks, Tower
from model.sampling.backend import Backend
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefill import Prefix
from model.sampling.schedule import noise_amplitude, starting_noise, time_grid

PROMPT_TOKENS = 500
Predict = Callable[[Tensor, float], Tensor]


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def predictor(network: SenseNovaU1, prefix: Prefix, size: tuple[int, int]) -> Predict:
    """(x, t) → x̂ of the conditional branch."""
    device, config = network.device, network.config
    grid = (size[1] // TOKEN_PIXELS, size[0] // TOKEN_PIXELS)
    patches = patch_rotary(2 * grid[0], 2 * grid[1], config.vision.hidden_size, config.vision.rope_theta, device)
    positions = image_positions(prefix.next_position, *grid, device)
    rotary = attention_rotary(positions, config.transformer, network.dtype)
    amplitude = noise_amplitude(grid[0] * grid[1], config.flow)
    scale = network.noise_scale_embedder(torch.tensor([amplitude / config.flow.noise_scale_max], device=device))

    def predict(x: Tensor, time: float) -> Tensor:
        conditioning = network.timestep_embedder(torch.tensor([time], device=device)) + scale
        return network.predict(network.embed_noisy(x, conditioning, grid, patches), grid, [rotary], [prefix.cache])

    return predict


def blocks_apart(network: SenseNovaU1, tokens: int) -> list[float]:
    """Each block by itself, from the same input."""
    config = network.config.transformer
    cache = KVCache(config, tokens, network.dtype, network.device)
    side = int(tokens**0.5)
    rotary = attention_rotary(image_positions(0, side, side, network.device), config, network.dtype)
    hidden = torch.randn(1, side * side, config.hidden_size, device=network.device).to(network.dtype)
    image = [Segment(side * side, causal=False)]
    differences = []
    for block in network.gen.blocks:
        with attention.fastest_kernels(network.device):
            plain = block(hidden, [rotary], [cache], 0, image)
            one = FusedTower(cast(Tower, SimpleNamespace(blocks=Blocks([block]))))
            differences.append(difference(one(hidden, [rotary], [cache], image), plain))
    return differences


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="u1-8b")
    parser.add_argument("--size", default="2048x2048")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    size = parse_size(options.size)
    assert size is not None
    device, tokens = torch.device("cuda"), size[0] * size[1] // TOKEN_PIXELS**2
    torch.manual_seed(0)
    network = random_network(shape_config(options.model), device, torch.bfloat16)
    settings = ImageSettings(num_steps=options.steps, cfg_scale=1.0)
    prefix = text_prefix(network, PROMPT_TOKENS, tokens)
    drawn = [
        step.tokens
        for step in denoise(Backend(network), {"condition": prefix}, generate_guidance(settings), size, 42, settings)
    ]
    noise = starting_noise(size, 42, device, torch.bfloat16)
    start = picture_to_tokens(noise) * noise_amplitude(tokens, network.config.flow)
    times = time_grid(settings.num_steps, settings.timestep_shift)[:-1]
    seen = list(zip([start, *drawn], times, strict=False))

    def predictions(prefix: Prefix) -> list[Tensor]:
        predict = predictor(network, prefix, size)
        return [predict(x, time) for x, time in seen]

    plain = predictions(prefix)
    results: dict[str, Any] = {"each block by itself, fused": blocks_apart(network, tokens)}

    def compare(name: str, prefix: Prefix) -> None:
        results[name] = list(itertools.starmap(difference, zip(predictions(prefix), plain, strict=True)))

    kernels = dict(attention.KERNELS)
    del attention.KERNELS[SDPBackend.CUDNN_ATTENTION]
    compare("another attention kernel", prefix)
    attention.KERNELS.clear()
    attention.KERNELS.update(kernels)
    CudaBackend(network)
    compare("fused", prefix)
    quantize_network(network, ("gen",))
    compare("fp8", prefix)
    quantize_network(network, ("und",))
    compare("fp8-all", text_prefix(network, PROMPT_TOKENS, tokens))
    for name, values in results.items():
        print(f"{name:30} {' '.join(f'{value:.4f}' for value in values)}")
    report = {
        "command": f"python -m benchmarks.numerics --model {options.model} --size {format_size(size)}",
        "steps": options.steps,
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "relative_difference_of_the_prediction": results,
    }
    write_report(report, options.json)


if __name__ == "__main__":
    main()
