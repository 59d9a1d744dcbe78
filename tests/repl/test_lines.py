"""Parsing of lines."""

from pathlib import Path

import pytest
from PIL import Image

from sensenova_cli.errors import UsageError
from sensenova_cli.repl.lines import Line, looks_like_path, parse_line


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("cat.png")
    Image.new("RGB", (4, 4)).save("my cat.png")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("a cat at dusk", Line("prompt", "a cat at dusk")),
        ("  a cat  ", Line("prompt", "a cat")),
        ("", Line("prompt", "")),
        ("a cat --seed 7 -n 4", Line("prompt", "a cat", flags=("--seed", "7", "-n", "4"))),
        ("a cat -- a cute one", Line("prompt", "a cat -- a cute one")),
        ("a well-known cat - with a hat", Line("prompt", "a well-known cat - with a hat")),
        ('a cat -o "my cat.png"', Line("prompt", "a cat", flags=("-o", "my cat.png"))),
        ("--seed 7", Line("prompt", "", flags=("--seed", "7"))),
        ("? which animal is this?", Line("question", "which animal is this?")),
        ("?", Line("command", "", command="help")),
        ("cat.png ?", Line("question", "", files=("cat.png",))),
        ("exit", Line("command", "", command="quit")),
        (" Quit ", Line("command", "", command="quit")),
        (":q", Line("command", "", command="quit")),
        ("help", Line("command", "", command="help")),
        ("clear", Line("command", "", command="clear")),
        ("help me", Line("prompt", "help me")),
        ("/generate help", Line("command", "help", command="generate")),
        ("/?", Line("command", "", command="?")),
        ("/undo", Line("command", "", command="undo")),
        ("/set size 16:9", Line("command", "size 16:9", command="set")),
        ("/again --seed 3", Line("command", "", command="again", flags=("--seed", "3"))),
        ("/generate\na cat", Line("command", "a cat", command="generate")),
        ("cat.png", Line("prompt", "", files=("cat.png",))),
        ("cat.png make it red", Line("prompt", "make it red", files=("cat.png",))),
        ("cat.png ? what is this", Line("question", "what is this", files=("cat.png",))),
        ("'my cat.png' cat.png", Line("prompt", "", files=("my cat.png", "cat.png"))),
        ("my\\ cat.png", Line("prompt", "", files=("my cat.png",))),
        ("a picture like gone.png", Line("prompt", "a picture like gone.png")),
        ("a cat -f -o x.png", Line("prompt", "a cat", flags=("-f", "-o", "x.png"))),
        ("Katze im Hut --size 1:1", Line("prompt", "Katze im Hut", flags=("--size", "1:1"))),
    ],
)
def test_a_line_is_parsed(typed: str, line: Line) -> None:
    assert parse_line(typed) == line


def test_the_absolute_path_of_a_picture_is_not_a_command(folder: Path) -> None:
    path = str(folder / "cat.png")
    assert parse_line(path) == Line("prompt", "", files=(path,))
    assert parse_line(f"{path} make it red").text == "make it red"


@pytest.mark.parametrize("typed", ["gone.png", "gone.png make it red", "~/gone.jpg"])
def test_a_missing_picture_is_not_a_prompt(typed: str) -> None:
    with pytest.raises(UsageError, match="there is no picture file"):
        parse_line(typed)


@pytest.mark.parametrize("typed", ["!ls", "! rm -r x", "!"])
def test_a_shell_command_does_not_run(typed: str) -> None:
    with pytest.raises(UsageError, match="shell commands do not run here") as raised:
        parse_line(typed)
    assert "Ctrl-Z" in raised.value.hint


def test_an_open_quote_is_an_error() -> None:
    with pytest.raises(UsageError, match="a quote is not closed"):
        parse_line('a cat -o "cat.png')


@pytest.mark.parametrize(("word", "is_path"), [("/home/me/x", True), ("/cat.png", True), ("/undp", False)])
def test_what_looks_like_a_path(word: str, is_path: bool) -> None:
    assert looks_like_path(word) is is_path
