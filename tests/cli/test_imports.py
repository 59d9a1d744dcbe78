"""Each kind of command imports only what it uses. Every command runs in a new process."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from sensenova_cli.commands import COMMANDS
from tests.cli.harness import REPOSITORY
from tests.waiting import PATIENCE

LIBRARY = ("torch", "numpy", "safetensors", "tokenizers", "huggingface_hub", "jinja2", "model.engine", "sqlite3")
PICTURES = ("PIL.Image",)
SETTINGS = ("config.settings", "config.recommended", "config.sources")
RICH = ("rich.console", "rich.table", "rich.markdown", "markdown_it")
SHOWN_RARELY = ("rich.markdown", "rich.live", "markdown_it", "pygments")
NEVER = ("transformers", "accelerate", "diffusers", "cache_dit")
"""Libraries that no command needs by itself: `--cache` imports cache_dit, and a launcher imports accelerate."""
UNUSED_BY_INFERENCE = (
    *NEVER,
    "huggingface_hub",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.onnx",
    "torch.testing",
    "torch.utils.cpp_extension",
    "torch.utils.tensorboard",
    "sympy",
    "networkx",
    "triton",
    "pandas",
    "scipy",
    "matplotlib",
    "jinja2",
)
"""Modules that an inference on a CPU, in one process and from a folder, does not use."""

DRAW = ("generate", "a red circle", "--size", "32x32", "--num-steps", "1", "--dtype", "float32", "-o", "made.png")

SCRIPT = """
import sys
from sensenova_cli.app import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("imported", code, *sys.modules, file=sys.stderr)
"""


def imported(folder: Path, *words: str, code: int = 0, stdin: str = "", **environment: str) -> set[str]:
    """Run a command in a new process in a folder; return the modules that are imported at its end."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SENSENOVA_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        cwd=folder,
        env={**kept, "HOME": str(folder), "PYTHONPATH": str(REPOSITORY), **environment},
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    word, found, *modules = done.stderr.splitlines()[-1].split()
    assert (word, found) == ("imported", str(code)), done.stderr
    return set(modules)


@cache
def imported_by_torch() -> set[str]:
    """Return the modules that PyTorch imports by itself; they differ between its versions."""
    script = "import sys, torch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "a {red|blue} circle", "--seed", "1..3", "--dry-run", "--skip-existing"),
        ("edit", "made.png", "make it blue", "--dry-run", "--json"),
        ("describe", "made.png", "--dry-run"),
        ("chat", "hello", "--dry-run"),
        ("interleave", "a kite", "--dry-run"),
    ],
    ids=lambda words: words[0],
)
def test_dry_runs_import_no_pytorch(words: tuple[str, ...], tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "made.png")
    modules = imported(tmp_path, *words)
    unused = ("torch", "numpy", "tokenizers", "huggingface_hub", "jinja2", "rich.markdown")
    assert sorted(modules & {*unused, *NEVER}) == []


