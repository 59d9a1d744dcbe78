"""Facts about a checkpoint, read from its small files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from config.recommended import Recommended, read_recommended
from model.network.configuration import SparseExperts, read_config


@dataclass(frozen=True)
class CheckpointFacts:
    """Architecture and size of a checkpoint.

    Attributes:
        layers, hidden_size, heads, kv_heads: numbers of each tower.
        experts: tower → number of experts, for towers with experts.
        weight_files, weight_bytes: number and total size of the safetensors files.
    """

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    experts: dict[str, int]
    pixel_head: Literal["convolutional", "mlp"]
    weight_files: int
    weight_bytes: int
    recommended: Recommended


def read_facts(folder: Path) -> CheckpointFacts:
    """Read the facts about a checkpoint folder, without its weights.

    Raises:
        CheckpointError: `config.json` is missing or damaged.
        RecommendationError: the recommended settings are damaged.
    """
    config = read_config(folder)
    transformer = config.transformer
    weights = [path.stat().st_size for path in folder.glob("*.safetensors")]
    towers = (("understanding", transformer.und_mlp), ("generation", transformer.gen_mlp))
    return CheckpointFacts(
        layers=transformer.layers,
        hidden_size=transformer.hidden_size,
        heads=transformer.heads,
        kv_heads=transformer.kv_heads,
        experts={tower: mlp.experts for tower, mlp in towers if isinstance(mlp, SparseExperts)},
        pixel_head="convolutional" if config.flow.convolutional_head else "mlp",
        weight_files=len(weights),
        weight_bytes=sum(weights),
        recommended=read_recommended(folder),
    )
