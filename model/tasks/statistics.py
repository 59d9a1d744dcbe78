"""What `Statistics` reports, counted while a request is carried out."""

import statistics
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

from model.devices import peak_memory, reset_peak_memory
from model.events import Branch, BranchCaching, CacheSummary, Statistics
from model.network.attention import kernel_name
from model.network.configuration import ModelConfig
from model.network.counts import prediction_flops, token_bytes
from model.sampling.backend import Backend
from model.sampling.denoise import Step

Item = TypeVar("Item")
STARTING_STEPS = 2


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


class LayerClock:
    """How long the steps of one picture took by the layers they computed; `layers` are those of the gen tower."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._passes = 0
        self._computed: list[int] = []
        self._seconds: list[float] = []

    def count(self, computed: Mapping[Branch, int], seconds: float) -> None:
        """A step that computed so many layers of each branch in so many seconds."""
        self._passes += len(computed)
        self._computed.append(sum(computed.values()))
        self._seconds.append(seconds)

    def summary(self, branches: tuple[BranchCaching, ...]) -> CacheSummary:
        """With what each branch computed."""
        done, every = sum(self._computed), self._passes * self._layers
        saved = (every - done) * self._seconds_a_layer()
        return CacheSummary(branches, done, every, sum(self._seconds), saved)

    def _seconds_a_layer(self) -> float:
        """The slope of seconds over layers; 0 where all steps are alike. What embeds and what ends a step does not
        count. Nor do the first steps, in which kernels are compiled and graphs captured."""
        computed, seconds = self._computed[STARTING_STEPS:], self._seconds[STARTING_STEPS:]
        if len(set(computed)) < 2:
            return 0.0
        return max(0.0, statistics.linear_regression(computed, seconds).slope)


class StatisticsRecorder:
    """Counts of one request, which begins when this is made.

    Attributes:
        prefix_tokens: read so far.
        text, denoising: what goes through the two loops.
    """

    def __init__(self, backend: Backend, config: ModelConfig) -> None:
        """config: of the whole network, of which the runtime may have a part."""
        self._network = network = backend.network
        self._config = config
        self._start = time.perf_counter()
        self.prefix_tokens = self._new_tokens = self._steps = 0
        self._text_bytes = self._denoise_flops = 0
        self.text, self.denoising = Stopwatch(ahead=backend.decodes_async), Stopwatch(ahead=backend.denoises_async)
        reset_peak_memory(network.device)

    def count_step(self, layers: Mapping[Branch, int], prefixes: Mapping[Branch, int], image_tokens: int) -> None:
        """A step that computed so many layers of each branch, behind prefixes of these lengths."""
        self._steps += 1
        for branch, computed in layers.items():
            flops = prediction_flops(self._config, image_tokens, prefixes[branch])
            self._denoise_flops += flops * computed // self._config.transformer.layers

    def count_tokens(self, count: int, context: int) -> None:
        """New tokens, the last of them behind `context` others."""
        self._new_tokens += count
        itemsizes = self._network.dtype.itemsize, self._network.und.weight_itemsize
        self._text_bytes += count * token_bytes(self._config, context - count // 2, *itemsizes)

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
