"""The network at the start of a training: with random weights, or with those of an older checkpoint."""

import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.checkpoint.loader import empty_network, load_checkpoint
from model.checkpoint.random_weights import config_fields
from model.demo.training.vocabulary import pieces_in
from model.network.configuration import parse_config
from model.network.sensenova import SenseNovaU1

SHAPE: dict[str, Any] = {
    "hidden": 256,
    "layers": 6,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 64,
    "ffn": 768,
    "vision_hidden": 128,
}
"""Arguments of `config_fields`. They give about 11.7 million parameters."""


def configuration(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the contents of `config.json`."""
    return config_fields(vocabulary=tokenizer.get_vocab_size(), **SHAPE)


def new_network(tokenizer: Tokenizer, device: torch.device, dtype: torch.dtype) -> SenseNovaU1:
    """Return a network with random weights."""
    network = empty_network(parse_config(configuration(tokenizer), "demo"), device, dtype)
    initialise(network, SHAPE["layers"])
    return network


def starting_network(folder: Path, tokenizer: Tokenizer, device: torch.device, dtype: torch.dtype) -> SenseNovaU1:
    """Return a network with the weights of a checkpoint, whose tokenizer may have fewer words.

    A new word begins as the mean of the older tokens that spell it.
    """
    older = load_checkpoint(folder, device, dtype)
    network = empty_network(parse_config(configuration(tokenizer), "demo"), device, dtype)
    pieces = pieces_in(Tokenizer.from_file(str(folder / "tokenizer.json")), tokenizer)
    weights = dict(older.named_parameters())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in ("embed_tokens.weight", "lm_head.weight"):
                parameter.copy_(_means(weights[name], pieces))
            else:
                parameter.copy_(weights[name])
    return network


def _means(rows: Tensor, pieces: list[list[int]]) -> Tensor:
    """Return the mean of some rows for each list of their indices; zeros for an empty list."""
    means = torch.zeros(len(pieces), rows.shape[1], dtype=torch.float32, device=rows.device)
    for number, indices in enumerate(pieces):
        if indices:
            means[number] = rows[indices].float().mean(0)
    return means


def initialise(network: SenseNovaU1, layers: int) -> None:
    """Fill a new network: norms with 1, biases with 0, matrices with normal numbers of deviation 1/√fan-in.

    Matrices that write to the residual stream get 1/√(2·layers) of that deviation.
    """
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 or name.endswith("_norm.weight"):
            parameter.data.fill_(0 if name.endswith(".bias") else 1)
            continue
        deviation = math.prod(parameter.shape[1:]) ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= (2 * layers) ** 0.5
        if name == "embed_tokens.weight":
            deviation = 0.5
        parameter.data.normal_(std=deviation)
