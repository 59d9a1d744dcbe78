"""Tokenizers read from files give the ids and texts that transformers gives, for all layouts of these files."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, models, normalizers, trainers
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.pre_tokenizers import ByteLevel

from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.errors import CheckpointError
from model.inputs.prompts import generate_prompt, unconditional_prompt
from model.inputs.tokenizer import Tokenizer
from model.inputs.tokenizer_files import LARGEST_FILE, _qwen2

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>"]
PLAIN = ["<tool_call>", "<think>", "</think>"]
TEXTS = [
    "",
    " ",
    "A cute cat",
    "  two  spaces\n\n\r\n\tand\ttabs \n ",
    "I'll can't WE'RE they'd 'S 'ſ",
    "0123456789 3.14 ①²½ ٣",
    "Grüße, naïve Å Å é é ﬁ ü",
    "世界の猫 🎨👩‍👩‍👧‍👦 Привет नमस्ते العربية",
    "a\u00a0b\u200bc\u2028d\ufeff\x00\x7f",
    "<|im_start|>user\n<image><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<img>",
    "<IMG_CONTEXT><IMG_CONTEXT></img> <img><think></think><tool_call>",
    "< think> <|im_end|<|im_end|>> <IMG>",
    generate_prompt("A sign that says “OPEN”, 4K", think=True),
    unconditional_prompt(),
]


def token_fields(text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": text, **flags, "special": text in SPECIAL}


@pytest.fixture(scope="module")
def pieces() -> RawTokenizer:
    """A Qwen2 tokenizer with 700 pieces."""
    tokenizer = _qwen2(models.BPE(), {})
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, initial_alphabet=ByteLevel.alphabet())
    tokenizer.train_from_iterator([*TEXTS, *Path(__file__).read_text().splitlines()], trainer)
    return tokenizer


def decoder_of(tokenizer: RawTokenizer, tokens: list[str]) -> dict[str, Any]:
    first = tokenizer.get_vocab_size(with_added_tokens=False)
    return {str(first + number): token_fields(token) for number, token in enumerate(tokens)}


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def with_tokens(tokenizer: RawTokenizer, tokens: list[str]) -> RawTokenizer:
    copy = RawTokenizer.from_str(tokenizer.to_str())
    copy.add_tokens([AddedToken(**token_fields(token)) for token in tokens])
    return copy


Layout = Callable[[Path, RawTokenizer], None]


def vocabulary_and_merges(folder: Path, pieces: RawTokenizer) -> None:
    pieces.model.save(str(folder))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": decoder_of(pieces, SPECIAL + PLAIN),
        "additional_special_tokens": SPECIAL,
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 4,
        "clean_up_tokenization_spaces": True,
    }
    write(folder, "tokenizer_config.json", settings)


def older_files(folder: Path, pieces: RawTokenizer) -> None:
    pieces.model.save(str(folder))
    first = pieces.get_vocab_size(with_added_tokens=False)
    write(folder, "added_tokens.json", {token: first + number for number, token in enumerate(SPECIAL + PLAIN)})
    write(
        folder, "special_tokens_map.json", {"additional_special_tokens": SPECIAL, "eos_token": token_fields(SPECIAL[2])}
    )
    write(folder, "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"})


def one_file(folder: Path, pieces: RawTokenizer) -> None:
    with_tokens(pieces, SPECIAL + PLAIN).save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"})


def one_file_without_settings(folder: Path, pieces: RawTokenizer) -> None:
    with_tokens(pieces, SPECIAL + PLAIN).save(str(folder / "tokenizer.json"))


def one_file_of_qwen2(folder: Path, pieces: RawTokenizer) -> None:
    vocabulary_and_merges(folder, pieces)
    with_tokens(pieces, SPECIAL + PLAIN).save(str(folder / "tokenizer.json"))


def one_older_file(folder: Path, pieces: RawTokenizer) -> None:
    """`tokenizer.json` lacks tokens that `tokenizer_config.json` lists."""
    with_tokens(pieces, SPECIAL[:3]).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": decoder_of(pieces, SPECIAL + PLAIN),
        "extra_special_tokens": ["<extra>", "<|im_end|>"],
        "eos_token": "<|im_end|>",
        "image_token": "<model's own>",
    }
    write(folder, "tokenizer_config.json", settings)


def one_older_file_of_qwen2(folder: Path, pieces: RawTokenizer) -> None:
    one_older_file(folder, pieces)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder, "tokenizer_config.json", {**settings, "tokenizer_class": "Qwen2TokenizerFast"})


def added_tokens_of_one_file(folder: Path, pieces: RawTokenizer) -> None:
    """Qwen2's class without a list in `tokenizer_config.json`: the tokens of `tokenizer.json` count."""
    with_tokens(pieces, PLAIN + SPECIAL).save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "Qwen2TokenizerFast", "eos_token": "<|im_end|>"})


def other_rules_in_one_file(folder: Path, pieces: RawTokenizer) -> None:
    """Qwen2's class overrides the normalisation of `tokenizer.json`."""
    changed = with_tokens(pieces, SPECIAL + PLAIN)
    changed.normalizer = normalizers.Lowercase()
    changed.enable_truncation(3)
    changed.enable_padding(length=9, pad_token="<|endoftext|>")
    changed.save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"})


def kept_rules_in_one_file(folder: Path, pieces: RawTokenizer) -> None:
    other_rules_in_one_file(folder, pieces)
    write(
        folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "split_special_tokens": False}
    )


def merges_as_lines(folder: Path, pieces: RawTokenizer) -> None:
    """Older versions of the library wrote a merge as one text."""
    added_tokens_of_one_file(folder, pieces)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    write(folder, "tokenizer.json", content)


