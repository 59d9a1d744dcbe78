"""Inputs of odd forms that users of such tools have reported; examples are in tests/data/cases."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.harness import Program

CASES = Path(__file__).parents[1] / "data" / "cases"


def test_a_list_of_prompts_in_a_json_file(program: Program) -> None:
    outcome = program("generate", "--prompt-file", str(CASES / "prompts.json"))
    assert outcome.code == 0
    found = json.loads((CASES / "prompts.json").read_text())
    assert [request.prompt for request in program.engines[0].requests] == [each["prompt"] for each in found]


def test_one_object_in_a_json_file(program: Program, home: Path) -> None:
    (home / "one.json").write_text('{"prompt": "a cat",\n "seed": 7}\n')
    assert program("generate", "--prompt-file", "one.json").stdout == "a-cat-7.png\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", 'this is not a JSON object with a "prompt"'),
        ("3", "is neither an object with a prompt nor a list of them"),
        ("[", "this is not JSON"),
        ("[]", "contains no prompt"),
        ('[{"prompt": "a"}, 3]', "item 2: this is not a JSON object"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_json_file_of_another_form(program: Program, home: Path, content: str, message: str) -> None:
    (home / "prompts.json").write_text(content)
    outcome = program("generate", "--prompt-file", "prompts.json")
    assert outcome.code == 2 and message in outcome.stderr


def test_deeply_nested_lines(program: Program) -> None:
    outcome = program("generate", "--prompt-file", str(CASES / "deep.jsonl"))
    assert outcome.code == 2
    assert f"{CASES / 'deep.jsonl'}:1: this is not JSON: it is nested too deeply" in outcome.stderr


@pytest.mark.parametrize("prompt", ["\u200b", " \t\n", "\u2060\ufeff\u00ad", "\u3000"])
def test_a_prompt_of_invisible_characters_is_empty(program: Program, prompt: str) -> None:
    outcome = program("generate", prompt)
    assert outcome.code == 2 and "the prompt is empty" in outcome.stderr
    assert program("chat", prompt).code == 2


def test_a_file_with_an_invisible_prompt(program: Program) -> None:
    outcome = program("generate", "--prompt-file", str(CASES / "invisible.txt"))
    assert outcome.code == 2 and "invisible.txt:1: the prompt is empty" in outcome.stderr


def test_line_ends_of_windows(program: Program) -> None:
    text = (CASES / "two_lines_crlf.txt").read_bytes()
    assert program("generate", "-", stdin=text).code == 0
    assert program("generate", "-", "-f", stdin=text.replace(b"\r\n", b"\n")).code == 0
    first, second = (engine.requests[0].prompt for engine in program.engines)
    assert first == second and "\r" not in first


def test_output_to_the_null_device(program: Program, home: Path) -> None:
    outcome = program("generate", "a cat", "-n", "2", "-o", "/dev/null")
    assert (outcome.code, outcome.stdout) == (0, "/dev/null\n/dev/null\n")
    assert list(home.iterdir()) == []
    assert "with -o -" in program("generate", "a cat", "-o", "/dev/stdout").stderr


def test_info_of_a_name_that_is_too_long(program: Program, home: Path) -> None:
    assert program("generate", "a cat", "-o", "a.png").code == 0
    outcome = program("info", "a" * 300, "a.png")
    assert outcome.code == 2
    assert "picture: a.png" in outcome.stdout and "File name too long" in outcome.stderr


def test_a_lora_with_a_comma_in_its_name(program: Program, home: Path) -> None:
    folder = home / "mine, not yours"
    folder.mkdir()
    for name in ("style, second try.safetensors", "plain.safetensors"):
        shutil.copy(CASES / "style, second try.safetensors", folder / name)
    both = f"{folder}/style, second try.safetensors:0.5, {folder}/plain.safetensors"
    for words in (["--lora", both], ["--lora", both.split(", /")[0], "--lora", f"{folder}/plain.safetensors"]):
        assert program("generate", "a cat", *words, "-o", "a.png", "-f").code == 0
        assert program("info", "--json", "a.png").code == 0
        recorded = json.loads(program("info", "--json", "a.png").stdout)["lora"]
        assert program("generate", "--from", "a.png", "--trust-record", "-o", "b.png", "-f").code == 0
        again = json.loads(program("info", "--json", "b.png").stdout)["lora"]
        assert recorded == again and recorded.count("second try.safetensors:0.5") == 1


def test_a_script_with_a_byte_order_mark_and_a_line_in_latin_1(program: Program) -> None:
    outcome = program("repl", stdin=(CASES / "repl_bom.txt").read_bytes())
    assert outcome.code == 0
    assert not any(engine.requests for engine in program.engines), "its first line is a comment"
    outcome = program("repl", stdin=b"a cat\na caf\xe9\na dog\n")
    assert outcome.code == 1
    assert "standard input, line 2, byte 6: this is not UTF-8 text" in outcome.stderr
    assert [request.prompt for request in program.engines[-1].requests] == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("line", "prompt", "steps"),
    [
        ('"rock -n roll"', "rock -n roll", 4),
        ('"rock -n roll" --num-steps 2', "rock -n roll", 2),
        ('a sign "rock -n roll" on a door --num-steps 2', 'a sign "rock -n roll" on a door', 2),
        ('a 5" pipe --num-steps 2', 'a 5" pipe', 2),
        ('"OPEN" and "CLOSED"', '"OPEN" and "CLOSED"', 4),
    ],
)
def test_quotes_in_a_session(program: Program, line: str, prompt: str, steps: int) -> None:
    assert program("repl", stdin=line + "\n").code == 0
    assert (program.request.prompt, program.request.settings.num_steps) == (prompt, steps)


def test_saving_in_another_format(program: Program, home: Path) -> None:
    lines = "a cat\n/save a.jpg\n/save b.png\n/save c.txt\n"
    outcome = program("repl", stdin=lines)
    assert outcome.code == 1
    assert Image.open(home / "a.jpg").format == "JPEG"
    assert Image.open(home / "b.png").format == "PNG"
    assert not (home / "c.txt").exists()
    assert "c.txt does not end in .png, .jpg, .jpeg or .webp" in outcome.stderr


def test_texts_on_standard_input_have_a_limit(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from /dev/zero: neither a prompt nor a line of a script is read without end."""
    for name in ("inputs.prompts", "repl.run_session"):
        monkeypatch.setattr(f"sensenova_cli.{name}.MAX_TEXT_BYTES", 1000)
    outcome = program("generate", "-", stdin="x" * 1001)
    assert outcome.code == 2 and "standard input has more than 1,000 bytes" in outcome.stderr
    outcome = program("repl", stdin="a cat\n" + "x" * 5000 + "\n")
    assert outcome.code == 1 and "line 2: this line has more than 1,000 bytes" in outcome.stderr
    assert len(program.engines[-1].requests) == 1
