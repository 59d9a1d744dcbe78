"""CUDA graphs: a pass through a tower, hundreds of kernels, launched as one."""

from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor


def capture(work: Callable[[], None], pool: Any = None) -> torch.cuda.CUDAGraph:
    """The kernels that `work` launches on the current device. It must have run before: what is compiled or chosen at
    first cannot be then."""
    graph = torch.cuda.CUDAGraph()
    here, aside = torch.cuda.current_stream(), _capture_stream(torch.cuda.current_device())
    # The outer context takes us back to the current stream also where the inner one fails at its end. Other threads
    # may use the device meanwhile.
    with (
        torch.cuda.stream(here),
        torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"),
    ):
        work()
    return graph


@cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """One for each device: PyTorch's own is one for all, and for every stream it keeps memory for cuBLAS."""
    return torch.cuda.Stream(device)


class CapturedPass:
    """A pass that is run over and over with other numbers in tensors of the same shapes.

    Under each key, which tells the shapes, it first runs as it is, from the second time on as a graph. What else it
    reads must stay where it is in memory for as long; `settle`, called before a graph is captured or runs, sees to it
    that it is there.
    """

    def __init__(self, work: Callable[..., Tensor], settle: Callable[[], None]) -> None:
        self._work = work
        self._settle = settle
        self._warm: set[Hashable] = set()
        self._inputs: dict[Hashable, tuple[Tensor, ...]] = {}  # by their shapes: one for all keys that share them
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
        self._settle()
        shapes = tuple(given.shape for given in inputs)
        if shapes not in self._inputs:
            self._inputs[shapes] = tuple(map(torch.empty_like, inputs))
        for static, given in zip(self._inputs[shapes], inputs, strict=True):
            static.copy_(given)
        if key not in self._graphs:
            self._graphs[key] = capture(partial(self._run, key, self._inputs[shapes]), self._pool)
        self._graphs[key].replay()
        return self._results[key].clone()  # the next run writes to the same memory

    def _run(self, key: Hashable, inputs: tuple[Tensor, ...]) -> None:
        self._results[key] = self._work(key, *inputs)
