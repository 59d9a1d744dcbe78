"""What the engine tells while it works: a stream of immutable values, in the order things happen.

Events are plain data. They hold no tensors and no functions, and `model.wire` writes each of them as JSON.
"""

import statistics
from dataclasses import dataclass
from typing import Literal

from config.settings import ImageSettings
from model.png import PNGImage

Branch = Literal["condition", "images", "unconditional"]
"""A guidance branch, by what it sees: text and pictures, pictures only, or neither."""


@dataclass(frozen=True)
class LoadProgress:
    """Bytes of the checkpoint read so far; passed to `Engine.load`'s callback, not part of a request's stream."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Notice:
    """Something the user should know that is no error, such as a size the model was not trained on."""

    text: str


@dataclass(frozen=True)
class PrefixRead:
    """The words and pictures before the answer have been read.

    Attributes:
        tokens: length of the prefix, image tokens included.
        reused: those of its tokens, from the first on, that an earlier request had read already.
    """

    branch: Branch
    tokens: int
    image_tokens: int
    seconds: float
    reused: int = 0


@dataclass(frozen=True)
class ThinkToken:
    """One more token of think text; `text` may be empty while a character is incomplete."""

    token_id: int
    text: str


@dataclass(frozen=True)
class ThinkText:
    """The whole think text, after its last token.

    Attributes:
        finish: `end` when the model closed it, `length` when the budget ran out.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["end", "length"]
    seconds: float


@dataclass(frozen=True)
class DenoisingStep:
    """Step `step` of `steps` (from 1) of picture `index` of `count` (from 0) is done.

    Attributes:
        time: t after this step, 0 noise … 1 picture.
        preview: the clean picture as predicted at this step, RGB, 8 bits a channel; None unless the request asks
            for a preview of this step (`preview_every`, `preview_size`).
    """

    index: int
    count: int
    step: int
    steps: int
    time: float
    preview: PNGImage | None = None


@dataclass(frozen=True)
class BranchCaching:
    """What one guidance branch of a cached picture computed.

    Attributes:
        computed_steps, reused_steps: steps in which all layers were computed, and in which the middle ones were not.
        differences: of what the first layers added from the last full step, where it was asked for: the mean absolute
            difference by the mean absolute value.
    """

    branch: Branch
    computed_steps: int
    reused_steps: int
    differences: tuple[float, ...]

    @property
    def quartiles(self) -> tuple[float, ...]:
        """Of `differences`: the least, the three quartiles, and the most; nothing where there are none."""
        if len(self.differences) < 2:
            return self.differences * 5
        middle = statistics.quantiles(self.differences, method="inclusive")
        return (min(self.differences), *middle, max(self.differences))


@dataclass(frozen=True)
class CacheSummary:
    """What a cached picture computed.

    Attributes:
        layers_computed, layers: forward passes of one layer for one branch, those that ran and those of a picture
            without a cache.
        seconds: that its steps took.
        seconds_saved: about what the skipped layers would have taken, told from the steps that computed more and fewer.
    """

    branches: tuple[BranchCaching, ...]
    layers_computed: int
    layers: int
    seconds: float
    seconds_saved: float


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        index, count: this is picture `index` (from 0) of `count`.
        image: RGB, 8 bits a channel.
        settings: what made it, resolved: explicit size, this picture's own seed, one image.
        think_text: the think text it was drawn from, or None.
        caching: what was reused between its steps, or None where nothing could be.
    """

    index: int
    count: int
    image: PNGImage
    settings: ImageSettings
    think_text: str | None
    caching: CacheSummary | None = None


@dataclass(frozen=True)
class TextToken:
    """One more token of an answer; `text` may be empty while a character is incomplete."""

    token_id: int
    text: str


@dataclass(frozen=True)
class Answer:
    """The whole answer.

    Attributes:
        token_ids: the new tokens, without the one that ended the turn.
        finish: `end` when the model ended its turn, `length` when `max_tokens` was reached.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["end", "length"]


@dataclass(frozen=True)
class Statistics:
    """The last event of every request.

    Attributes:
        prefix_tokens: tokens read before generating, all branches together; without those that were reused.
        new_tokens: think or answer tokens written.
        steps: denoising steps done, all pictures together.
        text_seconds, denoise_seconds, seconds: spent writing tokens, denoising, and in all.
        peak_memory: bytes; on CUDA the most allocated on the device, elsewhere the process's peak resident set.
        text_bytes: what had to be read to write the tokens, by `model.network.counts`.
        denoise_flops: floating-point operations of the steps, likewise.
        attention: the kernel that a step's attention takes.
    """

    prefix_tokens: int
    new_tokens: int
    steps: int
    text_seconds: float
    denoise_seconds: float
    seconds: float
    peak_memory: int
    device: str
    text_bytes: int = 0
    denoise_flops: int = 0
    attention: str = ""


Event = Notice | PrefixRead | ThinkToken | ThinkText | DenoisingStep | Picture | TextToken | Answer | Statistics
