"""Every command gives the same pictures, stdout, JSON and exit code on a server as in its own process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.errors import DeviceMemoryError, NumericsError, RequestError
from model.remote.http import Connection
from tests.cli.harness import REPOSITORY
from tests.remote.local_and_remote import Both, both, comparable_files, environment, files_in, restore  # noqa: F401  # a fixture
from tests.repl.terminal import Terminal
from tests.serve.conftest import Process, demo_server, home  # noqa: F401  # fixtures

PROMPTS = '{"prompt": "a cat", "seed": 3}\n{"prompt": "a dog", "num_steps": 2, "size": "128x256"}\n'

COMMANDS: dict[str, tuple[str, ...]] = {
    "a picture": ("generate", "a cat"),
    "several pictures": ("generate", "a cat", "-n", "3", "-o", "{slug}-{index}.png"),
    "think text": ("generate", "a cat", "--think", "--print-think"),
    "hidden think text": ("generate", "a cat", "--think", "--hide-think"),
    "think text cut off": ("generate", "a cat", "--think", "--print-think", "--max-think-tokens", "2"),
    "an aspect": ("generate", "a cat", "--aspect", "16:9"),
    "a width": ("generate", "a cat", "--width", "128"),
    "a prompt file": ("generate", "--prompt-file", "prompts.jsonl", "-o", "out/"),
    "a picture on stdout": ("generate", "a cat", "-o", "-"),
    "JSON": ("generate", "a cat", "--json", "--think"),
    "JSON of several pictures": ("generate", "a cat", "-n", "2", "--json"),
    "settings": ("generate", "a cat", "--seed", "9", "--cfg-scale", "3", "--cfg-interval", "0.1,0.9", "-s", "3"),
    "no record": ("generate", "a cat", "--no-metadata"),
    "a picture again": ("generate", "--from", "made.png", "--num-steps", "3"),
    "an edit": ("edit", "--image", "made.png", "make it blue"),
    "an edit of two pictures": ("edit", "--image", "made.png", "photo.jpg", "mix them", "--img-cfg-scale", "2"),
    "an edit with placeholders": ("edit", "--image", "photo.jpg", "made.png", "<image> like <image>"),
    "JSON of an edit": ("edit", "--image", "photo.jpg", "make it blue", "--json"),
    "an edit on stdout": ("edit", "--image", "transparent.png", "make it blue", "-o", "-"),
    "a description": ("describe", "made.png"),
    "a question": ("describe", "made.png", "photo.jpg", "-p", "What changed?"),
    "JSON of a description": ("describe", "photo.jpg", "--json"),
    "an answer cut off": ("describe", "photo.jpg", "--max-tokens", "2"),
    "a message": ("chat", "Hello"),
    "a message with a picture": ("chat", "Hello", "--image", "made.png", "--system", "Be brief."),
    "JSON of a message": ("chat", "Hello", "--json", "--do-sample", "--top-k", "3"),
    "the example script": ("run", "--model", "demo", "--prompt", "a cat", "--num-images", "2"),
    "the example script's edit": ("run", "--model", "demo", "--prompt", "make it blue", "--image", "photo.jpg"),
    "the example script's question": (
        "run",
        "--model",
        "demo",
        "--modality",
        "img2text",
        "--prompt",
        "What?",
        "--image",
        "made.png",
    ),
    "the example script's message": ("run", "--model", "demo", "--modality", "text2text", "--prompt", "Hello"),
    "an empty prompt": ("generate", ""),
    "a wrong size": ("generate", "a cat", "--size", "33x33"),
    "an existing file": ("generate", "a cat", "-o", "made.png"),
    "a missing picture": ("edit", "--image", "none.png", "make it blue"),
    "too many placeholders": ("edit", "--image", "made.png", "<image> like <image>"),
    "a picture of another command": ("edit", "--from", "made.png"),
    "a wrong setting": ("chat", "Hello", "--temperature", "0"),
    "contradicting outputs": ("generate", "a cat", "-o", "-", "--json"),
}


@pytest.fixture(autouse=True)
def files(home: Path, both: Both) -> None:  # noqa: F811
    """Input files: a picture of ours with a record, a turned photo, a transparent picture, a prompt file."""
    both("generate", "a red cat", "-o", "made.png", "--seed", "5")  # the server's picture stays
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((96, 64), 80).convert("RGB").save("photo.jpg", exif=exif)
    Image.new("RGBA", (64, 64), (255, 0, 0, 100)).save("transparent.png")
    Path("prompts.jsonl").write_text(PROMPTS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command(both: Both, name: str) -> None:  # noqa: F811
    local, remote = both(*COMMANDS[name])
    assert remote.comparable == local.comparable
    assert ("error:" in remote.outcome.stderr) == (local.outcome.code != 0), remote.outcome.stderr


def test_an_edit_is_repeated_from_its_record(both: Both) -> None:  # noqa: F811
    both("edit", "--image", "made.png", "make it blue", "-o", "blue.png")
    local, remote = both("edit", "--from", "blue.png", "-o", "again.png")
    assert remote.comparable == local.comparable
    assert remote.files["again.png"] == remote.files["blue.png"]


def test_a_prompt_from_standard_input(both: Both) -> None:  # noqa: F811
    local, remote = both("chat", "-", stdin="Hello\n")
    assert remote.comparable == local.comparable
    assert remote.outcome.stdout == "It is a cat.\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [(DeviceMemoryError("too large", "smaller"), 4), (NumericsError("NaN"), 1), (RequestError("no", "yes"), 2)],
)
def test_an_error_of_the_engine_after_a_picture(both: Both, error: Exception, code: int) -> None:  # noqa: F811
    def prepare(engine: Any) -> None:
        taken: list[int] = []

        def on_step(number: int) -> None:
            taken.append(number)
            if len(taken) == 30:
                raise error

        engine.on_step = on_step

    both.prepare = prepare
    local, remote = both("generate", "a cat", "-n", "2")
    assert remote.comparable == local.comparable
    assert (remote.outcome.code, remote.outcome.stdout) == (code, "a-cat-42.png\n")
    assert str(error).splitlines()[0] in remote.outcome.stderr


LINES = (
    "a red cat --seed 7",
    "make it blue",
    "give it a hat -n 2",
    "/use 3",
    "? what is it",
    "? and its colour",
    "/chat tell me a story",
    "/undo",
    "/again",
    "/again --num-steps 2",
    "/set think on",
    "/generate a dog",
    "/load photo.jpg",
    "make it green",
    "make it larger --cfg-scale 3",
    "? what is it",
    "/stats",
    "no such --option",
    "/use 99",
)
TURNS = 12


def turns(log: list[Any]) -> int:
    """The number of turns in a session's log."""
    return sum("prompt" in entry for entry in log)


