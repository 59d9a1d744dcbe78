"""How much work there is: arithmetic of a denoising step, memory traffic of a written token.

Only what grows with the model is counted, matrix products and attention; norms, rotations and the picture's own
embedding and head are below 2 % of an 8B model's step.
"""

from model.network.configuration import DenseMLP, ModelConfig, SparseExperts, TransformerConfig


def prediction_flops(config: ModelConfig, image_tokens: int, prefix_tokens: int) -> int:
    """Floating-point operations of one branch of a denoising step, a multiplication and an addition being two.

    Every image token goes through the gen tower's matrices and looks at the prefix and at all image tokens.
    """
    transformer = config.transformer
    matrices = _attention_weights(transformer) + _mlp_weights(transformer, transformer.gen_mlp)
    scores = transformer.heads * transformer.head_dim * (prefix_tokens + image_tokens)
    return transformer.layers * image_tokens * (2 * matrices + 4 * scores)


def token_bytes(config: ModelConfig, context_tokens: int, itemsize: int, weight_itemsize: int) -> int:
    """Bytes that have to be read to write one token: the und tower, the output matrix, and keys and values.

    Args:
        itemsize: bytes of a number; weight_itemsize: of one in the tower's projections, but for those of experts.
    """
    transformer = config.transformer
    mlp_itemsize = itemsize if isinstance(transformer.und_mlp, SparseExperts) else weight_itemsize
    weights = _attention_weights(transformer) * weight_itemsize
    weights += _mlp_weights(transformer, transformer.und_mlp) * mlp_itemsize
    kept = 2 * transformer.kv_heads * transformer.head_dim * context_tokens
    head = transformer.hidden_size * transformer.vocabulary
    return transformer.layers * (weights + kept * itemsize) + head * itemsize


def _attention_weights(transformer: TransformerConfig) -> int:
    q_width, kv_width = transformer.heads * transformer.head_dim, transformer.kv_heads * transformer.head_dim
    return transformer.hidden_size * (2 * q_width + 2 * kv_width)


def _mlp_weights(transformer: TransformerConfig, mlp: DenseMLP | SparseExperts) -> int:
    """Those that one token goes through."""
    used = mlp.top_k if isinstance(mlp, SparseExperts) else 1
    return 3 * transformer.hidden_size * mlp.intermediate_size * used
