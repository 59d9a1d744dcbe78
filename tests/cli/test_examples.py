"""The examples in the help of every command run: on the fake engine, or on the demo where files of a model are needed.

Each runs in a folder that has the files, sessions and log entries which the examples name. Examples that need another
machine, a download or a keyboard are only parsed.
"""

import inspect
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file

from model import DEMO_CHECKPOINT
from sensenova_cli.app import app, load_command
from sensenova_cli.commands import COMMANDS, config
from sensenova_cli.log.entries import LogEntry
from sensenova_cli.log.store import Log
from tests.cli.harness import Program
from tests.cli.shell_lines import program_words, run_line

PARSED = {
    "bench": "it measures for minutes; tests/cli/test_bench.py runs it",
    "chat": "it needs a keyboard",
    "doctor": "it measures the device; tests/cli/test_doctor.py runs it",
    "mcp": "it needs a client; its own tests have one",
    "repl --continue": "it needs a keyboard",
    "repl": "it needs a keyboard",
    "serve": "it waits for clients; tests/serve runs it",
    "verify": "it draws for ten seconds; tests/test_verify_demo.py runs it",
}
"""Commands and whole examples that are only parsed, with the reason."""
ELSEWHERE = ("--server http", "--enhance-with http", "--server local")
"""Parts of examples that need a server."""
DOWNLOADS = ("models pull u1-8b", "models pull owner")


def commands() -> Iterator[tuple[str, Any]]:
    """Yield the program, and every command and subcommand, with their parsers."""
    yield "", typer.main.get_command(app)
    for name in COMMANDS:
        command = load_command(name)
        yield name, command
        for inner, parser in getattr(command, "commands", {}).items():
            yield f"{name} {inner}", parser


def examples(parser: Any) -> list[str]:
    paragraphs = inspect.cleandoc(parser.help or "").split("\n\n")
    return [line.strip() for each in paragraphs if each.startswith("Examples\n") for line in each.splitlines()[1:]]


EXAMPLES = list(dict.fromkeys(line for _, parser in commands() for line in examples(parser)))


def is_only_parsed(line: str) -> bool:
    words = " ".join(program_words(line))
    first = words.split(" ")[0]
    is_interactive = words in ("chat", "repl", "repl --continue") or (first == "repl" and "printf" not in line)
    is_long = first in PARSED and first not in ("chat", "repl") and "--quick" not in words
    return is_interactive or is_long or any(part in line for part in ELSEWHERE) or words.startswith(DOWNLOADS)


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_has_two_examples_of_itself(name: str) -> None:
    parser = dict(commands())[name]
    lines = examples(parser)
    assert len(lines) >= 2
    assert all("sensenova" in line for line in lines)
    assert any(f"sensenova {name}".strip() in line for line in lines)


PICTURES = ("cat", "a", "b", "c", "house", "garden", "input", "a-cute-cat-42", "boardwalk")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that the first test fills."""
    return {"root": tmp_path_factory.mktemp("examples")}


@pytest.fixture
def scratch(
    program: Program, home: Path, tmp_path: Path, prepared: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Program:
    """The program in a folder with everything that the examples name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("COLUMNS")
    source = prepared["root"]
    checkpoint = source / "checkpoint"
    if not checkpoint.exists():
        shutil.copytree(tmp_path / "checkpoint", checkpoint)
    monkeypatch.setenv("SENSENOVA_MODEL", str(checkpoint))
    monkeypatch.setattr("model.checkpoint.card.find_card", lambda model: checkpoint)
    program.folder = checkpoint
    (tmp_path / ".config" / "sensenova" / "profiles").mkdir(parents=True)
    (tmp_path / ".config" / "sensenova" / "profiles" / "mine.toml").touch()
    if not (source / "here").exists():
        prepare(program, tmp_path, checkpoint)
        for name in ("here", "data", "user", "hub"):
            shutil.copytree(tmp_path / name, source / name)
    else:
        for name in ("here", "data", "user", "hub"):
            shutil.copytree(source / name, tmp_path / name, dirs_exist_ok=True)
    for name in ("SenseNova-U1-8B-MoT", "my-checkpoint", "u1-int8", "demo-int8"):
        (home / name).symlink_to(DEMO_CHECKPOINT if name == "my-checkpoint" else checkpoint)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "code").write_text("#!/bin/sh\n")
    (bin_folder / "code").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    return program


