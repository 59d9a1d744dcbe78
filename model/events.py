"""Events of an engine: a stream of immutable values in the order in which things happen.

Events are plain data without tensors and functions, and `model.wire` writes each of them as JSON.
"""

import statistics
from dataclasses import dataclass
from typing import Literal

from config.settings import ImageSettings
from model.png import PNGImage

Branch = Literal["condition", "images", "unconditional"]
"""A guidance branch: with text and images, with images only, or without both."""


@dataclass(frozen=True)
class LoadProgress:
    """Bytes of the checkpoint that have been read. `Engine.load` passes it to a callback; no request yields it."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Notice:
    """A note for the user that is not an error, such as one about a size that the model was not trained on."""

    text: str


@dataclass(frozen=True)
class Waiting:
    """Nothing has happened for a moment: a server works, or a CPU prefills a long text. The event lets the consumer
    react to Ctrl-C meanwhile.

    Attributes:
        position: number of the requests that the server runs before this one; 0 while this one runs.
    """

    position: int


@dataclass(frozen=True)
class PrefixRead:
    """The prefill of a branch is done.

    Attributes:
        tokens: length of the prefix, with image tokens.
        image_tokens: number of its image tokens.
        seconds: time of the prefill.
        reused: number of tokens at the start of the prefix whose keys and values came from the prefix cache.
    """

    branch: Branch
    tokens: int
    image_tokens: int
    seconds: float
    reused: int = 0


@dataclass(frozen=True)
class ThinkToken:
    """A token of think text; `text` is empty while a character is incomplete, and for `<think>` and `</think>`."""

    token_id: int
    text: str


@dataclass(frozen=True)
class ThinkText:
    """The whole think text, after its last token.

    In an interleaved answer, pictures may stand inside it. Their `Picture` events come between its tokens.

    Attributes:
        token_ids: its tokens. In an interleaved answer they include `<think>` and `</think>`, and `text` does not.
        finish: `end` if the model ended it, `length` if `max_think_tokens` was reached, or `max_tokens` in an
            interleaved answer.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["end", "length"]
    seconds: float


@dataclass(frozen=True)
class DenoisingStep:
    """A denoising step is done: step `step` (from 1) of `steps`, of picture `index` (from 0) of `count`.

    Attributes:
        count: as for `Picture`.
        time: t after this step, from 0 (noise) to 1 (picture).
        preview: the clean picture that this step predicts, RGB, 8 bits per channel; None unless the request asks for a
            preview of this step (`preview_every`, `preview_size`).
    """

    index: int
    count: int
    step: int
    steps: int
    time: float
    preview: PNGImage | None = None


@dataclass(frozen=True)
class BranchCaching:
    """The step cache's work in one guidance branch of a picture.

    Attributes:
        computed_steps, reused_steps: numbers of steps that computed all layers, and that skipped the middle ones.
        differences: for each comparison, how much the first layers' residual differs from that of the last full step:
            mean absolute difference / mean absolute value.
    """

    branch: Branch
    computed_steps: int
    reused_steps: int
    differences: tuple[float, ...]

    @property
    def quartiles(self) -> tuple[float, ...]:
        """Minimum, quartiles and maximum of `differences`; empty if there are none."""
        if len(self.differences) < 2:
            return self.differences * 5
        middle = statistics.quantiles(self.differences, method="inclusive")
        return (min(self.differences), *middle, max(self.differences))


@dataclass(frozen=True)
class CacheSummary:
    """The step cache's work in a whole picture.

    Attributes:
        layers_computed, layers: forward passes of one layer for one branch, with and without the cache.
        seconds: time of the denoising steps.
        seconds_saved: estimated time of the skipped layers, from steps that computed more and fewer layers.
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
        index, count: number of the picture (from 0), and number of pictures of the request. For an interleaved answer,
            whose number of pictures the model decides, `count` is the maximum, `max_images`.
        image: RGB, 8 bits per channel.
        settings: the resolved settings: explicit size, this picture's seed, `num_images` 1.
        think_text: the think text before the picture, or None.
        caching: the step cache's work, or None without a step cache.
        made_by: the other program that computed it, such as `vLLM-Omni`; empty for this one.
    """

    index: int
    count: int
    image: PNGImage
    settings: ImageSettings
    think_text: str | None
    caching: CacheSummary | None = None
    made_by: str = ""


@dataclass(frozen=True)
class TextToken:
    """A token of an answer, outside of thinking; `text` is empty while a character is incomplete."""

    token_id: int
    text: str


@dataclass(frozen=True)
class Answer:
    """The whole answer.

    Attributes:
        token_ids: the generated tokens, without the one that ends the turn.
        finish: `end` if the model ended its turn, `length` if `max_tokens` was reached.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["end", "length"]


@dataclass(frozen=True)
class TextPart:
    """A stretch of an interleaved answer's text, between two pictures or from or to the thinking.

    Attributes:
        text: the decoded tokens, `<think>` and `</think>` included.
        thinking: whether the stretch is part of the thinking, to which its tags belong.
    """

    text: str
    token_ids: tuple[int, ...]
    thinking: bool


@dataclass(frozen=True)
class PicturePart:
    """A picture's place in an interleaved answer.

    Attributes:
        index: that of the picture's `Picture` event.
        size: such as `2048x1152`.
    """

    index: int
    seed: int
    size: str


@dataclass(frozen=True)
class InterleavedAnswer:
    """The whole interleaved answer.

    Attributes:
        parts: text and pictures in the order of the answer. No text part is empty.
        finish: `end` if the model ended its turn, `length` if `max_tokens` was reached, `images` if the model opened
            another picture after `max_images` ones.
    """

    parts: tuple[TextPart | PicturePart, ...]
    finish: Literal["end", "length", "images"]


@dataclass(frozen=True)
class Statistics:
    """The last event of every request. A server of another kind does not report some of the numbers; they are 0 then.

    Attributes:
        prefix_tokens: prefilled tokens of all branches, without reused ones.
        new_tokens: generated tokens of think text and answers.
        steps: denoising steps of all pictures.
        text_seconds, denoise_seconds, seconds: time of text generation, of denoising, and of the whole request.
        peak_memory: bytes; on CUDA the most memory allocated on the device, elsewhere the process's peak resident set.
        text_bytes: bytes that text generation reads from memory, according to `model.network.counts`.
        denoise_flops: floating-point operations of the denoising steps, also from `model.network.counts`.
        attention: name of the attention kernel of a denoising step.
        denoise_passes: predictions of all denoising steps, one for each branch that a step computes.
        text_passes: forward passes in which prompt lookup generated the tokens, each of which loads weights; 0 without
            prompt lookup.
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
    text_passes: int = 0
    denoise_passes: int = 0


Event = (
    Notice
    | Waiting
    | PrefixRead
    | ThinkToken
    | ThinkText
    | DenoisingStep
    | Picture
    | TextToken
    | Answer
    | InterleavedAnswer
    | Statistics
)
