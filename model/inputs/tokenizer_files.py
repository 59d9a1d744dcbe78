"""Reads a tokenizer from a checkpoint's files with the `tokenizers` library, with the rules of transformers.

Importing transformers takes seconds, and this library, which transformers uses itself, a tenth of a second.
`tests/model/inputs/test_tokenizer_files.py` compares the two.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

LARGEST_FILE = 256 * 2**20
"""Bytes. The official tokenizer has 11 MB. Reading a file takes about ten times its size in memory."""

QWEN2_CLASS = "Qwen2Tokenizer"
END_OF_TEXT = "<|endoftext|>"
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's regular expression for the words within which pieces are merged."""

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Settings that name a special token, in the order in which transformers adds missing ones."""

TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json`, or `vocab.json` and `merges.txt`, and add the tokens that other files list.

    A checkpoint whose `tokenizer_config.json` names Qwen2's tokenizer gets Qwen2's normalisation and words, even if its
    `tokenizer.json` says otherwise.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError: a file is missing or damaged.
        Exception: the library raises plain exceptions, too.
    """
    settings = _read_json(folder / "tokenizer_config.json", default={})
    whole = folder / "tokenizer.json"
    is_qwen2 = not whole.exists() or str(settings.get("tokenizer_class")).removesuffix("Fast") == QWEN2_CLASS
    in_file: Sequence[Mapping[str, Any]] = ()
    if is_qwen2:
        pieces, in_file = _pieces_of(_read_json(whole)) if whole.exists() else (_read_pieces(folder), ())
        tokenizer = _qwen2(pieces, settings)
        settings = {**dict.fromkeys(("unk_token", "eos_token", "pad_token"), END_OF_TEXT), **settings}
    else:
        tokenizer = Tokenizer.from_str(_read_text(whole))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    if "added_tokens_decoder" in settings:
        added = {int(number): _added_token(fields) for number, fields in settings["added_tokens_decoder"].items()}
    else:
        settings = {**settings, **_read_json(folder / "special_tokens_map.json", default={})}
        added = _added_tokens(_read_json(folder / "added_tokens.json", default={}), settings, in_file)
    special = [_text(token) for token in _special_tokens(settings)]
    _add_missing(tokenizer, added, special)
    if is_qwen2:
        tokenizer.add_tokens([AddedToken(text, special=True) for text in special])
    return tokenizer


def _read_text(path: Path) -> str:
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path.name} has more than {LARGEST_FILE:,} bytes")
    return path.read_text(encoding="utf-8")


def _read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON object. Return `default`, unless it is None, if the file does not exist."""
    if default is not None and not path.exists():
        return default
    content = json.loads(_read_text(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content


def _pieces_of(content: Mapping[str, Any]) -> tuple[models.BPE, Sequence[Mapping[str, Any]]]:
    """Return the vocabulary with the merges, and the added tokens, of a `tokenizer.json`."""
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    # Older versions of the library wrote a pair as one text.
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    return models.BPE(vocabulary, [(first, second) for first, second in pairs]), content.get("added_tokens", ())


def _read_pieces(folder: Path) -> models.BPE:
    """Read the vocabulary and the merges of `vocab.json` and `merges.txt`."""
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if not merges.exists():
        raise ValueError("there is a vocab.json, but no merges.txt")
    for path in (vocabulary, merges):
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path.name} has more than {LARGEST_FILE:,} bytes")
    return models.BPE.from_file(str(vocabulary), str(merges))


def _qwen2(pieces: models.BPE, settings: Mapping[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer(pieces)
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")), use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _added_tokens(
    of_older: Mapping[str, int], settings: Mapping[str, Any], in_file: Sequence[Mapping[str, Any]]
) -> dict[int, AddedToken]:
    """Return added tokens by id.

    Args:
        of_older: `added_tokens.json` of an older checkpoint.
        in_file: added tokens of a `tokenizer.json`.
    """
    special = {_text(token) for token in _special_tokens(settings)}
    added = {
        number: AddedToken(token, normalized=token not in special, special=token in special)
        for token, number in of_older.items()
    }
    for fields in in_file:
        added[fields["id"]] = _added_token(fields)
    return added


def _added_token(fields: Mapping[str, Any]) -> AddedToken:
    # The library prints the names of unknown fields to stdout.
    return AddedToken(fields["content"], **{name: fields[name] for name in TOKEN_FLAGS if name in fields})


def _special_tokens(settings: Mapping[str, Any]) -> list[Any]:
    """Return the special tokens that the settings name: the usual ones, then those of this model."""
    named = [settings[name] for name in NAMED_TOKENS if settings.get(name) is not None]
    # Other settings with such names are tokens of this model, or switches such as `add_bos_token`.
    named += [
        value
        for name, value in settings.items()
        if name.endswith("_token") and name not in NAMED_TOKENS and isinstance(value, str | dict)
    ]
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or ()
    return [*named, *(extra.values() if isinstance(extra, dict) else extra)]


def _add_missing(tokenizer: Tokenizer, added: Mapping[int, AddedToken], special: Sequence[str]) -> None:
    """Add tokens that the tokenizer lacks or describes differently, in the order of their ids; then special tokens."""
    present = tokenizer.get_added_tokens_decoder().values()
    known = {repr(token) for token in present}
    missing = [token for _, token in sorted(added.items()) if repr(token) not in known]
    contents = {token.content for token in (*present, *missing)}
    for token in missing:
        token.special = token.special or token.content in special
    missing += [AddedToken(text, special=True) for text in dict.fromkeys(special) if text not in contents]
    if missing:
        tokenizer.add_tokens(missing)


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]
