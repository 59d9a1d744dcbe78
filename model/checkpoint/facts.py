"""Facts about a checkpoint, read from its small files."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from config.recommended import Recommended, read_recommended
from model.checkpoint.conversion_record import converted_quantization
from model.checkpoint.weights_file import describe_weights
from model.errors import CheckpointError
from model.network.configuration import SparseExperts, read_config


@dataclass(frozen=True)
class CheckpointFacts:
    """Architecture and size of a checkpoint.

    Attributes:
        layers, hidden_size, heads, kv_heads: numbers of each tower.
        experts: tower → number of experts, for towers with experts.
        weight_files, weight_bytes: number and total size of the safetensors files.
        weight_format: the formats of the numbers; None without files, or if they are damaged.
        quantization: the value of the setting that the weights were converted for; None for other checkpoints.
    """

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    experts: dict[str, int]
    pixel_head: Literal["convolutional", "mlp"]
    weight_files: int
    weight_bytes: int
    weight_format: str | None
    quantization: str | None
    recommended: Recommended


def read_facts(folder: Path) -> CheckpointFacts:
    """Read the facts about a checkpoint folder, without its weights.

    Raises:
        CheckpointError: `config.json` is missing or damaged.
        RecommendationError: the recommended settings are damaged.
    """
    config = read_config(folder)
    transformer = config.transformer
    files = sorted(file for file in folder.glob("*.safetensors") if file.is_file())  # reading a pipe would not end
    weight_format: str | None = None
    with suppress(CheckpointError):  # `verify` checks the files
        weight_format = describe_weights(*files).formats if files else None
    towers = (("understanding", transformer.und_mlp), ("generation", transformer.gen_mlp))
    return CheckpointFacts(
        layers=transformer.layers,
        hidden_size=transformer.hidden_size,
        heads=transformer.heads,
        kv_heads=transformer.kv_heads,
        experts={tower: mlp.experts for tower, mlp in towers if isinstance(mlp, SparseExperts)},
        pixel_head="convolutional" if config.flow.convolutional_head else "mlp",
        weight_files=len(files),
        weight_bytes=sum(path.stat().st_size for path in files),
        weight_format=weight_format,
        quantization=converted_quantization(folder),
        recommended=read_recommended(folder),
    )
