"""The checkpoint's tokenizer with its special tokens, and a decoder for tokens that arrive one by one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RawTokenizer

TEXT_START = "\0text\0"
TEXT_END = "\0end\0"
"""Marks around plain text, in which no control token has a meaning. A user's text cannot contain NUL characters."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CUT = "\0cut\0"
CONTEXT_TOKENS = 8
"""Tokens that are decoded again with a new one: some tokenizers decode a token differently at the start of a text."""


class Tokenizer:
    """A checkpoint's tokenizer. The ids of special tokens differ between checkpoints.

    Raises:
        CheckpointError: the folder has no tokenizer, or the tokenizer lacks one of the model's special tokens.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _load(folder)
        self._folder = folder
        tokens = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        self._control_tokens = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")
        self.end_of_turn = self._id("<|im_end|>")
        self.think_start, self.think_end = self._id("<think>"), self._id("</think>")
        self.image_start, self.image_context = self._id("<img>"), self._id("<IMG_CONTEXT>")
        for token in ("<|im_start|>", "</img>"):
            self._id(token)

    def __len__(self) -> int:
        """Return the number of different ids."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Encode a text. Control tokens in it become their ids, except inside plain text; none are added."""
        if TEXT_START not in text:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        pieces = self._without_control_tokens(text).split(_CUT)
        return [number for piece in pieces for number in self._tokenizer.encode(piece, add_special_tokens=False).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids. Special tokens stay visible; incomplete characters become U+FFFD."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _without_control_tokens(self, text: str) -> str:
        """Cut each control token inside plain text after its first character, and remove the marks. Other plain text
        is tokenized together with its surroundings, exactly as without marks."""
        head, *marked = text.split(TEXT_START)
        parts = [head]
        for each in marked:
            inside, _, after = each.partition(TEXT_END)
            parts += [self._control_tokens.sub(lambda found: found[0][0] + _CUT + found[0][1:], inside), after]
        return "".join(parts)

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise CheckpointError(
                f"{self._folder}: the tokenizer has no token {token}", "fetch the tokenizer files again"
            )
        return number


class StreamDecoder:
    """Decodes tokens one by one. The texts that it returns join to the text of `Tokenizer.decode` for all tokens.

    A character may consist of several tokens. An incomplete character decodes to one U+FFFD at the end of the text,
    which the decoder holds back until it gets more tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # the last tokens whose text has been returned, and all whose text has not
        self._returned = 0  # number of characters of their text that have been returned

    def push(self, token_id: int) -> str:
        """Add a token and return the new text, which is empty while a character is incomplete."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(REPLACEMENT):
            return self._new_text(text[:-1])
        new = self._new_text(text)
        self._ids = self._ids[-CONTEXT_TOKENS:]
        self._returned = len(self._tokenizer.decode(self._ids))
        return new

    def flush(self) -> str:
        """Return the text that was held back, after the last token."""
        return self._new_text(self._tokenizer.decode(self._ids))

    def _new_text(self, text: str) -> str:
        new = text[self._returned :]
        self._returned = max(self._returned, len(text))
        return new


def _load(folder: Path) -> "RawTokenizer":
    from model.inputs.tokenizer_files import read_tokenizer

    if not (folder / "tokenizer.json").exists() and not (folder / "vocab.json").exists():
        raise CheckpointError(
            f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json exists",
            "fetch the tokenizer's files, too",
        )
    try:
        return read_tokenizer(folder)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain exceptions, and its panics are not even of that class
        reason = (str(error) or repr(error)).splitlines()[0]
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be read: {reason[:300]}",
            "fetch tokenizer.json and tokenizer_config.json again",
        ) from error
