"""CUDA graphs: the hundreds of kernels of a pass through a tower, launched as one."""

from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor


def capture(work: Callable[[], None], pool: Any = None) -> torch.cuda.CUDAGraph:
    """Capture the kernels that `work` launches on the current device. `work` must have run before, because a capture
    cannot compile or tune kernels."""
    graph = torch.cuda.CUDAGraph()
    here, aside = torch.cuda.current_stream(), _capture_stream(torch.cuda.current_device())
    # The outer context returns to the current stream even if the inner one fails at its end. `thread_local`, because
    # other threads may use the device meanwhile.
    with (
        torch.cuda.stream(here),
        torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"),
    ):
        work()
    return graph


@cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """Return the capture stream of a device. PyTorch's own stream would serve all devices, and PyTorch keeps cuBLAS
    memory for every stream."""
    return torch.cuda.Stream(device)


class CapturedPass:
    """A pass that runs many times, with other numbers in tensors of the same shapes.

    The first call with a key runs the pass directly; later calls replay its graph. The key identifies the shapes. All
    other tensors that the pass reads must keep their addresses.
    """

    def __init__(self, work: Callable[..., Tensor], load_weights: Callable[[], None]) -> None:
        """
        Args:
            work: the pass; takes a key and tensors, and returns a tensor.
            load_weights: called before each capture and replay; returns when the weights are on the device.
        """
        self._work = work
        self._load_weights = load_weights
        self._warm: set[Hashable] = set()
        self._inputs: dict[Hashable, tuple[Tensor, ...]] = {}  # by shapes; keys with equal shapes share the tensors
        self._results: dict[Hashable, Tensor] = {}
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, key: Hashable, *inputs: Tensor) -> Tensor:
        with torch.cuda.device(inputs[0].device):
            return self._on_device(key, *inputs)

    def _on_device(self, key: Hashable, *inputs: Tensor) -> Tensor:
        if key not in self._warm:
            self._warm.add(key)
            return self._work(key, *inputs)
        self._load_weights()
        shapes = tuple(given.shape for given in inputs)
        if shapes not in self._inputs:
            self._inputs[shapes] = tuple(map(torch.empty_like, inputs))
        for static, given in zip(self._inputs[shapes], inputs, strict=True):
            static.copy_(given)
        if key not in self._graphs:
            self._graphs[key] = capture(partial(self._run, key, self._inputs[shapes]), self._pool)
        self._graphs[key].replay()
        return self._results[key].clone()  # the next replay writes to the same memory

    def _run(self, key: Hashable, inputs: tuple[Tensor, ...]) -> None:
        self._results[key] = self._work(key, *inputs)
