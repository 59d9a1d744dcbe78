"""The demo's tokenizer: one token for each word of the lessons, bytes for all other words, in lower case."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from model.checkpoint.random_weights import SPECIAL_TOKENS, THINK_TOKENS
from model.demo.training.counting import has_plural, plural
from model.demo.training.courses import ALL_COURSES
from model.demo.training.lessons import Teacher, lesson_texts
from model.demo.training.phrases import SYNONYMS
from model.demo.training.world import OBJECTS, SHAPES
from model.inputs.prompts import interleave_system_message, system_message

LESSONS, LEAST = 1500, 4
"""Lessons of each course in which words are counted for the tokenizer, and the least count of a word in all of them."""


def interleave_opening() -> str:
    """Return the start of the system message of interleaved answers, up to its first tag. The rest has tags, which the
    program tokenizes apart."""
    return interleave_system_message().partition("<")[0]


def build_tokenizer(texts: Iterable[str], least: int, known: Iterable[str] = ()) -> Tokenizer:
    """Build a tokenizer with one token for every word that the texts contain at least `least` times.

    It converts a user's text to lower case, so that `A Cat` equals `a cat`. Tokens with capitals exist only for the
    model to write. The system messages are always the same, so as much of them as possible is one token: their bytes
    stay unchanged, and prefixes are short.

    Args:
        known: tokens of words in any case, from `word_tokens`.
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    added = (*SPECIAL_TOKENS, *THINK_TOKENS, system_message(), interleave_opening())
    between = re.compile("|".join(map(re.escape, added)))
    words = Counter(
        word for text in texts for part in between.split(text) for word, _ in splitter.pre_tokenize_str(part)
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    common = sorted({word for word, count in words.items() if count >= least and len(word) > 1} | {*known})
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


def lesson_tokenizer(folder: Path, start: Path | None) -> Tokenizer:
    """Return the tokenizer of a training's folder. Without one, make it from the words of all lessons and write it.

    It is the same on every machine.

    Args:
        start: a checkpoint whose words it keeps.
    """
    file = folder / "tokenizer.json"
    if file.exists():
        return Tokenizer.from_file(str(file))
    known = word_tokens(Tokenizer.from_file(str(start / "tokenizer.json"))) if start else ()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with get_context("fork").Pool() as pool:
        texts = [*noun_texts(), *(text for part in pool.map(lesson_texts_of, range(len(ALL_COURSES))) for text in part)]
    tokenizer = build_tokenizer(texts, LEAST, known)
    scratch = folder / f"tokenizer.json.{os.getpid()}"
    scratch.write_text(tokenizer.to_str(), encoding="utf-8")
    scratch.replace(file)
    return tokenizer


def lesson_texts_of(course: int, count: int = LESSONS) -> list[str]:
    """Return the texts of some lessons of a course, given its number, as they are tokenized."""
    teacher = Teacher(Random(f"words {course}"))
    lessons = [ALL_COURSES[course].make(teacher) for _ in range(count)]
    return [text for lesson in lessons for text in lesson_texts(lesson, (system_message(), interleave_opening()))]


def noun_texts() -> list[str]:
    """Return texts with all nouns and plurals behind a space, and the nouns also without one, often enough."""
    nouns = [noun for name in (*SHAPES, *OBJECTS) for noun in (name, *SYNONYMS.get(name, ()))]
    words = [f"{noun}\n {noun} {plural(noun) if has_plural(noun) else ''}" for noun in nouns]
    return words * LEAST


def word_tokens(tokenizer: Tokenizer) -> list[str]:
    """Return the tokens of words of a tokenizer that `build_tokenizer` made, in its byte alphabet."""
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    return sorted(token for token in vocabulary if len(token) > 1)


def pieces_in(older: Tokenizer, tokenizer: Tokenizer) -> list[list[int]]:
    """Return, for each token of a tokenizer, the ids of an older one that mean the same: one token, or bytes."""
    names = tokenizer.get_vocab(with_added_tokens=True)
    similar = {interleave_opening(): system_message()}
    pieces: list[list[int]] = [[] for _ in names]
    for token, number in names.items():
        same = older.token_to_id(token)
        if same is None and token in similar:
            same = older.token_to_id(similar[token])
        found = [older.token_to_id(letter) for letter in token] if same is None else [same]
        pieces[number] = [each for each in found if each is not None]
    return pieces


def context_id(tokenizer: Tokenizer) -> int:
    """Return the id of `<IMG_CONTEXT>`."""
    number = tokenizer.token_to_id("<IMG_CONTEXT>")
    assert number is not None
    return number


def with_capitals(tokenizer: Tokenizer) -> Tokenizer:
    """Return the same tokenizer for text that the model writes: it keeps capitals."""
    other = Tokenizer.from_str(tokenizer.to_str())
    other.normalizer = normalizers.NFC()
    return other
