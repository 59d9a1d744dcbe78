"""Experts on CUDA: rows are sorted on the device, and each projection is one grouped product of all experts.

Nothing waits for the device, and shapes do not depend on the routing. So a pass can be captured as a CUDA graph.
"""

import functools

import torch
from torch import Tensor

from model.backends.kernels import rows as row_kernels
from model.backends.kernels.grouped_product import grouped_product, weighted_sum
from model.network.experts import Experts, StackedLinear
from model.network.projection import QuantizedRows, Rows

GROUPED_CAPABILITIES = {torch.bfloat16: (9, 10), torch.float8_e4m3fn: (9,)}
"""Major compute capabilities for which PyTorch has a grouped product, by the dtype of the weight. Elsewhere PyTorch
multiplies group by group, and the host waits for the device to learn their sizes."""
ALIGNMENT = 16
"""Bytes of which a row of PyTorch's grouped product must be a multiple."""


def run_experts(experts: Experts, x: Tensor) -> Tensor:
    """Return `Experts.grouped` of rows (N, hidden_size)."""
    routing = experts.sorted_routing(x)
    # No tensor has a name longer than it is needed: each is `top_k` times as large as x, or larger.
    inner = row_kernels.gated(
        multiply(experts.gate_up_proj, _sorted_rows(experts.gate_up_proj, x, routing.tokens), routing.ends),
        experts.down_proj.input_format,
    )
    return weighted_sum(multiply(experts.down_proj, inner, routing.ends), routing.places, routing.weights)


def multiply(projection: StackedLinear, rows: Rows, ends: Tensor) -> Tensor:
    """Multiply sorted rows (N, in), in the projection's `input_format`, with their experts' weights → (N, out).

    Args:
        ends: the end of each expert's rows, (experts,), int32.
    """
    weight, scale = projection.weight, projection.scale
    if not _has_grouped_product(weight, rows.dtype):
        return grouped_product(rows, weight, scale, ends)
    if isinstance(rows, QuantizedRows):
        assert scale is not None
        return torch._scaled_grouped_mm(
            rows.values,
            weight.transpose(1, 2),
            rows.scales[:, 0],
            scale,
            offs=ends,
            out_dtype=rows.dtype,
            use_fast_accum=True,
        )
    return torch._grouped_mm(rows, weight.transpose(1, 2), offs=ends)


def _sorted_rows(projection: StackedLinear, x: Tensor, tokens: Tensor) -> Rows:
    """Return the rows of `tokens`, in the projection's `input_format`. Each token is quantized once."""
    if projection.input_format is None:
        return x[tokens]
    rows = row_kernels.quantized(x, projection.input_format)
    values = rows.values.view(torch.uint8)[tokens].view(rows.values.dtype)
    return QuantizedRows(values, rows.scales[tokens], rows.dtype)


def _has_grouped_product(weight: Tensor, dtype: torch.dtype) -> bool:
    """Return whether PyTorch multiplies in groups on the weight's device.

    Args:
        dtype: of the result.
    """
    if not weight.is_cuda or dtype != torch.bfloat16:
        return False
    is_aligned = all(size * weight.element_size() % ALIGNMENT == 0 for size in weight.shape[1:])
    return is_aligned and _major_capability(weight.device) in GROUPED_CAPABILITIES.get(weight.dtype, ())


@functools.cache
def _major_capability(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]
