"""The part of a network that one of several ranks holds, and the part of each stored tensor that it reads for it.

Attention is split by whole heads, a SwiGLU by matching rows of gate and up, each expert like a SwiGLU, the head that
predicts pictures like an MLP, and the vocabulary by tokens (Shoeybi et al. 2019, arXiv:1909.08053). So a rank's
network is one of the same kind with fewer heads, narrower MLPs and fewer tokens, and a tensor's slice follows from the
two shapes: of a projection into heads or into an MLP a rank has rows, of one out of them columns, and all of whatever
is the same size in both. What writes text and what draws may be split into different numbers of parts.
"""

from dataclasses import dataclass, replace

from model.checkpoint.layout import ParameterSlice, checkpoint_layout
from model.checkpoint.safetensors_files import StoredTensor, TensorPart
from model.errors import DeviceError
from model.network.configuration import DenseMLP, ModelConfig, SparseExperts


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` equal ones."""

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Shards:
    """What a rank holds of a network.

    Attributes:
        und: its part of the und tower and of the vocabulary.
        gen: its part of the gen tower and of the head that predicts pictures.
    """

    und: Shard = Shard()
    gen: Shard = Shard()

    @classmethod
    def equal(cls, index: int, count: int) -> "Shards":
        """Part `index` of `count` of everything."""
        return cls(Shard(index, count), Shard(index, count))

    def of(self, parameter: str) -> Shard:
        """The part of one of the network's parameters, by its name."""
        return self.gen if _draws(parameter) else self.und


WHOLE = Shards()


def shard_layout(config: ModelConfig, shards: Shards) -> dict[str, ParameterSlice]:
    """`checkpoint_layout` of a rank's part of a network; `config` is that of the whole one."""
    und = checkpoint_layout(split_config(config, shards.und.count))
    if shards.gen.count == shards.und.count:
        return und
    gen = checkpoint_layout(split_config(config, shards.gen.count))
    return {name: (gen if _draws(slot.parameter) else und)[name] for name, slot in und.items()}


def _draws(parameter: str) -> bool:
    return parameter.startswith(("gen.", "fm_head."))


def split_config(config: ModelConfig, count: int) -> ModelConfig:
    """The configuration of one of `count` parts; `possible_splits` says which counts there are.

    The last part of a vocabulary is filled up to the size of the others.
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
    """The counts that divide heads, key/value heads and the widths of the MLPs."""
    transformer, flow = config.transformer, config.flow
    # Four channels of a convolutional head become one for its second convolution.
    head = flow.head_width // 4 if flow.convolutional_head else flow.head_width
    widths = transformer.und_mlp.intermediate_size, transformer.gen_mlp.intermediate_size
    divided = transformer.heads, transformer.kv_heads, head, *widths
    return [count for count in range(1, transformer.kv_heads + 1) if not any(each % count for each in divided)]


def require_split(config: ModelConfig, count: int) -> None:
    """Raise DeviceError unless the network can be split into so many parts."""
    possible = possible_splits(config)
    if count not in possible:
        transformer = config.transformer
        raise DeviceError(
            f"tensor_parallel_size {count}: {transformer.heads} heads and {transformer.kv_heads} key/value heads of "
            f"this model cannot be shared equally by {count} ranks",
            f"it can be {', '.join(map(str, possible))}; more GPUs: `cfg_parallel_size`",
        )


def shard_of(tensor: StoredTensor, slot: ParameterSlice, shards: Shards) -> TensorPart:
    """What a rank reads of a tensor.

    Args:
        slot: of the rank's own part, from `shard_layout`.
    """
    shard = shards.of(slot.parameter)
    for axis, (ours, all_of_it) in enumerate(zip(slot.shape, tensor.shape, strict=True)):
        if ours != all_of_it:
            start = shard.index * ours
            return TensorPart(tensor, axis, start, min(ours, all_of_it - start))
    return TensorPart.whole(tensor)
