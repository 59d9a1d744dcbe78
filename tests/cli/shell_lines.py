"""A small shell for the examples of the help: `sensenova` runs in this process, everything else as a program.

It knows pipes, `<`, `>`, `&&`, `$(…)`, variables before a command, patterns of file names, comments, and `jq` with
paths of fields.
"""

import glob
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Run = Callable[[Sequence[str], bytes], bytes]
"""Runs `sensenova` with words and standard input; returns its standard output, or fails the test."""
PROGRAM = "sensenova"


def run_line(line: str, run: Run) -> bytes:
    """Run one line; return the standard output of its last command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&<>")
    lexer.whitespace_split = True
    output = b""
    for pipeline in _split(list(lexer), "&&"):
        output = b""
        for command in _split(pipeline, "|"):
            output = _run_command(command, output, run)
    return output


def program_words(line: str) -> list[str]:
    """Return the words of the first `sensenova` of a line, outside of `$(…)`; none if there is none."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&<>")
    lexer.whitespace_split = True
    words = list(lexer)
    words = words[words.index(PROGRAM) + 1 :] if PROGRAM in words else []
    ends = [number for number, word in enumerate(words) if word in ("|", "&&", "<", ">")]
    return words[: ends[0]] if ends else words


def _split(words: Sequence[str], separator: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _run_command(words: list[str], stdin: bytes, run: Run) -> bytes:
    target: Path | None = None
    plain: list[str] = []
    rest = [_substituted(word, run) for word in words]
    while rest:
        word = rest.pop(0)
        if word == "<":
            stdin = Path(rest.pop(0)).read_bytes()
        elif word == ">":
            target = Path(rest.pop(0))
        else:
            plain += _expanded(word)
    with pytest.MonkeyPatch.context() as patch:
        while found := re.fullmatch(r"([A-Z_]+)=(.*)", plain[0]):
            patch.setenv(found[1], found[2])
            del plain[0]
        if plain[0] == PROGRAM:
            output = run(plain[1:], stdin)
        elif plain[0] == "jq":
            output = _filtered(stdin, plain[-1])
        else:
            output = subprocess.run(plain, input=stdin, capture_output=True, check=True).stdout
    if target is not None:
        target.write_bytes(output)
        return b""
    return output


def _substituted(word: str, run: Run) -> str:
    word = re.sub(r"\$\((.*?)\)", lambda found: run_line(found[1], run).decode().strip(), word)
    return re.sub(r"\$([A-Z_]+)", lambda found: os.environ[found[1]], word)


def _expanded(word: str) -> list[str]:
    if word.startswith("~/"):
        word = str(Path(word).expanduser())
    return (sorted(glob.glob(word)) or [word]) if "*" in word and " " not in word else [word]  # noqa: PTH207


def _filtered(content: bytes, path: str) -> bytes:
    """Check that every line is JSON, and that the fields of a path such as `.entries[].prompt` exist, in at least one
    element of a list."""
    lines = [json.loads(line) for line in content.splitlines()]
    assert lines, "there is nothing to filter"
    if re.fullmatch(r"(\.\w+(\[\])?)+", path):
        for line in lines:
            _require_fields([line], path.removeprefix(".").split("."))
    return content


def _require_fields(values: Sequence[Any], names: Sequence[str]) -> None:
    for name in names:
        found = [value[name.removesuffix("[]")] for value in values if name.removesuffix("[]") in value]
        assert found, f"there is no field {name}"
        values = [each for value in found for each in value] if name.endswith("[]") else found
