"""The demo's tokenizer: one token for each word of the lessons, bytes for all other words, in lower case."""

import re
from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from model.checkpoint.random_weights import SPECIAL_TOKENS, THINK_TOKENS
from model.inputs.prompts import system_message


def build_tokenizer(texts: Iterable[str], least: int) -> Tokenizer:
    """Build a tokenizer with one token for every word that the texts contain at least `least` times.

    It converts a user's text to lower case, so that `A Cat` equals `a cat`. Tokens with capitals exist only for the
    model to write. The system message is always the same, so it is one token: its bytes stay unchanged, and prefixes
    are short.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    added = (*SPECIAL_TOKENS, *THINK_TOKENS, system_message())
    between = re.compile("|".join(map(re.escape, added)))
    words = Counter(
        word for text in texts for part in between.split(text) for word, _ in splitter.pre_tokenize_str(part)
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    common = sorted(word for word, count in words.items() if count >= least and len(word) > 1)
    vocabulary = {piece: number for number, piece in enumerate([*alphabet, *common])}
    # Without merges, an unknown word becomes bytes and never contains a known one: `sunglasses` has no token `sun`.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    plain = added[len(SPECIAL_TOKENS) :]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return tokenizer


def with_capitals(tokenizer: Tokenizer) -> Tokenizer:
    """Return the same tokenizer for text that the model writes: it keeps capitals."""
    other = Tokenizer.from_str(tokenizer.to_str())
    other.normalizer = normalizers.NFC()
    return other
