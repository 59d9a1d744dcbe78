"""CUDA graphs: the hundreds of kernels of a pass through a tower, launched as one."""

from collections import Counter
from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

DIRECT_CALLS = 2
"""Calls of a captured pass before its capture."""


def capture(work: Callable[[], None], pool: Any = None) -> torch.cuda.CUDAGraph:
    """Capture the kernels that `work` launches on the current device. `work` must have run before, because a capture
    cannot compile or tune kernels."""
    # Not the context manager `torch.cuda.graph`: it waits for the device and empties PyTorch's cache of memory, which
    # together takes as long as a step.
    _make_room()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(_capture_stream(torch.cuda.current_device())):
        # `thread_local`, because other threads may use the device meanwhile.
        graph.capture_begin(pool=pool or torch.cuda.graph_pool_handle(), capture_error_mode="thread_local")
        try:
            work()
        finally:
            graph.capture_end()
    return graph


def _make_room() -> None:
    """Return unused memory of PyTorch's cache to the device if a graph's own memory may not fit beside it.

    A capture cannot do that. Its work has run before, so it needs at most the memory that is unused now.
    """
    reserved = torch.cuda.memory_reserved()
    unused = reserved - torch.cuda.memory_allocated()
    free, total = torch.cuda.mem_get_info()
    allowed = int(torch.cuda.get_per_process_memory_fraction() * total)
    if min(free, allowed - reserved) < unused:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


@cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """Return the capture stream of a device. PyTorch's own stream would serve all devices, and PyTorch keeps cuBLAS
    memory for every stream."""
    return torch.cuda.Stream(device)


class CapturedPass:
    """A pass that runs many times, with other numbers in tensors of the same shapes.

    The first two calls with a key run the pass directly. The third one captures its graph, which takes as long as a
    pass, while the device still runs the second. It replays the graph, and so do all later calls. The key identifies
    the shapes. All other tensors that the pass reads must keep their addresses.
    """

    def __init__(self, work: Callable[..., Tensor], load_weights: Callable[[], None]) -> None:
        """
        Args:
            work: the pass; takes a key and tensors, and returns a tensor.
            load_weights: called before each capture and replay; returns when the weights are on the device.
        """
        self._work = work
        self._load_weights = load_weights
        self._calls: Counter[Hashable] = Counter()
        self._inputs: dict[Hashable, tuple[Tensor, ...]] = {}  # by shapes; keys with equal shapes share the tensors
        self._results: dict[Hashable, Tensor] = {}
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, key: Hashable, *inputs: Tensor) -> Tensor:
        with torch.cuda.device(inputs[0].device):
            return self._on_device(key, *inputs)

    def _on_device(self, key: Hashable, *inputs: Tensor) -> Tensor:
        self._calls[key] += 1
        if self._calls[key] <= DIRECT_CALLS:
            return self._work(key, *inputs)
        self._load_weights()
        shapes = tuple(given.shape for given in inputs)
        if shapes not in self._inputs:
            self._inputs[shapes] = tuple(map(torch.empty_like, inputs))
        if key not in self._graphs:
            self._graphs[key] = capture(partial(self._run, key, self._inputs[shapes]), self._pool)
        for static, given in zip(self._inputs[shapes], inputs, strict=True):
            static.copy_(given)
        self._graphs[key].replay()
        return self._results[key].clone()  # the next replay writes to the same memory

    def _run(self, key: Hashable, inputs: tuple[Tensor, ...]) -> None:
        self._results[key] = self._work(key, *inputs)
