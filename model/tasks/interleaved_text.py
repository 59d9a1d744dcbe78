"""The text of an interleaved answer: stretches between pictures, inside and outside of thinking."""

from collections.abc import Generator, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from config.settings import TextSettings
from model.events import Event, PicturePart, TextPart, TextToken, ThinkText, ThinkToken
from model.sampling.decode import Sampler, make_sampler
from model.sampling.prefill import Prefix, extend_prefix
from model.tasks.context import TaskContext
from model.tasks.statistics import StatisticsRecorder
from model.tasks.text import write_text


class InterleavedText:
    """The writer of an interleaved answer's text. One budget and one sampler serve the whole answer.

    Attributes:
        parts: the answer so far, text and pictures.
    """

    def __init__(
        self,
        context: TaskContext,
        settings: TextSettings,
        recorder: StatisticsRecorder,
        sampler: Sampler | None,
        prompt: Sequence[int],
    ) -> None:
        """
        Args:
            sampler: picks the tokens; None for the one of the settings.
            prompt: ids of the prompt's tokens, for prompt lookup.
        """
        self.parts: list[TextPart | PicturePart] = []
        self._context, self._recorder = context, recorder
        self._max_tokens = settings.max_tokens
        self._sampler = sampler or make_sampler(settings, context.model.device)
        self._prompt = prompt
        self._ids: list[int] = []
        self._is_thinking = False
        self._thought_ids: list[int] = []
        self._thought = ""
        self._seconds_before_thinking = 0.0
        tokenizer = context.tokenizer
        self._stop = (tokenizer.end_of_turn, tokenizer.image_start, tokenizer.think_start, tokenizer.think_end)

    @property
    def remaining_tokens(self) -> int:
        """The number of tokens that the rest of the answer may have."""
        return self._max_tokens - len(self._ids)

    def write(self, prefix: Prefix) -> Generator[Event, None, Literal["end", "length"] | None]:
        """Write text after a prefix until the model opens a picture or the answer ends. Yield each token.

        If the model opens a picture, the prefix then contains all of the text, but not the token that opens the
        picture.

        Returns:
            Why the answer ends, or None if the model opens a picture.
        """
        tokenizer = self._context.tokenizer
        while self.remaining_tokens:
            event: type[ThinkToken] | type[TextToken] = ThinkToken if self._is_thinking else TextToken
            before = [*self._prompt, *self._ids]
            written = yield from write_text(
                self._context, prefix, self._sample, self.remaining_tokens, self._stop, event, self._recorder, before
            )
            self._add(written.token_ids, written.text)
            if written.last == tokenizer.end_of_turn:
                return "end"
            if written.last == tokenizer.image_start:
                return None
            if written.finish == "end":
                yield from self._write_tag(prefix, written.last)
        return "length"

    def close(self, finish: Literal["end", "length", "images"]) -> Iterator[Event]:
        """Yield the think text at the end of an answer in which the model has not closed its thinking."""
        if self._is_thinking:
            yield self._end_thinking("length" if finish == "length" else "end")

    def _sample(self, logits: Tensor, tokens: list[int]) -> Tensor:
        trace = self._context.trace
        if trace is not None and not tokens and self.parts and isinstance(self.parts[-1], PicturePart):
            trace.picture_logits.append(logits.cpu())
        return self._sampler(logits, [*self._ids, *tokens])

    def _write_tag(self, prefix: Prefix, tag: int) -> Iterator[Event]:
        """Append `<think>` or `</think>` to the prefix and to the answer."""
        tokenizer, text = self._context.tokenizer, self._context.tokenizer.decode([tag])
        with torch.inference_mode():
            extend_prefix(self._context.model.network, prefix, [tag])
        if tag == tokenizer.think_start and not self._is_thinking:
            self._is_thinking = True
            self._seconds_before_thinking = self._recorder.text.seconds
        self._add([tag], "")
        yield ThinkToken(tag, "") if self._is_thinking else TextToken(tag, text)
        if tag == tokenizer.think_end and self._is_thinking:
            yield self._end_thinking("end")

    def _end_thinking(self, finish: Literal["end", "length"]) -> ThinkText:
        seconds = self._recorder.text.seconds - self._seconds_before_thinking
        whole = ThinkText(self._thought, tuple(self._thought_ids), finish, seconds)
        self._is_thinking, self._thought, self._thought_ids = False, "", []
        return whole

    def _add(self, ids: Sequence[int], thought: str) -> None:
        """Add tokens to the last part of the answer, or begin another part.

        Args:
            thought: their text in the think text, which has no tags.
        """
        if not ids:
            return
        self._ids += ids
        if self._is_thinking:
            self._thought_ids += ids
            self._thought += thought
        whole = tuple(ids)
        last = self.parts[-1] if self.parts else None
        if isinstance(last, TextPart) and last.thinking == self._is_thinking:
            whole = (*last.token_ids, *whole)
            self.parts.pop()
        self.parts.append(TextPart(self._context.tokenizer.decode(whole), whole, self._is_thinking))
