"""What each kind of device can do: one table. It needs no PyTorch, so that new rank processes can read it first."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DeviceKind:
    """The abilities of one kind of device. Code asks for an ability, not for the kind's name.

    Attributes:
        is_gpu: it is a graphics processor, and batches of small products keep it busy.
        has_streams: work is queued on streams and its end is seen by events; copies can run beside it (CUDA).
        can_be_many: a machine may have several, and ranks share a model over them.
        offloads: weights may be in files or in the host's memory while others are used.
        quantizes: it stores eight-bit numbers.
        compiles_kernels: Triton compiles for it, unless something is missing.
        chooses_attention: PyTorch has several attention kernels for it.
        rank_backend: backend of `torch.distributed` between ranks, or None.
    """

    is_gpu: bool
    has_streams: bool
    can_be_many: bool
    offloads: bool
    quantizes: bool
    compiles_kernels: bool
    chooses_attention: bool
    rank_backend: str | None

    @staticmethod
    def of(device: "torch.device") -> "DeviceKind":
        """Return the kind of a device."""
        return KINDS[device.type]


KINDS = {
    "cpu": DeviceKind(
        is_gpu=False,
        has_streams=False,
        can_be_many=False,
        offloads=True,
        quantizes=True,
        compiles_kernels=False,
        chooses_attention=False,
        rank_backend="gloo",
    ),
    "cuda": DeviceKind(
        is_gpu=True,
        has_streams=True,
        can_be_many=True,
        offloads=True,
        quantizes=True,
        compiles_kernels=True,
        chooses_attention=True,
        rank_backend="nccl",
    ),
    "mps": DeviceKind(
        is_gpu=True,
        has_streams=False,
        can_be_many=False,
        offloads=False,
        quantizes=False,
        compiles_kernels=False,
        chooses_attention=False,
        rank_backend=None,
    ),
}
"""Every kind of device that the program runs on, by PyTorch's name."""
