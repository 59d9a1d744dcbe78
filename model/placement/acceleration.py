"""What makes a loaded network fast on its device, applied from outside."""

from model.network.sensenova import SenseNovaU1
from model.sampling.runtime import Runtime


def accelerated(network: SenseNovaU1, *, enforce_eager: bool) -> Runtime:
    """The fastest runtime there is for a network; the network may be changed in place.

    On CUDA, unless `enforce_eager` forbids it, the network is compiled when it first runs. Elsewhere it runs as it is
    written.
    """
    if network.device.type != "cuda" or enforce_eager:
        return Runtime(network)
    from model.placement.cuda import CudaRuntime  # needs Triton, which comes with PyTorch for CUDA alone

    return CudaRuntime(network)
