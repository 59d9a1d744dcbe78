"""Sessions on a terminal: the screen after each turn.

Tests of answers and pictures run the built-in demo; tests of the prompt, signals and files run the fake engine.
"""

import json
import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from tests.repl.terminal import Terminal

pytestmark = pytest.mark.slow
QUICK = ("--num-steps", "6", "--no-preview")


def fake_session(folder: Path, *words: str, **variables: str) -> Terminal:
    """Start a session on the fake engine; each step takes 0.02 s."""
    fake = {"module": "tests.cli.fake_program", "FAKE_STEP_SECONDS": "0.02"}
    return Terminal("repl", *QUICK, *words, folder=folder, **fake, **variables)


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob("data/sessions/*/pictures/*.png"))


def test_twelve_turns_and_a_restart(tmp_path: Path) -> None:
    screen = Terminal("repl", *QUICK, folder=tmp_path)
    screen.wait_for("type what to draw")
    screen.wait_for_toolbar("draw")

    screen.type("a cat on a blue background")  # 1: the model may still be loading
    screen.wait_for("picture 1  ")
    screen.wait_for_toolbar("edit · demo · selected 1 · 256x256 · 6 steps · seed 43")
    screen.type("change the background to green")  # 2
    screen.wait_for("picture 2  ")
    screen.wait_for_toolbar("selected 2")
    screen.type("make it black and white")  # 3
    screen.wait_for("picture 3  ")
    screen.wait_for_toolbar("selected 3")
    screen.type("/undo")  # 4
    screen.wait_for("selected: picture 2")
    screen.wait_for_toolbar("selected 2")
    screen.type("? what color is the background?")  # 5
    screen.wait_for("The background is green.")
    screen.wait_for("5 tokens")
    screen.type("/set size 256x256")  # 6
    screen.wait_for("size = 256x256")
    screen.wait_for_toolbar("256x256")
    screen.type("/generate a fox on a pink background --think")  # 7
    screen.wait_for("I will draw a fox on a pink background.")
    screen.wait_for("thought for ")
    screen.wait_for("picture 4  ")
    screen.wait_for_toolbar("selected 4")
    screen.type("/again -n 2")  # 8
    screen.wait_for("pictures 5, 6 · a fox on a pink background · 5 is selected")
    screen.wait_for_toolbar("selected 5")
    screen.type("/use 6")  # 9
    screen.wait_for("selected: picture 6")
    screen.wait_for_toolbar("selected 6")
    screen.type("/save fox.png")  # 10
    screen.wait_for("fox.png", count=2)
    assert (tmp_path / "fox.png").read_bytes() == pictures(tmp_path)[5].read_bytes()
    assert screen.leave() == 0  # 11
    assert "continue it with: sensenova repl --continue" in screen.text
    assert "Traceback" not in screen.raw

    screen = Terminal("repl", "--continue", *QUICK, folder=tmp_path)
    screen.wait_for("6 turns, 6 pictures")
    screen.wait_for("selected: picture 6")
    screen.wait_for_toolbar("selected 6")
    screen.type("? which animal is this?")  # 12
    screen.wait_for("It is a fox.")
    assert screen.leave() == 0
    assert len(pictures(tmp_path)) == 6
    assert [Image.open(path).size for path in pictures(tmp_path)] == [(256, 256)] * 6


