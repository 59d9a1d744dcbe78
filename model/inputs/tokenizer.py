"""The checkpoint's tokenizer, its special tokens, and text that streams token by token."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CONTEXT_TOKENS = 8
"""Tokens decoded again before a new one: some tokenizers write a token differently at the start of a text."""


class Tokenizer:
    """Text ↔ token ids. Ids of special tokens are the tokenizer's own; they differ between checkpoints.

    Raises:
        CheckpointError: no tokenizer in the folder, or one of the model's special tokens is not in it.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _load(folder)
        self._folder = folder
        self.end_of_turn = self._id("<|im_end|>")
        self.think_end = self._id("</think>")
        self.image_context = self._id("<IMG_CONTEXT>")
        for token in ("<|im_start|>", "<img>", "</img>", "<think>"):
            self._id(token)

    def __len__(self) -> int:
        """How many different ids there are."""
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Special tokens written in the text become their ids; nothing is added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Special tokens stay visible; incomplete characters become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _id(self, token: str) -> int:
        number = self._tokenizer.convert_tokens_to_ids(token)
        if number is None or number == self._tokenizer.unk_token_id:
            raise CheckpointError(
                f"{self._folder}: the tokenizer has no token {token}", "fetch the tokenizer files again"
            )
        return int(number)


class StreamDecoder:
    """Turns tokens into pieces of text as they come; the pieces join to what `Tokenizer.decode` gives for all.

    A character may be spread over several tokens. While it is incomplete it decodes to one U+FFFD at the very end,
    which is held back until more tokens have come.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # a little of what has been given out, and all that has not
        self._given = 0  # characters of their text that have been given out

    def push(self, token_id: int) -> str:
        """The new text, or nothing while a character is incomplete."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(REPLACEMENT):
            return self._give(text[:-1])
        piece = self._give(text)
        self._ids = self._ids[-CONTEXT_TOKENS:]
        self._given = len(self._tokenizer.decode(self._ids))
        return piece

    def flush(self) -> str:
        """What is left when no more tokens come."""
        return self._give(self._tokenizer.decode(self._ids))

    def _give(self, text: str) -> str:
        piece = text[self._given :]
        self._given = max(self._given, len(text))
        return piece


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    # `neo_chat` is no class of transformers, which it would remark on stderr; only the tokenizer is asked for.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever its parsers raise
        if not (folder / "tokenizer.json").exists() and not (folder / "vocab.json").exists():
            raise CheckpointError(
                f"{folder} holds no tokenizer: neither tokenizer.json nor vocab.json is there",
                "fetch the tokenizer's files, too",
            ) from None
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be read: {str(error).splitlines()[0] if str(error) else error!r}",
            "fetch tokenizer.json and tokenizer_config.json again",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
