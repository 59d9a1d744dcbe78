"""Compare the fused kernels and eight-bit weights with the plain network, at full size.

    python -m benchmarks.numerics --output benchmarks/results/numerics_u1-8b_h100.json

Needs a CUDA device; weights are random, of the 8B's shape, in bfloat16. The plain network draws a picture. At each of
its steps the other variants predict the clean picture from the same noisy one; the figure is the relative difference
‖a − b‖ / ‖b‖. `another attention kernel` is the plain network with FlashAttention instead of cuDNN's kernel: it shows
the effect of rounding alone over 42 layers.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from benchmarks import harness
from config.settings import ImageSettings
from config.sizes import TOKEN_PIXELS, parse_size
from model.backends.gpu import KERNELS, GpuAttention, GpuOperations
from model.backends.select import set_plain_operations
from model.bench.bench import shape_config, text_prefix
from model.checkpoint.quantization import LAYERS, QUANTIZATIONS, Quantization, quantize_network
from model.checkpoint.random_weights import random_network
from model.network.attention import Segment
from model.network.cache import KVCache
from model.network.flow import picture_to_tokens
from model.network.operations import Operations, join_rows
from model.network.rope import attention_rotary, image_positions, patch_rotary
from model.network.sensenova import SenseNovaU1
from model.network.transformer import Block
from model.sampling.backend import Backend
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefill import Prefix
from model.sampling.schedule import noise_amplitude, starting_noise, time_grid

PROMPT_TOKENS = 500
Predict = Callable[[Tensor, float], Tensor]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return ‖ours − theirs‖ / ‖theirs‖."""
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def predictor(network: SenseNovaU1, prefix: Prefix, size: tuple[int, int]) -> Predict:
    """Return the function (x, t) → x̂ of the condition branch."""
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
    """Return the relative difference of each fused block's output from that of the plain block, for the same input."""
    from model.backends.cuda import FusedOperations

    config = network.config.transformer
    cache = KVCache(config, tokens, network.dtype, network.device)
    side = int(tokens**0.5)
    rotary = attention_rotary(image_positions(0, side, side, network.device), config, network.dtype)
    hidden = torch.randn(1, side * side, config.hidden_size, device=network.device).to(network.dtype)
    image = [Segment(side * side, causal=False)]
    attention = GpuAttention(groups_heads=True)
    plain, fused = GpuOperations(attention, kernels=list(KERNELS)), FusedOperations(attention, kernels=list(KERNELS))

    def output(block: Block, operations: Operations) -> Tensor:
        batches = operations.row_groups(hidden, [rotary], [cache], image)
        with operations.running(batches, in_step=False):
            for groups in batches:
                block(groups, 0, image, operations)
        return join_rows([group.result() for groups in batches for group in groups])

    return [difference(output(block, fused), output(block, plain)) for _, block in network.gen.blocks.through()]


@torch.inference_mode()
def main() -> None:
    parser = harness.parser(__doc__, model="u1-8b", models="name of a built-in shape")
    parser.add_argument("--size", default="2048x2048")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    from model.backends.cuda import CudaBackend  # needs Triton

    size = parse_size(options.size)
    assert size is not None
    device, tokens = torch.device("cuda"), size[0] * size[1] // TOKEN_PIXELS**2
    torch.manual_seed(0)
    network = random_network(shape_config(options.model), device, torch.bfloat16)
    set_plain_operations(network)
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
        predict = predictor(network, prefix, size)  # of the network as it is at this moment
        return [predict(x, time) for x, time in seen]

    plain = predictions(prefix)
    results: dict[str, Any] = {"each block by itself, fused": blocks_apart(network, tokens)}

    def compare(name: str, prefix: Prefix) -> None:
        results[name] = list(itertools.starmap(difference, zip(predictions(prefix), plain, strict=True)))

    others = [kernel for kernel in KERNELS if kernel != SDPBackend.CUDNN_ATTENTION]
    network.gen.operations = GpuOperations(GpuAttention(groups_heads=True), kernels=others)
    compare("another attention kernel", prefix)
    CudaBackend(network)
    compare("fused", prefix)
    for number, form in enumerate(LAYERS):
        if number:  # the same weights again, not quantized
            torch.manual_seed(0)
            del network
            network = random_network(shape_config(options.model), device, torch.bfloat16)
            CudaBackend(network)
            prefix = text_prefix(network, PROMPT_TOKENS, tokens)
        quantize_network(network, QUANTIZATIONS[form])
        compare(form, prefix)
        # `lm_head` does not matter for pictures.
        quantize_network(network, Quantization(form, ("und",)))
        compare(f"{form}-all", text_prefix(network, PROMPT_TOKENS, tokens))
    rows = [(name, f"{min(values):.4f}", f"{max(values):.4f}") for name, values in results.items()]
    table = harness.table("relative difference of the prediction", "least", "most", rows=rows)
    result = {"steps": options.steps, "relative_difference_of_the_prediction": results}
    harness.finish(options, result, table, device)


if __name__ == "__main__":
    main()