def test_ctrl_c_ends_the_turn_and_keeps_the_session(tmp_path: Path) -> None:
    screen = Terminal("repl", "--no-preview", folder=tmp_path)
    screen.wait_for_toolbar("draw")
    screen.type("a cat on a blue background --num-steps 6")
    screen.wait_for("picture 1  ")
    screen.wait_for_toolbar("selected 1")
    screen.type("change the background to green --num-steps 1000")
    screen.wait_for("/1000")
    screen.child.sendintr()
    screen.wait_for("interrupted")
    screen.wait_for_toolbar("selected 1")
    screen.type("? which animal is this?")
    screen.wait_for("It is a cat.")
    screen.child.sendintr()  # at the prompt Ctrl-C only drops the line
    screen.type("/history")
    screen.wait_for("(cancelled)")
    assert screen.leave() == 0
    assert len(pictures(tmp_path)) == 1
    assert not list(tmp_path.glob("data/sessions/*/pictures/.*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_the_prompt_leaves(tmp_path: Path, number: signal.Signals) -> None:
    screen = fake_session(tmp_path)
    screen.wait_for_toolbar("draw")
    screen.type("a cat")
    screen.wait_for("picture 1  ")
    screen.wait_for_toolbar("selected 1")
    screen.child.sendintr()  # so that the signal below is not the first one
    screen.wait_for("›", count=3)
    screen.type("/set seed 5")  # its answer shows that the session has handled the first one
    screen.wait_for("seed = 5")
    screen.wait_for_toolbar("seed 5")
    os.kill(screen.child.pid, number)
    assert screen.end() == 0
    assert "Traceback" not in screen.raw
    resumed = fake_session(tmp_path, "--continue")
    resumed.wait_for("1 turn, 1 picture")
    resumed.wait_for_toolbar("selected 1")
    assert resumed.leave() == 0


@pytest.mark.parametrize(
    ("number", "module"), [(signal.SIGTERM, "sensenova_cli"), (signal.SIGHUP, "tests.cli.fake_program")]
)
def test_a_signal_in_a_turn_ends_it_and_leaves(tmp_path: Path, number: signal.Signals, module: str) -> None:
    screen = Terminal("repl", *QUICK, folder=tmp_path, module=module, FAKE_STEP_SECONDS="0.02")
    screen.wait_for_toolbar("draw")
    screen.type("a cat --num-steps 1000")
    screen.wait_for("/1000")
    os.kill(screen.child.pid, number)
    assert screen.end() == 0
    (file,) = tmp_path.glob("data/sessions/*/session.jsonl")
    assert json.loads(file.read_text().splitlines()[-1])["status"] == "cancelled"


def test_kill_9_in_the_middle_of_turn_five_loses_that_turn_alone(tmp_path: Path) -> None:
    screen = fake_session(tmp_path)
    screen.wait_for_toolbar("draw")
    for number, line in enumerate(("a cat", "make it black and white", "/generate a dog", "/generate a fox"), start=1):
        screen.type(line)
        screen.wait_for(f"picture {number}  ")
        screen.wait_for_toolbar(f"selected {number}")
    screen.type("/generate a pig --num-steps 1000")
    screen.wait_for("/1000")
    os.kill(screen.child.pid, signal.SIGKILL)
    screen.end()
    resumed = fake_session(tmp_path, "--continue")
    resumed.wait_for("4 turns, 4 pictures")
    resumed.wait_for_toolbar("selected 4")
    resumed.type("/history")
    resumed.wait_for("4. generate: a fox")
    assert "pig" not in resumed.text
    assert resumed.leave() == 0
    (file,) = tmp_path.glob("data/sessions/*/session.jsonl")
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_a_terminal_without_cursor_control(tmp_path: Path) -> None:
    screen = fake_session(tmp_path, TERM="dumb")
    screen.wait_for("draw ›")
    screen.type("a cat on a blue background")
    screen.wait_for("picture 1  ")
    screen.type("? which animal is this?")
    screen.wait_for("It is a cat.")
    assert screen.leave() == 0
    assert "\x1b" not in screen.raw


def test_completion_of_commands_and_settings(tmp_path: Path) -> None:
    screen = fake_session(tmp_path)
    screen.wait_for_toolbar("draw")
    screen.child.send("/hist\t")
    screen.wait_for("/history")
    screen.type("")
    screen.wait_for("no picture is selected")
    screen.child.send("/set num_st\t")
    screen.wait_for("/set num_steps")
    screen.type(" 3")
    screen.wait_for("num_steps = 3")
    assert screen.leave() == 0


def test_an_earlier_line_is_found_again(tmp_path: Path) -> None:
    screen = fake_session(tmp_path)
    screen.wait_for_toolbar("draw")
    screen.type("/set num_steps 5")
    screen.wait_for("num_steps = 5")
    screen.type("/profile")
    screen.wait_for("profile: none")
    screen.child.send("\x12")
    screen.wait_for("I-search")
    screen.child.send("num_st")
    screen.wait_for("/set num_steps 5", count=2)
    screen.type("")
    screen.type("")
    screen.wait_for("num_steps = 5", count=2)
    assert screen.leave() == 0


def test_a_conversation(tmp_path: Path) -> None:
    screen = Terminal("chat", folder=tmp_path)
    screen.wait_for_toolbar("chat")
    screen.type("Who are you?")
    screen.wait_for("I am the demo model of sensenova")
    screen.wait_for_toolbar("chat")
    screen.type("What is the capital of France?")
    screen.wait_for("Paris.")
    assert screen.leave() == 0
