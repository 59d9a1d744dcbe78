"""Fixtures that tests of the demo's training share."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer

from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.checkpoint.writer import write_tokenizer
from model.demo.training.courses import ALL_COURSES
from model.demo.training.rendering import Stage
from model.demo.training.vocabulary import build_tokenizer, lesson_texts_of, noun_texts, word_tokens


@pytest.fixture(scope="session")
def stage() -> Stage:
    return Stage(torch.device("cpu"))


@pytest.fixture(scope="session")
def lesson_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tokenizer that knows the words of the shipped one and most words of the newest lessons."""
    folder = tmp_path_factory.mktemp("tokenizer")
    known = word_tokens(RawTokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json")))
    texts = [text for number in range(len(ALL_COURSES)) for text in lesson_texts_of(number, count=40)]
    write_tokenizer(folder, build_tokenizer([*noun_texts(), *texts], least=2, known=known))
    return folder
