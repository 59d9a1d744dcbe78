"""The abilities of each kind of device, in one table.

Importing this module does not import PyTorch, so that new rank processes can read the table first.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DeviceKind:
    """The abilities of one kind of device. Code asks for an ability, not for the kind's name.

    Attributes:
        is_gpu: whether it is a GPU. A GPU needs small branches in one batch to be busy.
        has_streams: whether work is queued on streams, events report its end, and copies can run beside it (CUDA).
        can_be_many: whether a machine may have several of them, over which ranks share a model.
        offloads: whether weights may stay in files until they are used.
        quantizes: whether it multiplies eight-bit inputs. Without, it stores int8 weights only to save memory.
        compiles_kernels: whether Triton compiles kernels for it, unless something is missing.
        chooses_attention: whether PyTorch has several attention kernels for it.
        largest_array: the most bytes of one array; None where only the memory limits it.
        rank_backend: the backend of `torch.distributed` between ranks, or None.
    """

    is_gpu: bool = False
    has_streams: bool = False
    can_be_many: bool = False
    offloads: bool = False
    quantizes: bool = False
    compiles_kernels: bool = False
    chooses_attention: bool = False
    largest_array: int | None = None
    rank_backend: str | None = None

    @staticmethod
    def of(device: "torch.device") -> "DeviceKind":
        """Return the kind of a device."""
        return KINDS[device.type]


KINDS = {
    "cpu": DeviceKind(offloads=True, quantizes=True, rank_backend="gloo"),
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
    "mps": DeviceKind(is_gpu=True, largest_array=2**32),
}
"""Every kind of device that the program runs on, by PyTorch's name."""
