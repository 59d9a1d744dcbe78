"""Measure the mixture of experts (A3B) on one GPU: rounding, kernels, steps, tokens, offloading and a session.

    python -m benchmarks.experts --folder FOLDER --output benchmarks/results/experts_a3b_h100.json
    python -m benchmarks.experts --tiny                       # the same code on a CPU, in a few minutes

Weights are random, of A3B's shape. The whole model has 77 GB. So `bfloat16` and `fp8-all` measure steps with a
generation tower of full size beside an understanding tower of few experts, and tokens the other way round: neither
tower's speed depends on the other. `layers` and `turns` use the whole model in FOLDER, which is written if it does not
exist: 77 GB of disk, and 2 GB of the host's memory.
"""

import argparse
import gc
import hashlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.numerics import difference
from benchmarks.offload import decoding_rate, draw, write_random_weights
from config.settings import ImageSettings
from config.sizes import Size, format_size, parse_size
from model.backends.gpu import KERNELS, GpuAttention
from model.backends.select import select_backend
from model.bench.bench import PROMPT_TOKENS, median_step_seconds, seconds_of_each, text_prefix
from model.bench.ceilings import median_seconds
from model.checkpoint.quantization import QUANTIZATIONS
from model.checkpoint.random_weights import SHAPES, config_fields, random_network
from model.devices import peak_memory, reset_peak_memory
from model.engine import Engine
from model.events import Picture
from model.network.configuration import ModelConfig, SparseExperts, parse_config
from model.network.experts import Experts
from model.network.layers import SparseMoE
from model.requests import GenerateRequest
from model.sampling.backend import Backend
from model.sampling.decode import decode, greedy
from model.trace import Trace