@pytest.mark.parametrize(
    ("words", "code", "forbidden"),
    [
        (("--help",), 0, (*LIBRARY, *PICTURES, *SETTINGS, *RICH)),
        ((), 0, (*LIBRARY, *PICTURES, *SETTINGS, *RICH)),
        (("--version",), 0, (*LIBRARY, *PICTURES, *SETTINGS, *SHOWN_RARELY, "rich.table")),
        (("nonsense",), 2, (*LIBRARY, *PICTURES, *SETTINGS, *SHOWN_RARELY, "rich.table")),
        (("--nonsense",), 2, (*LIBRARY, *PICTURES, *SETTINGS, *SHOWN_RARELY, "rich.table")),
        (("help", "profile", "show"), 0, (*LIBRARY, *PICTURES, *SETTINGS, *RICH)),
        (("generate", "--help-all"), 0, (*LIBRARY, *PICTURES, *SETTINGS, *RICH)),
        (("generate", "--nonsense"), 2, (*LIBRARY, *PICTURES, *SETTINGS, *SHOWN_RARELY, "rich.table")),
        (("profile", "show", "--nonsense"), 2, (*LIBRARY, *PICTURES, *SETTINGS, *SHOWN_RARELY, "rich.table")),
        (("generate",), 2, (*LIBRARY, *PICTURES, *SETTINGS, *SHOWN_RARELY)),
        (("generate", "a cat", "--num-steps", "0"), 2, (*LIBRARY, *SHOWN_RARELY, *PICTURES)),
        (("interleave",), 2, (*LIBRARY, *PICTURES, *SETTINGS, *SHOWN_RARELY)),
        (("profile", "list"), 0, (*LIBRARY, *PICTURES, *SHOWN_RARELY)),
        (("profile", "show", "draft"), 0, (*LIBRARY, *PICTURES, *SHOWN_RARELY)),
        (("profile", "path", "draft"), 0, (*LIBRARY, *PICTURES, *SHOWN_RARELY)),
        (("log",), 0, (*LIBRARY, *PICTURES, *SETTINGS, *SHOWN_RARELY)),
        (("log", "rm", "1", "-y"), 2, (*LIBRARY, *PICTURES, *SETTINGS, *SHOWN_RARELY)),
        (("config", "get"), 0, (*LIBRARY, *PICTURES, *SHOWN_RARELY)),
        (("config", "set", "seed", "1"), 0, (*LIBRARY, *PICTURES, *SHOWN_RARELY)),
        (("models", "alias"), 0, (*LIBRARY, *PICTURES, *SHOWN_RARELY)),
        (("models", "list"), 0, ("torch", "tokenizers", "jinja2", "rich.markdown", "pygments")),
        (("sessions", "list"), 0, ("torch", "numpy", "tokenizers", "huggingface_hub", *SHOWN_RARELY)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_without_a_model(
    words: tuple[str, ...], code: int, forbidden: tuple[str, ...], tmp_path: Path
) -> None:
    modules = imported(tmp_path, *words, code=code)
    assert sorted(modules & {*forbidden, *NEVER}) == []


HELP_OF_ALL_COMMANDS = """
import sys
from sensenova_cli.app import app
forbidden, commands = (words.split(",") for words in sys.argv[1:])
for command in commands:
    try:
        app([*command.split(), "--help"])
    except SystemExit as end:
        assert not end.code, command
    for module in forbidden:
        if module in sys.modules:
            sys.exit(f"{command} --help imports {module}")
"""


def test_the_help_of_every_command(tmp_path: Path) -> None:
    """In one process; what the help of one command may not import, the help of the next one may not import either."""
    forbidden = ",".join((*LIBRARY, *PICTURES, *SETTINGS, *RICH, *NEVER))
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL_COMMANDS, forbidden, ",".join(COMMANDS)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: ") == len(COMMANDS)


def test_completion(tmp_path: Path) -> None:
    """The shell completes a command's name, then one of its options."""
    shell = {"_SENSENOVA_COMPLETE": "complete_bash", "COMP_CWORD": "1", "COMP_WORDS": "sensenova gen"}
    modules = imported(tmp_path, **shell)
    assert sorted(modules & {*LIBRARY, *PICTURES, *SETTINGS, *SHOWN_RARELY, *NEVER}) == []
    modules = imported(tmp_path, **{**shell, "COMP_CWORD": "2", "COMP_WORDS": "sensenova generate --num"})
    assert sorted(modules & {*LIBRARY, *PICTURES, *SETTINGS, *RICH, *NEVER}) == []
    modules = imported(tmp_path, **{**shell, "COMP_CWORD": "3", "COMP_WORDS": "sensenova generate --profile d"})
    assert sorted(modules & {*LIBRARY, *PICTURES, *SETTINGS, *RICH, *NEVER}) == []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Draw a picture with the demo; return its folder and the modules that were imported."""
    folder = tmp_path_factory.mktemp("made")
    return folder, imported(folder, *DRAW)


def test_a_picture(made: tuple[Path, set[str]]) -> None:
    folder, modules = made
    assert (folder / "made.png").exists()
    assert sorted((modules - imported_by_torch()) & {*UNUSED_BY_INFERENCE, "rich.markdown", "prompt_toolkit"}) == []


def test_our_code_imports_hardly_anything_of_torch_by_itself(made: tuple[Path, set[str]]) -> None:
    """PyTorch's own modules beyond `import torch` are listed here, so that a heavy one is noticed."""
    own = {module for module in made[1] - imported_by_torch() if module.startswith("torch.")}
    assert own <= {"torch.utils._device", "torch.nn.attention"}


def test_an_answer(made: tuple[Path, set[str]]) -> None:
    modules = imported(made[0], "describe", "made.png", "--max-tokens", "2", "--dtype", "float32")
    assert sorted((modules - imported_by_torch()) & {*UNUSED_BY_INFERENCE, "rich.markdown", "prompt_toolkit"}) == []


def test_info(made: tuple[Path, set[str]]) -> None:
    modules = imported(made[0], "info", "made.png")
    assert sorted(modules & {"torch", "numpy", "tokenizers", "huggingface_hub", *SHOWN_RARELY, *NEVER}) == []