def test_a_session_of_twelve_turns(both: Both) -> None:  # noqa: F811
    local, remote = both("repl", "--session", "cats", stdin="\n".join(LINES) + "\n")
    assert remote.comparable == local.comparable
    assert turns(remote.comparable[2]["data/sessions/cats/session.jsonl"]) == TURNS
    assert remote.outcome.code == 1, "two lines are wrong"


def test_a_session_is_continued_with_either_engine(both: Both) -> None:  # noqa: F811
    both("repl", "--session", "cats", stdin="a red cat\nmake it blue\n? what is it\n")
    local, remote = both("repl", "--continue", stdin="? and its colour\nmake it green\n/again\n")
    assert remote.comparable == local.comparable
    assert both.served.engine.requests[-3].history, "the conversation was not continued"  # type: ignore[union-attr]


def test_each_picture_of_a_session_is_uploaded_once(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    uploads: list[str] = []
    ask = Connection.ask

    def counting(self: Connection, method: str, path: str, *rest: Any, **options: Any) -> Any:
        if method == "PUT":
            uploads.append(path)
        return ask(self, method, path, *rest, **options)

    monkeypatch.setattr(Connection, "ask", counting)
    lines = ["a red cat", "make it blue", "/use 1", "make it green", "? what is it", "? why", "/use 1", "add a hat"]
    both("repl", stdin="\n".join(lines) + "\n")
    assert len(uploads) == len(set(uploads)) == 2, "pictures 1 and 3 are inputs"


BLOCKED = """
import os
from pathlib import Path
Path(os.environ["TORCH_MARK"]).touch()
raise ImportError("torch is not installed")
"""


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (("generate", "a cat", "--think"), ""),
        (("edit", "--image", "made.png", "make it blue"), ""),
        (("describe", "made.png", "--json"), ""),
        (("chat", "Hello"), ""),
        (("run", "--model", "demo", "--prompt", "a cat"), ""),
        (("info",), ""),
        (("repl",), "a cat\nmake it blue\n? what is it\n/stats\n/set\n"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_torch_is_never_imported(both: Both, tmp_path: Path, words: tuple[str, ...], lines: str) -> None:  # noqa: F811
    libraries, mark = tmp_path / "libraries", tmp_path / "mark"
    libraries.mkdir()
    (libraries / "torch.py").write_text(BLOCKED)
    done = subprocess.run(
        [sys.executable, "-m", "sensenova_cli", words[0], "--server", both.served.url, *words[1:]],
        input=lines,
        text=True,
        capture_output=True,
        check=False,
        env={
            **environment(tmp_path),
            "PYTHONPATH": f"{libraries}:{REPOSITORY}",
            "TORCH_MARK": str(mark),
        },
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not mark.exists()


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


TYPED = (
    "a red cat --seed 7",
    "make it blue",
    "give it a hat",
    "/use 1",
    "make it green",
    "? what is it",
    "? and its colour",
    "/chat hello",
    "/undo",
    "/again",
    "/stats",
    "make it larger",
)


def type_a_session(terminal: Terminal) -> str:
    """Type the lines, continue the session with three more turns, and return the screen's text."""
    for line in TYPED:
        terminal.wait_for_prompt()
        terminal.type(line)
        terminal.wait_for(f"› {line}")  # the greeting of a continued session also shows a prompt
    assert terminal.leave() == 0, terminal.text
    return terminal.text


def session_of(folder: Path) -> dict[str, Any]:
    """Return the only session below a folder, without times and names that contain the folder."""
    found = comparable_files(files_in(folder / "data" / "sessions"))
    return {name.partition("/")[2]: content for name, content in found.items()}


def compare_sessions(folder: Path, url: str, module: str, *options: str, **variables: str) -> None:
    """Run the session in two terminals, with the model of the module's process and with a server.

    Both use the same folder, because records contain the paths of input pictures.
    """
    sessions = []
    for program, words in ((module, options), ("sensenova_cli", (*options, "--server", url))):
        for start in (("repl",), ("repl", "--continue")):
            terminal = Terminal(*start, *words, folder=folder, module=program, **variables)
            text = type_a_session(terminal)
            assert "error:" not in text, text
        sessions.append(session_of(folder))
        restore(folder, {})
    assert sessions[0] == sessions[1]
    assert turns(sessions[0]["session.jsonl"]) == 2 * 9


@pytest.mark.slow
def test_a_session_in_a_terminal(both: Both, empty: Path) -> None:  # noqa: F811
    red = Image.new("RGB", (64, 64), "red")
    both.served.engine.predict = lambda longer_side: red
    compare_sessions(empty, both.served.url, "tests.cli.fake_program", FAKE_PREVIEW="red", SENSENOVA_DTYPE="bfloat16")


@pytest.mark.slow
def test_a_session_in_a_terminal_on_the_demo(demo_server: Process, empty: Path) -> None:  # noqa: F811
    compare_sessions(empty, demo_server.url, "sensenova_cli", "--num-steps", "2", "--max-tokens", "8")


@pytest.mark.slow
def test_the_demo(demo_server: Process, empty: Path, preloaded: Path) -> None:  # noqa: F811
    commands = (
        ("generate", "a red circle", "-n", "2", "--num-steps", "3", "-o", "{index}.png"),
        ("generate", "a star", "--think", "--print-think", "--num-steps", "2", "-o", "star.png"),
        ("edit", "--image", "1.png", "star.png", "make it blue", "--num-steps", "2", "-o", "blue.png"),
        ("generate", "--from", "star.png", "-o", "again.png"),
        ("describe", "star.png", "--max-tokens", "8"),
    )
    results = []
    for words in ((), ("--server", demo_server.url)):
        outputs = []
        for command in commands:
            done = subprocess.run(
                [preloaded, *command, *words],
                cwd=empty,
                text=True,
                capture_output=True,
                check=False,
                env=environment(empty),
            )
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout)
        results.append((outputs, files_in(empty)))
        restore(empty, {})
    assert results[0] == results[1]
    files = results[1][1]
    assert files["again.png"] == files["star.png"]
