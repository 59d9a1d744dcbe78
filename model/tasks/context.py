"""The values that every task works with."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from config.recommended import Recommended
from model.events import Event, Notice
from model.inputs.tokenizer import Tokenizer
from model.loaded_model import LoadedModel
from model.memory.estimate import USUAL_PREFIXES, Workload
from model.sampling.prefix_cache import PrefixCache
from model.trace import Trace

UNKNOWN_WORKLOAD = Workload(0, USUAL_PREFIXES)


@dataclass
class TaskContext:
    """The loaded model and the rest that a task needs to run one request.

    Attributes:
        recommended: the checkpoint's recommended settings, with those of the merged LoRAs.
        prefix_cache: the prefixes of the last request.
        preview_stream: the CUDA stream that makes previews; None on other devices.
        trace: collects tensors of the request; None collects nothing.
        workload: the request's workload, once `reserve_memory` was called.
    """

    model: LoadedModel
    tokenizer: Tokenizer
    recommended: Recommended
    prefix_cache: PrefixCache
    preview_stream: torch.cuda.Stream | None = None
    trace: Trace | None = None
    workload: Workload = UNKNOWN_WORKLOAD

    def reserve_memory(self, workload: Workload) -> Iterator[Event]:
        """Reload the weights with more offloading if the request needs more memory than is free; yield a notice."""
        self.workload = workload
        if self.model.fits(workload):
            return
        self.prefix_cache.clear()
        self.model.release()
        self.model.load(workload, self.model.adapters)
        yield Notice(f"reloaded with more offloading to make room: {self.model.describe()}")

    def advice(self) -> str:
        """Return a hint for a request that ran out of memory."""
        return self.model.advice(self.workload)
