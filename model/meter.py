"""What `Statistics` reports, counted while a request is carried out."""

import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

from model.events import Branch, Statistics
from model.network.attention import kernel_name
from model.network.counts import prediction_flops, token_bytes
from model.placement.devices import peak_memory, reset_peak_memory
from model.sampling.denoise import Step
from model.sampling.prefix import Prefix
from model.sampling.runtime import Runtime

Item = TypeVar("Item")


class Stopwatch:
    """Seconds spent inside a stream. What the listener does between two items does not count, except where the device
    is at work meanwhile, asked ahead."""

    def __init__(self, *, ahead: bool) -> None:
        self._ahead = ahead
        self.seconds = 0.0

    def around(self, stream: Iterator[Item]) -> Iterator[Item]:
        clock = time.perf_counter()
        while True:
            if not self._ahead:
                clock = time.perf_counter()
            item = next(stream, None)
            if isinstance(item, Step):
                item.wait()  # a step that is told is a step done
            now = time.perf_counter()
            self.seconds += now - clock
            clock = now
            if item is None:
                return
            yield item


class Meter:
    """Counts of one request, which begins when this is made.

    Attributes:
        prefix_tokens: read so far.
        text, denoising: what goes through the two loops.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._network = network = runtime.network
        self._start = time.perf_counter()
        self.prefix_tokens = self._new_tokens = self._steps = 0
        self._text_bytes = self._denoise_flops = 0
        self.text, self.denoising = Stopwatch(ahead=runtime.writes_ahead), Stopwatch(ahead=runtime.draws_ahead)
        reset_peak_memory(network.device)

    def count_step(self, layers: Mapping[Branch, int], prefixes: Mapping[Branch, Prefix], image_tokens: int) -> None:
        """A step that computed so many layers of each branch."""
        self._steps += 1
        for branch, computed in layers.items():
            length = prefixes[branch].cache.length
            flops = prediction_flops(self._network.config, image_tokens, length)
            self._denoise_flops += flops * computed // self._network.config.transformer.layers

    def count_tokens(self, count: int, context: int) -> None:
        """New tokens, the last of them behind `context` others."""
        self._new_tokens += count
        itemsizes = self._network.dtype.itemsize, self._network.und.weight_itemsize
        self._text_bytes += count * token_bytes(self._network.config, context - count // 2, *itemsizes)

    def statistics(self) -> Statistics:
        network = self._network
        return Statistics(
            self.prefix_tokens,
            self._new_tokens,
            self._steps,
            self.text.seconds,
            self.denoising.seconds,
            time.perf_counter() - self._start,
            peak_memory(network.device),
            str(network.device),
            self._text_bytes,
            self._denoise_flops,
            kernel_name(network.config.transformer, network.device, network.dtype) if self._steps else "",
        )