def prepare(program: Program, root: Path, checkpoint: Path) -> None:
    """Make pictures, texts, sessions, settings files, log entries and a model in the Hub cache."""
    for name in PICTURES:
        assert program("generate", name, "-o", f"{name}.png").code == 0
    assert program("edit", "cat.png", "Smile", "-o", "smile.png").code == 0
    shutil.copy("a.png", "a.jpg")
    made = program("interleave", "A picture book", "-o", "book/").stdout
    assert "book/a-picture-book-43-1.png" in made
    for name in ("prompt.txt", "prompts.txt", "letter.txt"):
        Path(name).write_text("A red boat\n")
    save_file({"x.lora_down.weight": np.zeros((1, 1), np.float32)}, "pixel.safetensors")
    shutil.copy("pixel.safetensors", "style.safetensors")
    for name in ("2026-07-31-a-cute-cat", "cats", "old", "older", "oldest", "holiday"):
        assert program("repl", "--session", name, stdin="a red owl\n").code == 0
    assert program("profile", "init", "mine").code == 0
    assert program("config", "set", "model", str(checkpoint)).code == 0
    assert program("config", "set", "num_steps", "4").code == 0
    Path("sensenova.toml").write_text("seed = 42\n")
    assert program("models", "alias", "fast", str(checkpoint)).code == 0
    assert program("models", "alias", "mine", "demo").code == 0
    fields = {"task": "chat", "status": "done", "reason": "", "seconds": 1.0, "settings": {}, "loaded": {}}
    Log(print).append([LogEntry(prompt="a red owl", model="demo", **fields)] * 3)  # type: ignore[arg-type]
    for hub_id in ("SenseNova--SenseNova-U1-8B-MoT", "owner--name", "owner--other"):
        snapshot = root / "hub" / f"models--{hub_id}" / "snapshots" / ("c" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")


def typed_answer(line: str) -> bytes:
    """Return what a user types: yes, if the example asks."""
    return b"y\n" if any(f" {word} " in f" {line} " for word in ("rm", "clear")) else b""


@pytest.mark.parametrize("line", EXAMPLES)
def test_example(scratch: Program, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "missing_terminal", lambda: None)  # for `config edit`
    if line.startswith("sensenova profile init") and "mine" not in line:
        for file in (Path("sensenova.toml"), Path(os.environ["SENSENOVA_CONFIG_DIR"]) / "config.toml"):
            file.unlink()
    elif line.startswith("sensenova profile init"):
        (Path(os.environ["SENSENOVA_CONFIG_DIR"]) / "profiles" / "mine.toml").unlink()
    for name in written_files(line):
        Path(name).unlink(missing_ok=True)
    if "demo-int8" in line and "convert" in line:
        Path("demo-int8").unlink()
    if is_only_parsed(line):
        words = program_words(line)
        parser = load_command(words[0])
        while words[1:] and words[1] in getattr(parser, "commands", {}):
            parser, words = parser.commands[words[1]], words[1:]
        monkeypatch.setattr(parser, "callback", lambda **values: None)
        outcome = scratch(*program_words(line))
        assert outcome.code == 0, outcome.stderr
        return

    def run(words: Sequence[str], stdin: bytes) -> bytes:
        outcome = scratch(*words, stdin=stdin or typed_answer(line))
        assert outcome.code == 0, outcome.stderr
        return outcome.stdout_bytes

    run_line(line, run)


def written_files(line: str) -> list[str]:
    """Return the files that the example's last command writes with -o."""
    words = program_words(line.rpartition("|")[2] if "sensenova" in line.rpartition("|")[2] else line)
    return [name for flag, name in pairwise(words) if flag in ("-o", "--html") and name[-1:] != "/"]
