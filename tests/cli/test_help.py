"""`--help` starts with examples and imports no large libraries; benchmarks/help_time.py measures its time."""

import re
import subprocess
import sys
import tomllib

import pytest

from sensenova_cli import __version__
from sensenova_cli.app import load_command
from sensenova_cli.commands import COMMANDS as SUMMARIES
from tests.cli.harness import REPOSITORY, Program

COMMANDS = [
    "generate", "edit", "describe", "chat", "interleave", "run", "info", "bench", "profile", "sessions", "verify",
    "tiny-checkpoint",
]  # fmt: skip
ALL_COMMANDS = [
    *COMMANDS,
    *(f"profile {name}" for name in ("list", "show", "path", "init", "check")),
    *(f"sessions {name}" for name in ("list", "show", "export", "rm")),
]
LARGE_LIBRARIES = ("torch", "transformers", "huggingface_hub", "numpy", "PIL.Image", "safetensors")

EXAMPLE_FLAGS = """
    --model --output --width --height --seed --num-steps --cfg-scale --img-cfg-scale --cfg-norm
    --timestep-shift --t-eps --think --print-think --max-tokens --do-sample --temperature --image --prompt --modality
    --tensor-parallel-size --cfg-parallel-size --enforce-eager --enable-cpu-offload --cache-backend
    --enable-cache-dit-summary --deploy-config --step-execution
"""


def test_the_list_of_commands_repeats_their_docstrings() -> None:
    for name, summary in SUMMARIES.items():
        assert (load_command(name).help or "").splitlines()[0] == summary


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_on_stdout(program: Program, command: str) -> None:
    outcome = program(command, "--help")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert f"Usage: sensenova {command}" in outcome.stdout


@pytest.mark.parametrize("command", ["", *ALL_COMMANDS])
def test_examples_come_before_options(program: Program, command: str) -> None:
    text = program(*command.split(), "--help").stdout
    assert text.index("Examples") < text.index("─ Options")
    lines = [line.strip() for line in text[: text.index("─ Options")].splitlines()]
    first = lines.index("Examples") + 1
    block = lines[first : lines.index("", first)]
    assert any(f"sensenova {command}".strip() in line for line in block)


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_flags_are_shown_without_a_type(program: Program, command: str) -> None:
    """Checks our flags; the parser's own --help has a type."""
    lines = program(*command.split(), "--help").stdout.splitlines()
    assert [line for line in lines if "<bool>" in line and "--help" not in line] == []


@pytest.mark.parametrize("command", ALL_COMMANDS)
@pytest.mark.parametrize("flag", ["--debug", "--no-color"])
def test_every_command_takes_the_general_flags(program: Program, command: str, flag: str) -> None:
    """Checks flags after the command, where people type them."""
    text = program(*command.split(), flag, "--help")
    assert (text.code, text.stderr) == (0, "")
    assert flag in text.stdout


def test_without_a_command_the_help_is_shown(program: Program) -> None:
    assert program().stdout == program("--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_narrow_terminal(program: Program, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert max(map(len, program(command, "--help").stdout.splitlines())) <= 50


def test_run_has_every_option_of_the_example_script(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = program("run", "--help").stdout
    assert [flag for flag in EXAMPLE_FLAGS.split() if not re.search(rf"{flag}\s", text)] == []


def test_help_texts_are_those_of_the_settings(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "above 1, more steps are spent at high noise. [3.0]" in program("generate", "--help").stdout


def test_version_is_that_of_the_package(program: Program) -> None:
    package = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert __version__ == package
    assert program("--version").stdout == f"sensenova {package}\n"


@pytest.mark.parametrize(
    "words", [["--help"], *([command, "--help"] for command in COMMANDS), ["generate", "--sed", "1"]]
)
def test_no_large_library_is_imported(words: list[str]) -> None:
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
