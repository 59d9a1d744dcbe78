"""`--help` starts with examples, fits a screen and imports no large libraries.

Its texts are compared with reviewed ones in `help/`. Run `UPDATE_SCREENS=1 python -m pytest tests/cli/test_help.py`
after an intended change, and review the difference. benchmarks/help_time.py measures the time.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sensenova_cli import __version__
from sensenova_cli.app import load_command
from sensenova_cli.commands import COMMANDS as SUMMARIES
from tests.cli.harness import REPOSITORY, Program

COMMANDS = [*SUMMARIES]
ALL_COMMANDS = [
    *COMMANDS,
    *(f"{name} {inner}" for name in SUMMARIES for inner in getattr(load_command(name), "commands", {})),
]
LARGE_LIBRARIES = ("torch", "transformers", "huggingface_hub", "numpy", "PIL.Image", "safetensors")

EXAMPLE_FLAGS = """
    --model --output --width --height --seed --num-steps --cfg-scale --img-cfg-scale --cfg-norm
    --timestep-shift --t-eps --think --print-think --max-tokens --do-sample --temperature --image --prompt --modality
    --tensor-parallel-size --cfg-parallel-size --enforce-eager --enable-cpu-offload --cache-backend
    --enable-cache-dit-summary
"""
TEXTS = Path(__file__).parent / "help"


@pytest.mark.parametrize(
    ("command", "takes_stdout"), [("generate", True), ("run", True), ("interleave", False), ("verify", False)]
)
def test_help_of_the_output_says_whether_it_may_be_stdout(program: Program, command: str, takes_stdout: bool) -> None:
    text = " ".join(program(command, "--help").stdout.split())
    assert ("or - for stdout" in text) is takes_stdout
    if not takes_stdout:
        outcome = program(command, "x", "-o", "-")
        assert outcome.code == 2 and "error: -o - " in outcome.stderr


def test_the_list_of_commands_repeats_their_docstrings() -> None:
    for name, summary in SUMMARIES.items():
        assert (load_command(name).help or "").splitlines()[0] == summary


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_on_stdout(program: Program, command: str) -> None:
    outcome = program(command, "--help")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert f"Usage: sensenova {command}" in outcome.stdout


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_optional_words_have_one_pair_of_brackets(program: Program, command: str) -> None:
    assert "[[" not in program(*command.split(), "--help").stdout


@pytest.fixture
def demo(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is configured."""
    monkeypatch.delenv("SENSENOVA_MODEL")


@pytest.mark.parametrize("command", ["", *ALL_COMMANDS])
def test_examples_come_before_options(program: Program, command: str) -> None:
    lines = program(*command.split(), "--help").stdout.splitlines()
    first = lines.index("Examples") + 1
    block = lines[first : lines.index("", first)]
    assert any(f"sensenova {command}".strip() in line for line in block)
    assert first < next(number for number, line in enumerate(lines) if line.startswith("  -h, --help"))


@pytest.mark.parametrize("command", ["", *ALL_COMMANDS])
@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_no_type_of_python_is_shown(program: Program, command: str, flag: str) -> None:
    text = program(*command.split(), flag if command else "--help").stdout
    assert re.findall(r"<(?:str|bool|int|float|path)|INTEGER|FLOAT|\[bold\]|\\\[", text) == []


@pytest.mark.parametrize("command", ALL_COMMANDS)
@pytest.mark.parametrize("flag", ["--debug", "--no-color"])
def test_every_command_takes_the_general_flags(program: Program, command: str, flag: str) -> None:
    """Checks flags after the command, where people type them. Only the whole help shows them."""
    text = program(*command.split(), flag, "--help-all")
    assert (text.code, text.stderr) == (0, "")
    assert flag in text.stdout
    assert flag not in program(*command.split(), "--help").stdout


