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
FLAGS = ("--seed", "11", "--num-steps", "3", "--size", "96x64")


def sensenova(folder: Path, *words: str) -> list[bytes]:
    """Run the program, and return the files that it has written, in order of their names."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SENSENOVA_")}
    own = {
        "PYTHONPATH": str(REPOSITORY),
        "SENSENOVA_CONFIG_DIR": str(folder / "user"),
        "SENSENOVA_DATA_DIR": str(folder / "data"),
        "SENSENOVA_DTYPE": "float32",
    }
    command = [sys.executable, "-m", "sensenova_cli", *words, "-o", "made-{seed}.png"]
    done = subprocess.run(command, cwd=folder, env={**variables, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [file.read_bytes() for file in sorted(folder.glob("made*.png"))]


def test_the_files_of_generated_pictures(demo_server: Process, tmp_path: Path) -> None:
    files = sensenova(tmp_path, "generate", "a red circle", "-n", "2", *FLAGS)
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
    (file,) = sensenova(tmp_path, "generate", "a blue square", "--think", "--max-think-tokens", "12", *FLAGS)
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
    (file,) = sensenova(tmp_path, "edit", "make it red", *flags, *FLAGS)
    given: Any = list(pictures.items())
    images: Any = given if len(given) > 1 else given[0]
    api = client(demo_server.url)
    answer = api.images.edit(prompt="make it red", image=images, size="96x64", extra_body=SETTINGS)
    assert answer.data is not None
    expected = opened(file)
    assert opened(answer.data[0].b64_json).tobytes() == expected.tobytes()
    parts = [{"type": "image_url", "image_url": {"url": data_url(each)}} for each in pictures.values()]
    messages: list[Any] = [{"role": "user", "content": [*parts, {"type": "text", "text": "make it red"}]}]
    wish = {**SETTINGS, "modalities": ["image", "text"], "size": "96x64"}
    chat: Any = api.chat.completions.create(model="demo", messages=messages, extra_body=wish)
    (part,) = chat.choices[0].message.images
    assert opened(from_data_url(part["image_url"]["url"])).tobytes() == expected.tobytes()
