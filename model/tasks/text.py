"""Writing text token by token: answers and think text."""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.errors import NumericsError
from model.events import Event, TextToken, ThinkText, ThinkToken
from model.inputs import prompts
from model.inputs.tokenizer import StreamDecoder
from model.sampling.decode import Sampler, decode, decode_with_lookup, greedy
from model.sampling.prefill import Prefix, extend_prefix
from model.sampling.prompt_lookup import PromptLookup
from model.tasks.context import TaskContext
from model.tasks.statistics import StatisticsRecorder

CLOSING_TOKENS = 8
"""Positions that suffice for the tokens between think text and a picture."""


@dataclass(frozen=True)
class WrittenText:
    """A text that the model wrote.

    Attributes:
        token_ids: the tokens of the text, without a stop token.
        last: the last token, which may be a stop token.
        finish: `end` after a stop token, `length` when `max_tokens` was reached.
    """

    text: str
    token_ids: tuple[int, ...]
    last: int
    finish: Literal["end", "length"]


def write_text(
    context: TaskContext,
    prefix: Prefix,
    sample: Sampler,
    max_tokens: int,
    stop: Collection[int],
    event: type[ThinkToken] | type[TextToken],
    recorder: StatisticsRecorder,
    prompt: Sequence[int],
) -> Generator[Event, None, WrittenText]:
    """Write text after a prefix and yield an event for each of its tokens.

    The prefix then contains every token but the last one; see `decode`.

    Args:
        prompt: ids of the prefix's tokens, for prompt lookup.
        sample: picks the tokens.
        stop: tokens that end the text and are not part of it.
        event: the class of the events.

    Raises:
        NumericsError: the logits of the first token are NaN or infinite.
    """

    def sample_checked(logits: Tensor, tokens: list[int]) -> Tensor:
        if not tokens:
            require_finite(logits, "text", context.model.dtype)
            if context.trace is not None and context.trace.first_logits is None:
                context.trace.first_logits = logits.cpu()
        return sample(logits, tokens)

    stream = StreamDecoder(context.tokenizer)
    ids: list[int] = []
    last = -1
    # A token's event is yielded when the next token is known, because the text of `flush` belongs to the last token.
    text = ""
    lookup = PromptLookup(prompt) if context.model.backend.looks_up else None
    arguments = context.model.backend, prefix, sample_checked, max_tokens, stop
    tokens = decode_with_lookup(*arguments, lookup) if lookup else decode(*arguments)
    for last in recorder.text.measure(tokens):
        if last not in stop:
            if ids:
                yield event(ids[-1], text)
            ids.append(last)
            text = stream.push(last)
    if ids:
        yield event(ids[-1], text + stream.flush())
    recorder.count_tokens(len(ids), prefix.cache.length, lookup.passes if lookup else 0)
    finish: Literal["end", "length"] = "end" if last in stop else "length"
    return WrittenText(context.tokenizer.decode(ids), tuple(ids), last, finish)


def think(
    context: TaskContext,
    prefix: Prefix,
    max_tokens: int,
    reserve: int,
    recorder: StatisticsRecorder,
    prompt: Sequence[int],
) -> Generator[Event, None, str]:
    """Write think text greedily, then extend the prefix with the tokens before a picture.

    Args:
        prompt: as for `write_text`.
        reserve: positions to reserve after the prefix for the picture.

    Returns:
        The think text.
    """
    tokenizer = context.tokenizer
    stop = (tokenizer.think_end, tokenizer.end_of_turn)
    written = yield from write_text(context, prefix, greedy, max_tokens, stop, ThinkToken, recorder, prompt)
    # The closing tag belongs to the prefix. The end of a turn does not: a picture after it would be outside the turn.
    closing = [] if written.last == tokenizer.end_of_turn else [written.last]
    rest = closing + tokenizer.encode(prompts.AFTER_THINK)
    with torch.inference_mode():
        prefix.cache.reserve(len(rest) + reserve)
        extend_prefix(context.model.network, prefix, rest)
    yield ThinkText(written.text, written.token_ids, written.finish, recorder.text.seconds)
    return written.text


def require_finite(values: Tensor, what: str, dtype: torch.dtype) -> None:
    """Raise a NumericsError if any value is NaN or infinite. The values' device looks at them, and the host waits.

    Without this check, such a picture would be black and such a text would repeat one token, without an explanation.

    Args:
        what: the result's name in the message.
    """
    if not torch.isfinite(values).all():
        name = str(dtype).removeprefix("torch.")
        others = {"float16": "try `dtype=bfloat16` or float32; ", "bfloat16": "try `dtype=float32`; "}
        raise NumericsError(
            f"the {what} came out as NaN or infinity in {name}",
            others.get(name, "") + "`check_weights=true` finds out whether the weights are damaged",
        )