def different_descriptions(folder: Path, pieces: RawTokenizer) -> None:
    """`tokenizer_config.json` describes a token of `tokenizer.json` differently: it is matched with its spaces."""
    one_file(folder, pieces)
    listed = decoder_of(pieces, SPECIAL + PLAIN)
    for fields in list(listed.values())[-2:]:
        fields["lstrip"] = fields["rstrip"] = True
    write(folder, "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend", "added_tokens_decoder": listed})


LAYOUTS: list[Layout] = [
    vocabulary_and_merges,
    older_files,
    one_file,
    one_file_without_settings,
    one_file_of_qwen2,
    one_older_file,
    one_older_file_of_qwen2,
    added_tokens_of_one_file,
    other_rules_in_one_file,
    kept_rules_in_one_file,
    merges_as_lines,
    different_descriptions,
]


def random_texts() -> list[str]:
    """Return texts of random characters and words, with tokens between them."""
    source = random.Random(7)
    words = [*SPECIAL, *PLAIN, " ", "\n", "\r\n", "'ll", "cat", "Cat", "é", "é", "猫", "🎨", "12", "\t", "…", "ſ", "İ"]
    texts = ["".join(source.choice(words) for _ in range(40)) for _ in range(40)]
    planes = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    for _ in range(40):
        texts.append("".join(chr(source.randint(*source.choice(planes))) for _ in range(60)))
    return texts


def assert_equal_to_transformers(folder: Path) -> None:
    from transformers import AutoTokenizer

    expected, tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True), Tokenizer(folder)
    assert len(tokenizer) == len(expected)
    assert tokenizer.end_of_turn == expected.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.image_context == expected.convert_tokens_to_ids("<IMG_CONTEXT>")
    source = random.Random(3)
    for text in [*TEXTS, *random_texts()]:
        ids = tokenizer.encode(text)
        assert ids == expected.encode(text, add_special_tokens=False), repr(text)
        ids += [source.randrange(len(expected) + 5) for _ in range(10)]  # some are unknown, some split characters
        as_text = expected.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids) == as_text
        assert tokenizer.decode(tuple(ids[:3])) == expected.decode(ids[:3], clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_ids_and_texts_are_those_of_transformers(layout: Layout, pieces: RawTokenizer, tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"model_type": "neo_chat"})
    layout(tmp_path, pieces)
    assert_equal_to_transformers(tmp_path)


def test_the_demo_and_the_reference_checkpoints(
    parity_checkpoint: Callable[[str], Path], tiny_checkpoint: Path
) -> None:
    for folder in (DEMO_CHECKPOINT, tiny_checkpoint, *map(parity_checkpoint, ("u1", "u15", "a3b"))):
        assert_equal_to_transformers(folder)


def test_a_missing_special_token(pieces: RawTokenizer, tmp_path: Path) -> None:
    vocabulary_and_merges(tmp_path, pieces)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"].popitem()
    write(tmp_path, "tokenizer_config.json", settings)
    with pytest.raises(CheckpointError, match="the tokenizer has no token </think>"):
        Tokenizer(tmp_path)


DAMAGED: dict[str, tuple[str, str]] = {
    "deep": ("tokenizer.json", '{"model":' + "[" * 100_000),
    "deep settings": ("tokenizer_config.json", "[" * 100_000),
    "another type": ("tokenizer.json", "[1, 2]"),
    "settings of another type": ("tokenizer_config.json", "7"),
    "no model": ("tokenizer.json", "{}"),
    "a wrong model": ("tokenizer.json", '{"model": {"vocab": 3, "merges": "a"}}'),
    "numbers that are too large": ("tokenizer.json", '{"model": {"vocab": {"a": 99999999999}, "merges": []}}'),
    "negative numbers": ("tokenizer.json", '{"model": {"vocab": {"a": -1}, "merges": []}}'),
    "merges of unknown pieces": ("tokenizer.json", '{"model": {"vocab": {"a": 0}, "merges": ["b c"]}}'),
    "merges of three pieces": ("tokenizer.json", '{"model": {"vocab": {"a": 0}, "merges": ["a a a"]}}'),
    "added tokens of another type": ("tokenizer_config.json", '{"added_tokens_decoder": {"7": "<img>"}}'),
    "added tokens with other fields": ("tokenizer_config.json", '{"added_tokens_decoder": {"7": {"text": "<img>"}}}'),
    "a list of added tokens": ("tokenizer_config.json", '{"added_tokens_decoder": [7]}'),
    "a special token of another type": ("tokenizer_config.json", '{"eos_token": 7}'),
    "no text": ("tokenizer.json", "\x80\xff"),
    "a number with too many digits": ("tokenizer_config.json", '{"model_max_length": ' + "9" * 5000 + "}"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "PreTrainedTokenizerFast"])
def test_damaged_files(name: str, kind: str, pieces: RawTokenizer, tmp_path: Path) -> None:
    vocabulary_and_merges(tmp_path, pieces)
    one_file(tmp_path, pieces)
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": kind})
    file, content = DAMAGED[name]
    (tmp_path / file).write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read") as caught:
        Tokenizer(tmp_path)
    assert len(caught.value.what) < 600


def test_a_vocabulary_without_merges(pieces: RawTokenizer, tmp_path: Path) -> None:
    vocabulary_and_merges(tmp_path, pieces)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read: there is a vocab\.json, but no merges\.txt"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"])
def test_an_enormous_file(file: str, pieces: RawTokenizer, tmp_path: Path) -> None:
    vocabulary_and_merges(tmp_path, pieces)
    with (tmp_path / file).open("wb") as enormous:
        enormous.truncate(LARGEST_FILE + 1)  # a hole, which needs no space on the disk
    with pytest.raises(CheckpointError, match=f"cannot be read: {file} has more than"):
        Tokenizer(tmp_path)
