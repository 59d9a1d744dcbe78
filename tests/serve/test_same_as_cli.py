"""Pictures of the server and of the program with the same seed, both with the demo in float32."""

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import REPOSITORY
from tests.serve.clients import BLUE, RED, client, data_url, from_data_url, opened, plain, turned_jpeg
from tests.serve.conftest import Process

SETTINGS = {"seed": 11, "num_steps": 3}
FLAGS = ("--seed", "11", "--num-steps", "3")
SIZE = ("--size", "96x64")


def sensenova(folder: Path, *words: str) -> str:
    """Run the program, and return its standard output."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SENSENOVA_")}
    own = {
        "PYTHONPATH": str(REPOSITORY),
        "SENSENOVA_CONFIG_DIR": str(folder / "user"),
        "SENSENOVA_DATA_DIR": str(folder / "data"),
        "SENSENOVA_DTYPE": "float32",
    }
    command = [sys.executable, "-m", "sensenova_cli", *words]
    done = subprocess.run(command, cwd=folder, env={**variables, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_of(folder: Path, *words: str) -> list[bytes]:
    """Run the program, and return the files that it has written, in order of their seeds."""
    sensenova(folder, *words, "-o", "made-{seed}.png")
    return [file.read_bytes() for file in sorted(folder.glob("made-*.png"))]


def test_the_files_of_generated_pictures(demo_server: Process, tmp_path: Path) -> None:
    files = files_of(tmp_path, "generate", "a red circle", "-n", "2", *FLAGS, *SIZE)
    api = client(demo_server.url)
    answer = api.images.generate(prompt="a red circle", n=2, size="96x64", extra_body=SETTINGS)
    assert answer.data is not None and len(files) == 2
    assert [base64.b64decode(each.b64_json or "") for each in answer.data] == files
    events: Any = api.images.generate(
        prompt="a red circle", n=2, size="96x64", extra_body=SETTINGS, stream=True, partial_images=1
    )
    completed = [each for each in events if each.type.endswith("completed")]
    assert [base64.b64decode(each.b64_json) for each in completed] == files, "previews change nothing"
    messages: list[Any] = [{"role": "user", "content": "a red circle"}]
    wish = {**SETTINGS, "modalities": ["image"], "size": "96x64", "n": 2}
    chat: Any = api.chat.completions.create(model="demo", messages=messages, extra_body=wish)
    parts = chat.choices[0].message.content
    assert [from_data_url(each["image_url"]["url"]) for each in parts] == files


def test_think_text_and_its_picture(demo_server: Process, tmp_path: Path) -> None:
    (file,) = files_of(tmp_path, "generate", "a blue square", "--think", "--max-think-tokens", "12", *FLAGS, *SIZE)
    wish = {**SETTINGS, "think": True, "max_think_tokens": 12}
    answer = client(demo_server.url).images.generate(prompt="a blue square", size="96x64", extra_body=wish)
    assert answer.data is not None
    assert base64.b64decode(answer.data[0].b64_json or "") == file


@pytest.mark.parametrize(
    "pictures",
    [
        {"a.png": plain(BLUE, (96, 64))},
        {"a.png": plain(BLUE, (96, 64)), "b.png": plain(RED)},
        {"a.png": plain((10, 200, 10, 100), (96, 64))},
        {"a.jpg": turned_jpeg()},
    ],
    ids=["one", "two", "transparent", "turned by EXIF"],
)
def test_the_pixels_of_edits(demo_server: Process, tmp_path: Path, pictures: dict[str, bytes]) -> None:
    flags = []
    for name, content in pictures.items():
        (tmp_path / name).write_bytes(content)
        flags += ["--image", name]
    size: Any = {"size": "96x64"} if len(pictures) == 1 else {}
    (file,) = files_of(tmp_path, "edit", "make it red", *flags, *FLAGS, *(SIZE if size else ()))
    given: Any = list(pictures.items())
    images: Any = given if len(given) > 1 else given[0]
    api = client(demo_server.url)
    answer = api.images.edit(prompt="make it red", image=images, extra_body=SETTINGS, **size)
    assert answer.data is not None
    expected = opened(file)
    assert opened(answer.data[0].b64_json).tobytes() == expected.tobytes()
    parts = [{"type": "image_url", "image_url": {"url": data_url(each)}} for each in pictures.values()]
    messages: list[Any] = [{"role": "user", "content": [*parts, {"type": "text", "text": "make it red"}]}]
    wish = {**SETTINGS, "modalities": ["image", "text"], **size}
    chat: Any = api.chat.completions.create(model="demo", messages=messages, extra_body=wish)
    (part,) = chat.choices[0].message.images
    assert opened(from_data_url(part["image_url"]["url"])).tobytes() == expected.tobytes()


def test_the_text_of_answers(demo_server: Process, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(plain(RED, (96, 64)))
    question, limit = "What is in the picture?", ("--max-tokens", "16")
    sampling = ("--do-sample", "--temperature", "1.5", "--seed", "3")
    greedy = sensenova(tmp_path, "describe", "a.png", "-p", question, *limit)
    sampled = sensenova(tmp_path, "chat", "What is a cat?", *limit, *sampling)
    api = client(demo_server.url)
    picture = {"type": "image_url", "image_url": {"url": data_url(plain(RED, (96, 64)))}}
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": question}, picture]}]
    answer = api.chat.completions.create(model="demo", messages=messages, max_tokens=16)
    assert answer.choices[0].message.content == greedy.removesuffix("\n") != ""
    messages = [{"role": "user", "content": "What is a cat?"}]
    answer = api.chat.completions.create(model="demo", messages=messages, max_tokens=16, temperature=1.5, seed=3)
    assert answer.choices[0].message.content == sampled.removesuffix("\n") != ""
