"""Tokenizer: texts that are decoded token by token join to the whole text, also if tokens split characters."""

import random
from pathlib import Path

import pytest

from model.errors import CheckpointError
from model.inputs.tokenizer import StreamDecoder, Tokenizer


@pytest.mark.parametrize("text", ["plain words", "Grüße, 世界 🎨!", "<think>\n\n</think>", "mixed 猫 and <img>"])
def test_streamed_texts_join_to_the_whole(text: str, tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer(tiny_checkpoint)
    ids = tokenizer.encode(text)
    stream = StreamDecoder(tokenizer)
    texts = [stream.push(token) for token in ids] + [stream.flush()]
    assert "".join(texts) == text == tokenizer.decode(ids)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(texts)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_join_too(seed: int, tiny_checkpoint: Path) -> None:
    """A model with random weights generates bytes that are not characters, and some that are by chance."""
    tokenizer = Tokenizer(tiny_checkpoint)
    ids = [random.Random(seed * 1000 + place).randrange(256) for place in range(60)]
    stream = StreamDecoder(tokenizer)
    texts = [stream.push(token) for token in ids] + [stream.flush()]
    assert "".join(texts) == tokenizer.decode(ids)


def test_an_incomplete_character_is_flushed(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer(tiny_checkpoint)
    ids = tokenizer.encode("ab🎨")[:-1]
    stream = StreamDecoder(tokenizer)
    assert "".join(stream.push(token) for token in ids) == "ab"
    assert stream.flush() == "\N{REPLACEMENT CHARACTER}"


def test_ids_are_the_tokenizers_own(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer(tiny_checkpoint)
    assert tokenizer.encode("<|im_end|>") == [tokenizer.end_of_turn]
    assert tokenizer.encode("</think>") == [tokenizer.think_end]


def test_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no tokenizer: neither tokenizer\.json nor vocab\.json"):
        Tokenizer(tmp_path)


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        Tokenizer(tmp_path)
