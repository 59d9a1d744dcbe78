"""Completion of lines with Tab."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from config.profiles import profile_files
from config.settings import SESSION_SETTINGS
from sensenova_cli.repl.completion import LineCompleter
from sensenova_cli.repl.slash_commands import COMMANDS
from sensenova_cli.repl.slash_commands.line_options import parse_line_options
from sensenova_cli.sessions.entries import SessionPicture, Set, Stage, Use
from sensenova_cli.sessions.state import State


@dataclass
class FakeSession:
    """The part of a session that completion reads."""

    state: State = field(default_factory=State)


@dataclass
class Prompt:
    """The part of a Repl that completion reads."""

    mode: str = "pictures"
    session: FakeSession = field(default_factory=FakeSession)

    def select(self, number: int | None) -> None:
        self.session.state = self.session.state.after(Use(picture=number))


@pytest.fixture
def prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prompt:
    """A session with three pictures and none selected, in a folder with some files."""
    here, home = tmp_path / "here", tmp_path / "home"
    for folder in (here, home, here / "out"):
        folder.mkdir()
    for file in (here / "cat.png", here / "my cat.JPG", here / "notes.txt", home / "dog.webp", home / "dog.txt"):
        file.touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.chdir(here)
    prompt = Prompt()
    brought = tuple(
        SessionPicture(number=number, file=f"00{number}-cat.png", width=4, height=4, source="x", sha256="0")
        for number in (1, 2, 3)
    )
    prompt.session.state = prompt.session.state.after(Stage(staged=(), brought=brought))
    return prompt


def offers(prompt: Prompt, typed: str) -> list[str]:
    """Return the lines that Tab can complete from the typed text."""
    completer = LineCompleter(cast(Any, prompt))
    found = completer.get_completions(Document(typed), CompleteEvent(completion_requested=True))
    return [typed[: len(typed) + each.start_position] + each.text for each in found]


def test_commands_are_offered_after_a_slash(prompt: Prompt) -> None:
    assert offers(prompt, "/") == [f"/{name}" for name in COMMANDS]
    assert offers(prompt, "/un") == ["/undo", "/unset"]
    assert offers(prompt, "/help un") == ["/help undo", "/help unset"]


def test_settings_that_a_session_can_set_are_offered(prompt: Prompt) -> None:
    assert offers(prompt, "/set ") == [f"/set {name}" for name in SESSION_SETTINGS]
    assert offers(prompt, "/set cfg_n") == ["/set cfg_norm"]
    assert offers(prompt, "/set  cfg_n") == ["/set  cfg_norm"]
    assert offers(prompt, "/set mod") == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cfg_norm", ["none", "global", "channel", "cfg_zero_star"]),
        ("cfg-norm", ["none", "global", "channel", "cfg_zero_star"]),
        ("noise", ["device", "cpu"]),
        ("input_pixels", ["auto", "native"]),
        ("think", ["true", "false"]),
        ("seed", []),
        ("sed", []),
    ],
)
def test_values_of_a_setting_are_offered(prompt: Prompt, name: str, values: list[str]) -> None:
    assert offers(prompt, f"/set {name} ") == [f"/set {name} {value}" for value in values]


def test_settings_that_are_set_are_offered_to_unset(prompt: Prompt) -> None:
    assert offers(prompt, "/unset ") == ["/unset all"]
    prompt.session.state = prompt.session.state.after(Set(settings={"seed": 7, "num_steps": 3}))
    assert offers(prompt, "/unset ") == ["/unset seed", "/unset num_steps", "/unset all"]
    assert offers(prompt, "/unset seed n") == ["/unset seed num_steps"]


def test_pictures_are_offered_newest_first(prompt: Prompt) -> None:
    assert offers(prompt, "/use ") == ["/use 3", "/use 2", "/use 1", "/use none"]
    assert offers(prompt, "/image ")[:4] == ["/image 3", "/image 2", "/image 1", "/image none"]
    assert offers(prompt, "/image 3 2") == ["/image 3 2"]
    assert offers(prompt, "/save ")[:3] == ["/save 3", "/save 2", "/save 1"]


def test_a_file_is_loaded_by_its_name_not_by_a_number(prompt: Prompt) -> None:
    assert offers(prompt, "/load ") == ["/load cat.png", "/load my\\ cat.JPG", "/load out"]


def test_profiles_are_offered(prompt: Prompt, tmp_path: Path) -> None:
    own = tmp_path / "settings" / "profiles" / "mine.toml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert offers(prompt, "/profile ") == [f"/profile {name}" for name in (*profile_files(), "none")]
    assert offers(prompt, "/profile mi") == ["/profile mine"]
    assert offers(prompt, "a cat --profile mi") == ["a cat --profile mine"]


def test_models_are_offered(prompt: Prompt) -> None:
    assert offers(prompt, "/model d") == ["/model demo"]
    assert offers(prompt, "/model a3") == ["/model a3b"]
    assert offers(prompt, "/model SenseNova/SenseNova-U1-A") == ["/model SenseNova/SenseNova-U1-A3B-MoT"]
    assert offers(prompt, "/model ./") == ["/model ./out"]


@pytest.mark.parametrize(
    ("typed", "lines"),
    [
        ("./c", ["./cat.png"]),
        ("./m", ["./my\\ cat.JPG"]),
        ("./my\\ c", ["./my\\ cat.JPG"]),
        ("./my\\", []),
        ("'./my c", ["'./my cat.JPG"]),
        ("./n", []),  # not a picture
        ("~/d", ["~/dog.webp"]),
        ("./cat.png ~/d", ["./cat.png ~/dog.webp"]),
        ("/image cat.png my\\ c", ["/image cat.png my\\ cat.JPG"]),
        ("/save 3 n", ["/save 3 notes.txt"]),
        ("/save 3 ~/dog.t", ["/save 3 ~/dog.txt"]),
    ],
)
def test_files_are_offered_with_quotes_and_backslashes(prompt: Prompt, typed: str, lines: list[str]) -> None:
    assert offers(prompt, typed) == lines


def test_an_absolute_path_is_not_a_command(prompt: Prompt, tmp_path: Path) -> None:
    assert offers(prompt, f"{tmp_path}/here/c") == [f"{tmp_path}/here/cat.png"]
    top = "/" + tmp_path.parts[1]
    assert top in offers(prompt, top[:-1])


@pytest.mark.parametrize("typed", ["", "a", "a cat", "a cat ", "c", "cat.p", "? wh", "a cat - a do", "/generate ca"])
def test_nothing_is_offered_for_a_plain_prompt(prompt: Prompt, typed: str) -> None:
    assert offers(prompt, typed) == []


@pytest.mark.parametrize(
    ("typed", "task"),
    [
        ("a cat --", "generate"),
        ("a cat\n--", "generate"),
        ("a cat --seed 7 --", "generate"),
        ("--", "generate"),
        ("cat.png make it red --", "edit"),
        ("? what is it --", "describe"),
        ("cat.png ? what is it --", "describe"),
        ("/edit make it red --", "edit"),
        ("/describe --", "describe"),
        ("/chat hello --", "chat"),
        ("/think a cat --", "generate"),
        ("/again --", "generate"),
        ("rock 'n roll --", "generate"),
        ('a cat -o "my cat.png" --', "generate"),
    ],
)
def test_the_flags_of_a_line_are_offered(prompt: Prompt, typed: str, task: str) -> None:
    flags = ["--" + name.replace("_", "-") for name in COMMANDS[task].options]
    assert offers(prompt, typed) == [typed[:-2] + flag for flag in flags]


def test_the_flags_are_those_of_the_command_that_will_run(prompt: Prompt) -> None:
    assert "make it red --img-cfg-scale" not in offers(prompt, "make it red --")
    prompt.select(2)
    assert "make it red --img-cfg-scale" in offers(prompt, "make it red --")
    prompt.select(None)
    prompt.session.state = prompt.session.state.after(Stage(staged=(1,)))
    assert "make it red --img-cfg-scale" in offers(prompt, "make it red --")
    prompt.mode = "chat"
    assert offers(prompt, "hello --max-to") == ["hello --max-tokens"]


VALUES = {"cfg_interval": ["0", "1"], "size": ["64x64"], "aspect": ["1:1"], "output": ["x.png"], "profile": ["draft"]}
VALUES |= {"cache_backend": ["cache_dit"]}


@pytest.mark.parametrize("task", [name for name, command in COMMANDS.items() if "seed" in command.options])
def test_every_offered_flag_is_accepted(prompt: Prompt, task: str) -> None:
    for flag in (line.split()[-1] for line in offers(prompt, f"/{task} x --")):
        choices = [line.split()[-1] for line in offers(prompt, f"/{task} x {flag} ")]
        name = flag.removeprefix("--").replace("-", "_")
        switch = name in (
            "enhance",
            "think",
            "do_sample",
            "force",
            "print_think",
            "hide_think",
            "enable_cache_dit_summary",
        )
        assert not (switch and choices), "a switch takes no value"
        parse_line_options(task, [flag, *([] if switch else VALUES.get(name, choices[:1] or ["64"]))])


def test_values_of_a_flag_are_offered(prompt: Prompt) -> None:
    assert offers(prompt, "a cat --noise ") == ["a cat --noise device", "a cat --noise cpu"]
    assert offers(prompt, "a cat --cfg-norm g") == ["a cat --cfg-norm global"]
    assert offers(prompt, "a cat --noise cpu ") == []
    assert offers(prompt, "a cat --think ") == []
    assert offers(prompt, "a cat --seed ") == []


def test_a_lora_is_completed(prompt: Prompt, tmp_path: Path) -> None:
    (tmp_path / "here" / "style.safetensors").touch()
    known = ["/lora u1-8b-8step", "/lora u1.5-8b-8step"]
    assert offers(prompt, "/lora ") == ["/lora off", *known, "/lora out", "/lora style.safetensors"]


@pytest.mark.parametrize("typed", ["gone.png make it red --", "/nosuch a cat --", "/ --"])
def test_no_flags_are_offered_for_an_invalid_line(prompt: Prompt, typed: str) -> None:
    assert offers(prompt, typed) == []
