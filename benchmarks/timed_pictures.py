"""The options and the network of the benchmarks that time whole pictures, with random weights or a checkpoint."""

import argparse
from pathlib import Path

from benchmarks import harness
from model.backends.select import select_backend
from model.bench.bench import shape_config
from model.checkpoint.loader import load_checkpoint
from model.checkpoint.quantization import resolve_quantization
from model.checkpoint.random_weights import SHAPES, random_network
from model.devices import DTYPES, resolve_device
from model.sampling.backend import Backend


def parse_options(doc: str) -> argparse.Namespace:
    """Return the options that these benchmarks share.

    Args:
        doc: the docstring of the script.
    """
    parser = harness.parser(
        doc,
        model="u1-8b",
        models=f"{', '.join(SHAPES)} for random weights, or a checkpoint folder",
        device="auto",
        dtype="bfloat16",
    )
    parser.add_argument("--quantization", default="off")
    parser.add_argument("--size", nargs="+", default=["2048x2048"])
    parser.add_argument("--steps", type=int, default=50)
    return parser.parse_args()


def open_backend(options: argparse.Namespace) -> Backend:
    """Return the backend of the network that the options name."""
    device, dtype = resolve_device(options.device), DTYPES[options.dtype]
    quantization = resolve_quantization(options.quantization, device, dtype)
    if options.model in SHAPES:
        network = random_network(shape_config(options.model), device, dtype, quantization)
    else:
        network = load_checkpoint(Path(options.model), device, dtype, quantized=quantization)
    return select_backend(network, enforce_eager=False)
