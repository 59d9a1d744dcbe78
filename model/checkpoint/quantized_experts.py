"""One projection of all experts in an eight-bit format, with one scale per row of each expert."""

import torch
from torch import Tensor, nn

from model.checkpoint.fp8 import Fp8Linear
from model.checkpoint.int8 import Int8Linear


class QuantizedExperts(nn.Module):
    """A weight (experts, out, in) and scales (experts, out), float32. `StackedLinear` describes its attributes.

    Each expert is a projection of its own format, which multiplies in the units that the device has.
    """

    weight: Tensor
    scale: Tensor

    def __init__(
        self,
        layer: type[Fp8Linear | Int8Linear],
        experts: int,
        out_features: int,
        in_features: int,
        device: torch.device,
        memory: torch.device | None = None,
    ) -> None:
        """
        Args:
            layer: the class of one expert's projection.
            device: where the weights will be multiplied.
            memory: where they are stored now, if not on the device.
        """
        super().__init__()
        self._layer, self._device = layer, device
        self.experts, self.in_features, self.out_features = experts, in_features, out_features
        memory, shape = memory or device, (experts, out_features, in_features)
        self.register_buffer("weight", torch.empty(shape, dtype=layer.weight_dtype, device=memory))
        self.register_buffer("scale", torch.empty(shape[:2], dtype=torch.float32, device=memory))
        one = self._without_memory()
        self.input_format, self.is_emulated = one.input_format, one.is_emulated

    def expert(self, number: int) -> Fp8Linear | Int8Linear:
        """Return the projection of one expert, in the same memory."""
        one = self._without_memory()
        one.weight, one.scale = self.weight[number], self.scale[number]
        return one

    def fill(self, weight: Tensor) -> None:
        """Quantize a weight (experts, out, in) of any dtype and store it, one expert after another."""
        for number in range(self.experts):
            self.expert(number).fill(weight[number])

    def multiply_expert(self, expert: int, rows: Tensor) -> Tensor:
        """See `StackedLinear.multiply_expert`."""
        product: Tensor = self.expert(expert)(rows)
        return product

    def _without_memory(self) -> Fp8Linear | Int8Linear:
        return self._layer(self.out_features, self.in_features, self._device, torch.device("meta"))
