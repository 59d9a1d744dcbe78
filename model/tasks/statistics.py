"""The counts and times of a request that its `Statistics` event reports."""

import statistics
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

from model.devices import peak_memory, reset_peak_memory
from model.events import Branch, BranchCaching, CacheSummary, Statistics
from model.loaded_model import LoadedModel
from model.network.counts import prediction_flops, token_bytes
from model.sampling.denoise import Step

Item = TypeVar("Item")
WARM_UP_STEPS = 2
"""Steps in which kernels are compiled and CUDA graphs captured."""


class StreamTimer:
    """A timer of a stream, which measures the seconds that the stream takes to produce its items.

    It excludes the time that the consumer spends between two items, unless the device computes the next item meanwhile.
    """

    def __init__(self, *, is_async: bool) -> None:
        """
        Args:
            is_async: whether the stream starts the next item before it yields one.
        """
        self._is_async = is_async
        self.seconds = 0.0

    def measure(self, stream: Iterator[Item]) -> Iterator[Item]:
        """Yield the items of a stream and add the time that they take to `seconds`."""
        clock = time.perf_counter()
        while True:
            if not self._is_async:
                clock = time.perf_counter()
            item = next(stream, None)
            if isinstance(item, Step):
                item.wait()  # a step that is yielded to the user is finished
            now = time.perf_counter()
            self.seconds += now - clock
            clock = now
            if item is None:
                return
            yield item


class LayerTimer:
    """The times of one picture's steps by the layers that they computed. They show how much time a step cache saves."""

    def __init__(self, layers: int) -> None:
        """
        Args:
            layers: number of layers of the gen tower.
        """
        self._layers = layers
        self._passes = 0
        self._computed: list[int] = []
        self._seconds: list[float] = []

    def add_step(self, computed: Mapping[Branch, int], seconds: float) -> None:
        """Add a step.

        Args:
            computed: layers that the step computed, by branch.
        """
        self._passes += len(computed)
        self._computed.append(sum(computed.values()))
        self._seconds.append(seconds)

    def summary(self, branches: tuple[BranchCaching, ...]) -> CacheSummary:
        """Return the picture's summary with the summaries of its branches."""
        done, every = sum(self._computed), self._passes * self._layers
        saved = (every - done) * self._seconds_per_layer()
        return CacheSummary(branches, done, every, sum(self._seconds), saved)

    def _seconds_per_layer(self) -> float:
        """Fit a line to seconds over layers and return its slope; 0 if all steps computed the same number of layers.

        The slope excludes the time of a step that does not depend on its layers. The warm-up steps are left out.
        """
        computed, seconds = self._computed[WARM_UP_STEPS:], self._seconds[WARM_UP_STEPS:]
        if len(set(computed)) < 2:
            return 0.0
        return max(0.0, statistics.linear_regression(computed, seconds).slope)


class StatisticsRecorder:
    """The recorder of one request's statistics. Its clock starts when it is made.

    Attributes:
        prefix_tokens: tokens prefilled so far, without the reused ones.
        text, denoising: timers of the two loops.
    """

    def __init__(self, model: LoadedModel) -> None:
        # Not its network, which would keep a request from reloading the model.
        self._model = model
        self._config = model.config  # that of the whole network, of which this process may run one rank's shard
        self._start = time.perf_counter()
        self.prefix_tokens = self._new_tokens = self._steps = 0
        self._text_bytes = self._denoise_flops = self._text_passes = self._denoise_passes = 0
        self.text = StreamTimer(is_async=model.backend.decodes_async)
        self.denoising = StreamTimer(is_async=model.backend.denoises_async)
        reset_peak_memory(model.device)

    def count_step(self, layers: Mapping[Branch, int], prefixes: Mapping[Branch, int], image_tokens: int) -> None:
        """Count a denoising step.

        Args:
            layers: layers that the step computed, by branch.
            prefixes: the lengths of the branches' prefixes.
            image_tokens: tokens of the picture in this step.
        """
        self._steps += 1
        self._denoise_passes += len(layers)
        for branch, computed in layers.items():
            flops = prediction_flops(self._config, image_tokens, prefixes[branch])
            self._denoise_flops += flops * computed // self._config.transformer.layers

    def count_tokens(self, count: int, context: int, passes: int) -> None:
        """Count new tokens, the last of which follows `context` other tokens.

        Args:
            passes: forward passes with prompt lookup; 0 without it.
        """
        self._new_tokens += count
        self._text_passes += passes
        network = self._model.network
        itemsizes = network.dtype.itemsize, network.und.weight_itemsize
        self._text_bytes += count * token_bytes(self._config, context - count // 2, *itemsizes)

    def statistics(self) -> Statistics:
        """Return the request's statistics up to now."""
        model = self._model
        return Statistics(
            self.prefix_tokens,
            self._new_tokens,
            self._steps,
            self.text.seconds,
            self.denoising.seconds,
            time.perf_counter() - self._start,
            peak_memory(model.device),
            str(model.device),
            self._text_bytes,
            self._denoise_flops,
            model.backend.attention_kernel if self._steps else "",
            self._text_passes,
            self._denoise_passes,
        )