PARTS = ("rounding", "kernels", "bfloat16", "fp8-all", "halves", "layers", "turns")
NEED_FOLDER = ("layers", "turns")
TINY = {**SHAPES["a3b"], "hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 48}
TINY |= {"vocabulary": 264, "vision_hidden": 16, "experts": (12, 10)}
FEW_EXPERTS = 8
SHARD_BYTES = 2**30
LAYERS_MEMORY = "24GiB"
TURNS, TURN_STEPS, THINK_TOKENS, WARM_UP_TURNS = 12, 8, 32, 4
WARM_UP_TOKENS = 8


def fresh_experts(config: SparseExperts, hidden: int, device: torch.device, dtype: torch.dtype) -> SparseMoE:
    """Return experts with the same random weights every time."""
    torch.manual_seed(0)
    with torch.device(device):
        moe = SparseMoE(hidden, config).requires_grad_(False)
    for parameter in moe.parameters():
        parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return moe.to(dtype)


def grouped_way(device: torch.device) -> Callable[[Experts, Tensor], Tensor]:
    """Return the function that backends use on this device."""
    if device.type != "cuda":
        return Experts.grouped
    from model.backends.experts import run_experts  # needs Triton

    return run_experts


def measure_rounding(config: ModelConfig, tokens: int, device: torch.device) -> dict[str, Any]:
    """Return relative differences of one layer's grouped experts from one by one, and of both from float32.

    Half precision rounds the router's input too, so some tokens get other experts than in float32. Therefore both ways
    are compared with float32 sums of the same bfloat16 weights, inputs and routing.
    """
    transformer, result = config.transformer, {}
    assert isinstance(transformer.gen_mlp, SparseExperts)
    way, x = grouped_way(device), torch.randn(tokens, transformer.hidden_size, device=device)
    for dtype in (torch.float32, torch.bfloat16):
        moe = fresh_experts(transformer.gen_mlp, transformer.hidden_size, device, dtype)
        rows = x.to(dtype)
        plain, grouped = moe.one_by_one(rows), way(moe, rows)
        own = {"grouped against one by one": difference(grouped, plain)}
        if dtype == torch.bfloat16:
            exact = in_float32(moe, rows)
            own |= {"grouped": difference(grouped, exact), "one by one": difference(plain, exact)}
        result[str(dtype).removeprefix("torch.")] = own
    return result


def in_float32(moe: SparseMoE, rows: Tensor) -> Tensor:
    """Return the experts' sum in float32, with the routing of the model's dtype."""
    weights, chosen = moe.route(rows)

    class Routed(SparseMoE):
        def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return weights.float(), chosen

    hidden, experts = moe.router.in_features, moe.router.out_features
    routed = Routed(hidden, SparseExperts(moe.down_proj.weight.shape[2], experts, moe.top_k, moe.norm_topk_prob))
    routed.load_state_dict(moe.state_dict())
    return routed.to(rows.device).one_by_one(rows.float())


def measure_kernels(config: ModelConfig, tokens: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return seconds of one layer's experts of the generation tower: both ways, and their FLOP/s."""
    transformer = config.transformer
    mlp, hidden = transformer.gen_mlp, transformer.hidden_size
    assert isinstance(mlp, SparseExperts)
    moe = fresh_experts(mlp, hidden, device, dtype)
    x, way = torch.randn(tokens, hidden, device=device).to(dtype), grouped_way(device)
    flops = 6 * tokens * mlp.top_k * hidden * mlp.intermediate_size
    works: dict[str, Callable[[], object]] = {
        "one by one": lambda: moe.one_by_one(x),
        "grouped": lambda: way(moe, x),
        "routing alone": lambda: moe.sorted_routing(x),
    }
    result = {name: {"seconds": median_seconds(work, device)} for name, work in works.items()}
    for name in ("one by one", "grouped"):
        result[name]["flops_per_second"] = flops / result[name]["seconds"]
    return result


def with_few_experts(config: ModelConfig, tower: str) -> ModelConfig:
    """Return the configuration with few experts in the understanding or the generation tower."""
    mlp = getattr(config.transformer, f"{tower}_mlp")
    few = replace(mlp, experts=min(mlp.experts, FEW_EXPERTS))
    return replace(config, transformer=replace(config.transformer, **{f"{tower}_mlp": few}))


def measure_resident(options: argparse.Namespace, config: ModelConfig, quantization: str) -> dict[str, Any]:
    """Return seconds of guided and unguided steps, and tokens per second."""
    device, dtype, chosen = options.device, options.dtype, QUANTIZATIONS[quantization]
    network = random_network(with_few_experts(config, "und"), device, dtype, chosen)
    backend = select_backend(network, enforce_eager=False)
    reset_peak_memory(device)
    settings = ImageSettings(num_steps=options.steps + 1)
    result: dict[str, Any] = {"note": backend.note, "guided_step": median_step_seconds(backend, options.size, settings)}
    result["peak"] = peak_memory(device)
    unguided = settings.model_copy(update={"cfg_scale": 1.0})
    result["unguided_step"] = median_step_seconds(backend, options.size, unguided)
    del network, backend
    free_memory(device)
    backend = select_backend(
        random_network(with_few_experts(config, "gen"), device, dtype, chosen), enforce_eager=False
    )
    result["tokens_per_second"] = tokens_per_second(backend, options.tokens)
    return result


def tokens_per_second(backend: Backend, tokens: int) -> float:
    """Return the rate of greedy decoding behind a prompt."""
    prefix = text_prefix(backend.network, PROMPT_TOKENS, tokens + WARM_UP_TOKENS)
    seconds = list(seconds_of_each(decode(backend, prefix, greedy, tokens + WARM_UP_TOKENS, ())))
    return 1 / statistics.median(seconds[WARM_UP_TOKENS:])


def measure_halves(options: argparse.Namespace, config: ModelConfig) -> dict[str, Any]:
    """Return seconds of a guided step with large pictures in two halves, and without. Only CUDA has halves."""
    if options.device.type != "cuda":
        return {}
    from model.backends.cuda import FusedOperations

    network = random_network(with_few_experts(config, "und"), options.device, options.dtype)
    settings, result = ImageSettings(num_steps=options.steps + 1), {}
    for halves in (False, True):
        backend = select_backend(network, enforce_eager=False)
        attention = GpuAttention(groups_heads=True)
        network.gen.operations = FusedOperations(attention, kernels=list(KERNELS), halves=halves)
        result["in halves" if halves else "whole"] = median_step_seconds(backend, options.size, settings)
    return result


def measure_layers(options: argparse.Namespace) -> dict[str, Any]:
    """Return figures of the whole model with one tower at a time, and with layers in little memory."""
    result = {}
    plans: dict[str, dict[str, Any]] = {
        "module": {"offload": "module"},
        "layers": {"offload": "layers", "gpu_memory": LAYERS_MEMORY},
    }
    for name, plan in plans.items():
        size = format_size(options.size)
        engine = Engine.load(options.folder, device=options.device.type, dtype=options.dtype_name, size=size, **plan)
        result[name] = {"weights": engine.weights_summary, **draw(engine, size, options.device)}
        result[name]["tokens_per_second"] = decoding_rate(engine)
        engine.close()
        free_memory(options.device)
    return result


def measure_turns(options: argparse.Namespace) -> dict[str, Any]:
    """Return memory after each of some turns that think and draw, with towers swapped, and whether bytes repeat."""
    engine = Engine.load(options.folder, device=options.device.type, dtype=options.dtype_name, offload="module")
    settings = ImageSettings(
        size=format_size(options.size), num_steps=TURN_STEPS, think=True, max_think_tokens=THINK_TOKENS
    )
    memory, digests = [], []
    for _ in range(TURNS):
        trace = Trace()
        for event in engine.run(GenerateRequest("a lighthouse in the fog", settings), trace):
            trace.predicted.clear()
            trace.velocities.clear()
            if isinstance(event, Picture):
                digests.append(hashlib.sha256(event.image.tobytes()).hexdigest()[:16])
        memory.append(torch.cuda.memory_reserved() if options.device.type == "cuda" else peak_memory(options.device))
    engine.close()
    growth = max(memory[WARM_UP_TURNS:]) / memory[WARM_UP_TURNS - 1]
    return {"turns": TURNS, "memory": memory, "growth": growth, "distinct_pictures": len(set(digests))}


def free_memory(device: torch.device) -> None:
    """Return the memory of deleted networks to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def bars(result: dict[str, Any]) -> list[harness.Bar]:
    """Return the figures that have a limit, on an H100."""
    found = []
    for name, step in (("bfloat16", 0.22), ("fp8-all", 0.17)):
        if name in result:
            found.append(harness.Bar(f"guided step, {name}", result[name]["guided_step"], step, "s"))
    if "bfloat16" in result:
        rate = result["bfloat16"]["tokens_per_second"]
        found.append(harness.Bar("text, bfloat16", rate, 150, "tokens/s", at_least=True))
    if "layers" in result:
        ratio = result["layers"]["layers"]["step_seconds"] / result["layers"]["module"]["step_seconds"]
        found.append(harness.Bar(f"step in {LAYERS_MEMORY} against one tower resident", ratio, 1.3, "times"))
    if "turns" in result:
        found.append(harness.Bar("growth of memory after turn 4", result["turns"]["growth"], 1.01, "times"))
        found.append(harness.Bar("distinct pictures of one seed", result["turns"]["distinct_pictures"], 1))
    return found


def measure(options: argparse.Namespace, shape: dict[str, Any]) -> dict[str, Any]:
    """Run the parts that are asked for, one after another."""
    config = parse_config(config_fields(**shape), "a3b")
    tokens = (options.size[0] // 32) * (options.size[1] // 32)
    if set(NEED_FOLDER) & set(options.parts) and not options.folder.exists():
        write_random_weights(options.folder, shape, options.device, SHARD_BYTES)
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "rounding": lambda: measure_rounding(config, tokens, options.device),
        "kernels": lambda: measure_kernels(config, tokens, options.device, options.dtype),
        "bfloat16": lambda: measure_resident(options, config, "off"),
        "fp8-all": lambda: measure_resident(options, config, "fp8-all"),
        "halves": lambda: measure_halves(options, config),
        "layers": lambda: measure_layers(options),
        "turns": lambda: measure_turns(options),
    }
    result = {}
    for part in options.parts:
        result[part] = works[part]()
        harness.progress(f"{part}: {result[part]}")
        free_memory(options.device)
    return result


@torch.inference_mode()
def main() -> None:
    parser = harness.parser(__doc__, device="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, help="the checkpoint for layers and turns; written if it does not exist")
    parser.add_argument("--size", type=parse_size, default=(2048, 2048), metavar="WxH")
    parser.add_argument("--steps", type=int, default=20, help="timed guided steps")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--tiny", action="store_true", help="a tiny mixture, to try the script on any machine")
    options = parser.parse_args()
    options.device, options.dtype = torch.device(options.device), torch.bfloat16
    options.dtype_name = "bfloat16"
    with tempfile.TemporaryDirectory() as scratch:
        if options.tiny:
            size: Size = (128, 128)
            options.size, options.steps, options.tokens = size, 2, 4
            options.folder = options.folder or Path(scratch) / "tiny"
        elif options.folder is None:
            options.parts = [part for part in options.parts if part not in NEED_FOLDER]
        result = measure(options, TINY if options.tiny else SHAPES["a3b"])
    table = harness.table("part", "figure", "value")
    for part, figures in result.items():
        for name, value in figures.items():
            table.add_row(part, name, f"{value:.4g}" if isinstance(value, float) else str(value))
    harness.finish(options, {"shape": "tiny" if options.tiny else "a3b", **result}, table, options.device)
    if not options.tiny:
        harness.show(harness.bars_table(bars(result)))
        sys.exit(0 if all(bar.met for bar in bars(result)) else 1)


if __name__ == "__main__":
    main()
