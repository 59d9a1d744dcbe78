"""Operation counts: arithmetic of a denoising step, and memory traffic of a decoded token.

The counts contain matrix products and attention, which grow with the model. Norms, rotations, the picture's embedding
and its head take less than 2 % of an 8B model's step.
"""

from model.network.configuration import DenseMLP, ModelConfig, SparseExperts, TransformerConfig


def prediction_flops(config: ModelConfig, image_tokens: int, prefix_tokens: int) -> int:
    """Count floating-point operations of one branch of a denoising step. A multiplication and an addition are two.

    Every image token goes through the gen tower's matrices and attends to the prefix and all image tokens.
    """
    transformer = config.transformer
    scores = transformer.heads * transformer.head_dim * (prefix_tokens + image_tokens)
    return projection_flops(config, image_tokens) + transformer.layers * image_tokens * 4 * scores


def projection_flops(config: ModelConfig, image_tokens: int) -> int:
    """Count those operations of `prediction_flops` that multiply with weights. Attention has the others."""
    transformer = config.transformer
    matrices = _attention_weights(transformer) + _mlp_weights(transformer, transformer.gen_mlp)
    return transformer.layers * image_tokens * 2 * matrices


def token_bytes(config: ModelConfig, context_tokens: int, itemsize: int, weight_itemsize: int) -> int:
    """Count the bytes that decoding one token reads: the und tower, `lm_head`, and keys and values.

    Args:
        itemsize: bytes of a number.
        weight_itemsize: bytes of a number in the tower's projections.
    """
    transformer = config.transformer
    weights = _attention_weights(transformer) + _mlp_weights(transformer, transformer.und_mlp)
    cached = 2 * transformer.kv_heads * transformer.head_dim * context_tokens
    head = transformer.hidden_size * transformer.vocabulary
    return transformer.layers * (weights * weight_itemsize + cached * itemsize) + head * itemsize


def _attention_weights(transformer: TransformerConfig) -> int:
    q_width, kv_width = transformer.heads * transformer.head_dim, transformer.kv_heads * transformer.head_dim
    return transformer.hidden_size * (2 * q_width + 2 * kv_width)


def _mlp_weights(transformer: TransformerConfig, mlp: DenseMLP | SparseExperts) -> int:
    """Count the MLP weights that one token goes through."""
    used = mlp.top_k if isinstance(mlp, SparseExperts) else 1
    return 3 * transformer.hidden_size * mlp.intermediate_size * used
