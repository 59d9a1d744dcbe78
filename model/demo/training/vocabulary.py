"""The demo's tokenizer: whole words for what it was trained on, bytes for all others, in lower case."""

import re
from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from model.checkpoint.random_weights import SPECIAL_TOKENS, THINK_TOKENS
from model.inputs.prompts import system_message


def build_tokenizer(texts: Iterable[str], least: int) -> Tokenizer:
    """Every word that the texts hold at least `least` times becomes one token.

    What a user types is lowered before it is split, so that `A Cat` is `a cat`; tokens with capitals are there
    for the model to write. The system message, which is always the same, is one token, too: its bytes stay what
    they are, and a prefix stays short.
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
    # Without merges a word is either known as a whole or spelled out: `sunglasses` is not a sun with glasses.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    plain = added[len(SPECIAL_TOKENS) :]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return tokenizer


def with_capitals(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer as the model writes: it does not lower."""
    other = Tokenizer.from_str(tokenizer.to_str())
    other.normalizer = normalizers.NFC()
    return other
