"""The README does what it says: its commands, its transcript and its Python example, run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.model.checkpoint.test_lora import matrices, write_lora
from tests.repl.terminal import Terminal

pytestmark = pytest.mark.slow
FEW_STEPS = "8"
"""A third of the recommended steps. Answers about the pictures are the same."""
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def environment(tmp_path: Path, tiny_checkpoint: Path) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SENSENOVA_")}
    clean["PATH"] = f"{Path(sys.executable).parent}:{clean['PATH']}"
    clean["SENSENOVA_DTYPE"] = "float32"  # CPUs without instructions for bfloat16 are 25 times as slow in it
    clean["SENSENOVA_CONFIG_DIR"] = str(tmp_path / "settings")
    clean["SENSENOVA_DATA_DIR"] = str(tmp_path / "data")
    return clean


def test_the_commands(tmp_path: Path, tiny_checkpoint: Path, environment: dict[str, str], preloaded: Path) -> None:
    try_it, ci, use_it, pipes, profiles, _serve = blocks("bash")
    assert ci == "bash .ci/run\n"
    # Installing is what .ci/run has done; the rest of the first command, and the tour, run as they stand,
    # but for the model and fewer steps than its pictures deserve. The tour does not import PyTorch for every command.
    (tmp_path / "tiny").symlink_to(tiny_checkpoint)
    write_lora(tmp_path / "style.safetensors", matrices(tiny_checkpoint), rank=2)
    first = try_it.split("pip install . &&\n")[1]
    tour = (use_it.replace("sensenova repl ", "echo a cat | sensenova repl ") + pipes + profiles).replace(
        "SenseNova/SenseNova-U1-8B-MoT", "tiny"
    )
    # Eight-bit weights are for bfloat16.
    tour = re.sub(r"^(.*--quantization .*)$", r"SENSENOVA_DTYPE= SENSENOVA_SIZE=32x32 \1", tour, flags=re.MULTILINE)
    script = f"set -e\nexport SENSENOVA_NUM_STEPS=2\n{first}PATH={preloaded.parent}:$PATH\n{tour}"
    script = script.replace("--profile draft", "--profile draft --size 64x64")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "same.png").read_bytes() == (tmp_path / "cat.png").read_bytes()
    made = ["cute.png", "painting.png", "both.png", "8bit.png", "boat.png"]
    made += ["out/0-a-red-boat.png", "out/1-a-green-tree.png"]
    made += [f"a-cat-reading-{seed}.png" for seed in (42, 43, 44)]
    for name in made:
        with Image.open(tmp_path / name) as image:
            image.verify()


def test_the_transcript(tmp_path: Path, environment: dict[str, str], preloaded: Path) -> None:
    environment["PATH"] = f"{preloaded.parent}:{environment['PATH']}"
    environment["SENSENOVA_NUM_STEPS"] = FEW_STEPS
    (transcript,) = blocks("console")
    turns = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", transcript, flags=re.MULTILINE)
    assert len(turns) > 4
    for command, output in turns:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == output, command


def test_the_session(tmp_path: Path) -> None:
    """Each line of the transcript is typed, and what follows it stands on the screen."""
    (transcript,) = blocks("text")
    screen = Terminal("repl", "--no-preview", folder=tmp_path, SENSENOVA_NUM_STEPS=FEW_STEPS)
    for line in transcript.splitlines():
        prompt, typed, words = line.partition(" › ")
        if typed:
            screen.wait_for_toolbar(prompt)
            screen.type(words)
        else:
            screen.wait_for(line.removesuffix("…"))
    assert screen.leave() == 0


def test_the_server(tmp_path: Path, environment: dict[str, str]) -> None:
    *_, command = blocks("bash")
    environment["SENSENOVA_SERVE_PORT"] = "0"
    with subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        line = next(line for line in server.stderr if line.startswith("serving "))
        curl = line.split("try: ")[1]
        answer = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout
        server.terminate()
    assert server.returncode == 0
    assert json.loads(answer)["data"][0]["url"].startswith("http://127.0.0.1:")


def test_the_python_examples(tmp_path: Path, environment: dict[str, str]) -> None:
    printed = []
    for example in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    picture, conversation = printed
    assert Image.open(tmp_path / "from-python.png").size == (256, 256)
    assert picture.strip()
    first, second = re.findall(r"^(\d+) of (\d+) tokens read$", conversation, flags=re.MULTILINE)
    assert first[0] == first[1]
    assert int(second[0]) < int(second[1]) - 64, "the picture's 64 tokens are not read again"