@pytest.mark.parametrize("width", [60, 100, 200])
@pytest.mark.parametrize("command", ["", "generate", "edit", "describe", "serve", "profile show"])
def test_texts(program: Program, demo: None, command: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = program(*command.split(), "--help").stdout
    file = TEXTS / f"{command.replace(' ', '-') or 'sensenova'}-{width}.txt"
    if os.environ.get("UPDATE_SCREENS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("command", ["generate", "edit"])
def test_help_fits_a_screen(program: Program, demo: None, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert len(program(command, "--help").stdout.splitlines()) <= 60
    assert len(program(command, "--help-all").stdout.splitlines()) > 60


def test_options_that_always_fail_are_not_shown(program: Program) -> None:
    text = program("run", "--help-all").stdout
    assert "--deploy-config" not in text and "--step-execution" not in text
    assert "is not supported" in program("run", "--step-execution").stderr


def test_defaults_are_those_of_the_model_in_use(
    program: Program, demo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    assert "Number of denoising steps. [24]" in (text := program("generate", "--help").stdout)
    assert "[auto: 256x256]" in text and "the model in use (demo)" in text
    (tmp_path / "recommended_settings.json").write_text(
        json.dumps({"settings": {"num_steps": 9}, "trained_sizes": [[64, 96]]})
    )
    text = program("generate", "--model", str(tmp_path), "--help").stdout
    assert "Number of denoising steps. [9]" in text and "[auto: 64x96]" in text
    assert program("generate", "--help", f"--model={tmp_path}").stdout == text
    text = program("generate", "--model", "owner/name", "--help").stdout
    assert "Number of denoising steps. [50]" in text and "[auto: 2048x2048]" in text


def test_defaults_are_those_of_the_settings_files(
    program: Program, demo: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    Path("sensenova.toml").write_text("num_steps = 7\nseed = 1\n")
    monkeypatch.setenv("SENSENOVA_SEED", "5")
    text = program("generate", "--help").stdout
    assert "Number of denoising steps. [7]" in text and "seed + k. [5]" in text


@pytest.mark.parametrize("content", ["num_steps = ", "[[", "model = 3\n", "seed = [1]\n", "\0"])
def test_a_damaged_settings_file_does_not_prevent_help(program: Program, demo: None, content: str) -> None:
    Path("sensenova.toml").write_text(content)
    outcome = program("generate", "--help")
    assert (outcome.code, outcome.stderr) == (0, "") and "--cfg-scale" in outcome.stdout


def test_a_damaged_recommendation_does_not_prevent_help(program: Program, demo: None, tmp_path: Path) -> None:
    (tmp_path / "recommended_settings.json").write_text('{"settings": 3, "trained_sizes": [7]}')
    outcome = program("generate", "--model", str(tmp_path), "--help")
    assert (outcome.code, outcome.stderr) == (0, "") and "[auto: 2048x2048]" in " ".join(outcome.stdout.split())


@pytest.mark.parametrize("words", ["generate", "profile show", ""])
def test_help_is_a_command(program: Program, words: str) -> None:
    assert program("help", *words.split()).stdout == program(*words.split(), "--help").stdout


def test_help_of_an_unknown_command(program: Program) -> None:
    outcome = program("help", "generat")
    assert outcome.code == 2 and "generate" in outcome.stderr


def test_help_all_of_a_command_with_missing_arguments(program: Program) -> None:
    outcome = program("tiny-checkpoint", "--help-all")
    assert (outcome.code, outcome.stderr) == (0, "")


def test_without_a_command_the_help_is_shown(program: Program) -> None:
    assert program().stdout == program("--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_narrow_terminal(program: Program, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert max(map(len, program(command, "--help").stdout.splitlines())) <= 50


def test_run_has_every_option_of_the_example_script(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = program("run", "--help-all").stdout
    assert [flag for flag in EXAMPLE_FLAGS.split() if not re.search(rf"{flag}[\s,]", text)] == []


def test_help_texts_are_those_of_the_settings(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(program("generate", "--help-all").stdout.split())
    assert "above 1, more steps are spent at high noise. [3.0]" in text


def test_version_is_that_of_the_package(program: Program) -> None:
    package = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert __version__ == package
    assert program("--version").stdout == f"sensenova {package}\n"


@pytest.mark.parametrize("words", [["--help"], ["--man"], ["generate", "--sed", "1"]])
def test_no_large_library_is_imported(words: list[str]) -> None:
    """tests/cli/test_imports.py has the help of every command."""
    script = (
        "import sys\nfrom sensenova_cli.app import app\n"
        f"try: app({words!r})\nexcept SystemExit: pass\n"
        f"print([name for name in {LARGE_LIBRARIES!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_completion_knows_choices(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SENSENOVA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "sensenova generate --cfg-norm g")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert program().stdout.split() == ["global"]


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("generate --profile gpu-8", ["gpu-80gb", "gpu-8gb"]),
        ("generate --profile min", ["mine"]),
        ("describe --model d", ["demo"]),
        ("run --model u1", ["u1-8b", "u1.5-8b"]),
        (
            "edit --model SenseNova/SenseNova-U1-8B-MoT",
            ["SenseNova/SenseNova-U1-8B-MoT", "SenseNova/SenseNova-U1-8B-MoT-SFT"],
        ),
    ],
)
def test_completion_of_profiles_and_models(
    program: Program, tmp_path: Path, line: str, completed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user" / "profiles").mkdir(parents=True)
    (tmp_path / "user" / "profiles" / "mine.toml").touch()
    for name in ("models--SenseNova--SenseNova-U1-8B-MoT-SFT", "models--other--model", "version.txt"):
        (tmp_path / "hub" / name).mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("_SENSENOVA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"sensenova {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split())))
    assert program().stdout.split() == completed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("config get num_", ["num_images", "num_steps"]),
        ("config set serve.po", ["serve.port"]),
        ("config set preview bl", ["blocks"]),
        ("config set think ", ["true", "false"]),
        ("config set model u1-", ["u1-8b"]),
        ("generate --model pix", ["pixel"]),
        ("generate --lora pix", ["pixel"]),
        ("generate --lora u1-", ["u1-8b-8step"]),
        ("models rm pix", ["pixel"]),
        ("sessions show ca", ["cats"]),
        ("repl --session ca", ["cats"]),
    ],
)
def test_completion_of_values(
    program: Program, home: Path, shell: str, line: str, completed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("models", "alias", "pixel", str(home))
    program("repl", "--session", "cats", stdin="a cat\n")
    words = f"sensenova {line}"
    monkeypatch.setenv("_SENSENOVA_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    answer = program().stdout
    assert re.findall(r'"([^"]+)"', answer) == completed if shell == "zsh" else answer.split() == completed


def test_a_damaged_file_of_aliases_does_not_prevent_completion(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "aliases.toml").write_text("[[")
    monkeypatch.setenv("_SENSENOVA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "sensenova generate --model de")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert program().stdout.split() == ["demo"]
