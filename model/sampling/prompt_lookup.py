"""Prompt lookup: drafts of the next tokens, from what followed the last tokens where they stood before.

Drafting from the prompt is from Saxena 2023, "Prompt lookup decoding"; checking drafts in one pass is from Leviathan et
al. 2023, "Fast inference from transformers via speculative decoding".
"""

from collections.abc import Sequence

MOST_DRAFTED = 4
"""Tokens of a draft. Where weights are streamed, a pass of five tokens takes little longer than a pass of one."""
NGRAMS = 3, 2
"""Numbers of last tokens to look for. The greatest is tried first."""


class PromptLookup:
    """The tokens of a prompt and of the text after it, in which last tokens are looked up.

    Attributes:
        passes: forward passes that have read the text's tokens; the caller counts them.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        """
        Args:
            prompt: the ids of all tokens before the text, those of images included.
        """
        self.passes = 0
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # the place after the last occurrence of an n-gram
        for token in prompt:
            self.append(token)

    def append(self, token: int) -> None:
        """Add a token of the text."""
        place = len(self._tokens)
        for count in NGRAMS:
            if place >= count:
                self._after[tuple(self._tokens[place - count :])] = place
        self._tokens.append(token)

    def draft(self, most: int) -> list[int]:
        """Return up to `most` tokens that may follow; none if the last tokens stand nowhere else."""
        for count in NGRAMS:
            place = self._after.get(tuple(self._tokens[-count:]))
            if place is not None:
                return self._tokens[place : place + min(most, MOST_DRAFTED)]
        return []
