"""Shards of a network, one per rank, and the part of each stored tensor that a shard needs.

Attention is split by whole heads, a SwiGLU by matching rows of gate and up, each expert like a SwiGLU, the flow-
matching head like an MLP, and the vocabulary by tokens (Shoeybi et al. 2019, arXiv:1909.08053). So a shard is a network
of the same architecture with fewer heads, narrower MLPs and fewer tokens, and the two shapes of a tensor determine its
part: rows of a projection into heads or into an MLP, columns of a projection out of them, and the whole tensor if the
shapes are equal. The two towers may be split into different numbers of shards.
"""

from dataclasses import dataclass, replace

from model.checkpoint.layout import ParameterSlice, checkpoint_layout
from model.checkpoint.stored_tensor import StoredTensor, TensorPart
from model.errors import DeviceError
from model.network.configuration import DenseMLP, ModelConfig, SparseExperts


@dataclass(frozen=True)
class Shard:
    """Shard number `index` (from 0) of `count` equal ones."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Shards:
    """One rank's shards of a network.

    Attributes:
        und: shard of the und tower and of the vocabulary.
        gen: shard of the gen tower and of the flow-matching head.
    """

    und: Shard = Shard()
    gen: Shard = Shard()

    @classmethod
    def equal(cls, index: int, count: int) -> "Shards":
        """Return shard `index` of `count` of both towers."""
        return cls(Shard(index, count), Shard(index, count))

    def of(self, parameter: str) -> Shard:
        """Return the shard that a parameter belongs to."""
        return self.gen if _is_gen(parameter) else self.und


WHOLE = Shards()


def shard_layout(config: ModelConfig, shards: Shards) -> dict[str, ParameterSlice]:
    """Return `checkpoint_layout` of a rank's shards; `config` describes the whole network."""
    und = checkpoint_layout(split_config(config, shards.und.count))
    if shards.gen.count == shards.und.count:
        return und
    gen = checkpoint_layout(split_config(config, shards.gen.count))
    return {name: (gen if _is_gen(target.parameter) else und)[name] for name, target in und.items()}


def _is_gen(parameter: str) -> bool:
    return parameter.startswith(("gen.", "fm_head."))


def split_config(config: ModelConfig, count: int) -> ModelConfig:
    """Return the configuration of one of `count` shards; `possible_splits` lists the counts.

    The last shard of a vocabulary is padded to the size of the others.
    """
    if count == 1:
        return config
    transformer = config.transformer
    return replace(
        config,
        transformer=replace(
            transformer,
            heads=transformer.heads // count,
            kv_heads=transformer.kv_heads // count,
            vocabulary=-(-transformer.vocabulary // count),
            und_mlp=_split_mlp(transformer.und_mlp, count),
            gen_mlp=_split_mlp(transformer.gen_mlp, count),
        ),
        flow=replace(config.flow, head_width=config.flow.head_width // count),
    )


def _split_mlp(mlp: DenseMLP | SparseExperts, count: int) -> DenseMLP | SparseExperts:
    return replace(mlp, intermediate_size=mlp.intermediate_size // count)


def possible_splits(config: ModelConfig) -> list[int]:
    """Return the numbers of shards that divide heads, key/value heads and the widths of the MLPs."""
    transformer, flow = config.transformer, config.flow
    # The second convolution of a convolutional head reads a quarter of the first one's channels.
    head = flow.head_width // 4 if flow.convolutional_head else flow.head_width
    widths = transformer.und_mlp.intermediate_size, transformer.gen_mlp.intermediate_size
    sizes = transformer.heads, transformer.kv_heads, head, *widths
    return [count for count in range(1, transformer.kv_heads + 1) if not any(size % count for size in sizes)]


def require_split(config: ModelConfig, count: int) -> None:
    """Raise DeviceError unless the network can be split into `count` shards."""
    possible = possible_splits(config)
    if count not in possible:
        transformer = config.transformer
        raise DeviceError(
            f"tensor_parallel_size {count}: {transformer.heads} heads and {transformer.kv_heads} key/value heads of "
            f"this model cannot be shared equally by {count} ranks",
            f"it can be {', '.join(map(str, possible))}; more GPUs: `cfg_parallel_size`",
        )


def shard_of(tensor: StoredTensor, target: ParameterSlice, shards: Shards) -> TensorPart:
    """Return the part of a tensor that a rank reads.

    Args:
        target: the tensor's parameter slice in the rank's shard, from `shard_layout`.
    """
    shard = shards.of(target.parameter)
    for axis, (size, whole_size) in enumerate(zip(target.shape, tensor.shape, strict=True)):
        if size != whole_size:
            start = shard.index * size
            return TensorPart(tensor, axis, start, min(size, whole_size - start))
    return TensorPart.whole(tensor)
