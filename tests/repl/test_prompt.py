"""The prompt on a terminal: words and keys that people try, short names, small pictures, and results for a program."""

import os
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.repl.terminal import Terminal

pytestmark = pytest.mark.slow
ROWS = 24


def session(folder: Path, *words: str, rows: int = ROWS, **variables: str) -> Terminal:
    """Start a session on the fake engine, whose pictures have one color each."""
    fake = {"module": "tests.cli.fake_program", "FAKE_PREVIEW": "gray", **variables}
    screen = Terminal("repl", "--num-steps", "2", *words, folder=folder, rows=rows, HOME=str(folder), **fake)
    screen.wait_for_toolbar("draw" if "--continue" not in words else "edit")
    return screen


def run(screen: Terminal, line: str, awaited: str, count: int = 1) -> None:
    """Type a line, and wait for a text and the next prompt."""
    screen.type(line)
    screen.wait_for(awaited, count=count)
    screen.wait_for_prompt()


def last_picture(screen: Terminal) -> tuple[int, int]:
    """Return the first row of the last picture on the screen, and the row below it."""
    rows = [y for y, line in enumerate(screen.screen.display) if "▀" in line]
    first = end = rows[-1]
    while first - 1 in rows:
        first -= 1
    return first, end + 1


def test_words_that_help_clear_and_leave(tmp_path: Path) -> None:
    screen = session(tmp_path, rows=60)
    run(screen, "help", "Keys: Tab completes")
    screen.type("clear")
    while "Keys:" in "\n".join(screen.screen.display):  # a terminal that is never cleared ends in a timeout
        screen.read()
        assert screen.child.isalive()
    run(screen, "?", "Keys: Tab completes")
    run(screen, "/?", "Keys: Tab completes", count=2)
    run(screen, "!ls", "shell commands do not run here")
    assert "Ctrl-Z goes to the shell, and fg comes back" in screen.text
    run(screen, "/generate help", "picture 1  001-help-42.png")
    screen.type("exit")
    assert screen.end() == 0


def test_a_picture_takes_half_of_the_rows_and_its_prompt_stays_in_sight(tmp_path: Path) -> None:
    screen = session(tmp_path)
    for number, prompt in enumerate(("a cat at dusk", "make it red", "/generate a dog -n 4"), start=1):
        run(screen, prompt, f"picture {number}  ")
        first, end = last_picture(screen)
        assert end - first <= ROWS // 2
        assert end - first >= ROWS // 2 - 1 or "-n" in prompt  # a sheet may be wide instead of high
        above = "\n".join(screen.screen.display[:first])
        assert f"› {prompt}" in above and f"picture {number}  " in above
    assert "pictures 3, 4, 5, 6 · a dog · 3 is selected; /use N selects another" in screen.screen.display[end]
    for line, name in (("/use 5", "picture 5 (a dog)"), ("/undo 2", "picture 2 (make it red)")):
        run(screen, line, f"selected: {name}")
        first, end = last_picture(screen)
        assert 4 <= end - first <= ROWS // 3
        assert f"selected: {name}" in screen.screen.display[end]
    assert screen.leave() == 0

    screen = session(tmp_path, "--continue")
    screen.wait_for("selected: picture 2 (make it red)")
    first, end = last_picture(screen)
    assert 4 <= end - first <= ROWS // 3
    assert screen.leave() == 0


def test_names_are_short_and_the_end_tells_the_folder(tmp_path: Path) -> None:
    screen = session(tmp_path)
    run(screen, "a cat at dusk", "picture 1  001-a-cat-at-dusk-42.png")
    assert "sessions/" not in screen.text
    assert "\x1b]8;" not in screen.raw
    assert screen.leave() == 0
    (folder,) = tmp_path.glob("data/sessions/*")
    end = " ".join(screen.text.split())
    assert f"session {folder.name} saved, pictures in ~/data/sessions/{folder.name}/pictures" in end
    assert "continue it with: sensenova repl --continue" in screen.text


def test_names_are_links_if_the_terminal_has_links(tmp_path: Path) -> None:
    screen = session(tmp_path, VTE_VERSION="7600", SSH_CONNECTION="")
    run(screen, "a cat", "picture 1  001-a-cat-42.png")
    (file,) = tmp_path.glob("data/sessions/*/pictures/*.png")
    assert re.search(rf"\x1b]8;[^;]*;{re.escape(file.as_uri())}\x1b\\001-a-cat-42\.png", screen.raw)
    assert screen.leave() == 0


def test_pictures_are_saved_in_the_format_of_their_name_and_several_turns_are_undone(tmp_path: Path) -> None:
    screen = session(tmp_path, "--no-preview")
    for number, line in enumerate(("a cat", "make it red", "make it blue"), start=1):
        run(screen, line, f"picture {number}  ")
    run(screen, "/save cat.jpg", "cat.jpg")
    with Image.open(tmp_path / "cat.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (256, 256))
    run(screen, "/save cat.gif", "cat.gif does not end in .png, .jpg, .jpeg or .webp")
    assert not (tmp_path / "cat.gif").exists()
    run(screen, "/undo 2", "selected: picture 1 (a cat)")
    run(screen, "/undo 2", "there is only 1 turn to undo")
    run(screen, "/redo 2", "selected: picture 3 (make it blue)")
    run(screen, "/undo x", "'x' is not a number of turns")
    assert screen.leave() == 0


def test_ctrl_z_goes_to_the_shell_and_fg_comes_back(tmp_path: Path) -> None:
    line = "PROGRAM repl --no-preview --num-steps 300"
    fake = {"module": "tests.cli.fake_program", "FAKE_STEP_SECONDS": "0.02", "PS1": "SHELL "}
    screen = Terminal(folder=tmp_path, shell=line, **fake)
    screen.wait_for_toolbar("draw · demo")
    screen.child.send("\x1a")
    screen.wait_for("Stopped")
    screen.type("echo 6*7 = $((6*7)); fg")
    screen.wait_for("6*7 = 42")
    screen.wait_for_prompt()
    screen.type("a cat")
    screen.wait_for("/300")
    screen.child.send("\x1a")  # in the middle of a turn
    screen.wait_for("Stopped", count=2)
    screen.type("echo 6*8 = $((6*8)); fg")
    screen.wait_for("6*8 = 48")
    screen.wait_for("picture 1  001-a-cat-42.png")
    screen.wait_for_prompt()
    screen.child.send("\x04")
    screen.wait_for("continue it with")
    screen.type("exit")
    assert screen.end() == 0


@pytest.mark.parametrize("pipe", ["| tee log", "|& tee log"])
def test_a_session_whose_results_go_to_a_program_has_a_prompt(tmp_path: Path, pipe: str) -> None:
    line = f"PROGRAM repl --no-preview --num-steps 2 {pipe}"
    screen = Terminal(folder=tmp_path, shell=line, module="tests.cli.fake_program", PS1="SHELL ")
    screen.wait_for("draw ›")
    screen.type("a cat")
    screen.wait_for("001-a-cat-42.png")
    screen.wait_for("edit ›")
    screen.type("? which animal is this?")
    screen.wait_for("edit ›", count=2)  # not for the answer: `tee` may write it in pieces, between our lines on stderr
    screen.type("exit")
    screen.wait_for("SHELL", count=2)
    screen.type("exit")
    assert screen.end() == 0
    (picture,) = tmp_path.glob("data/sessions/*/pictures/*.png")
    log = (tmp_path / "log").read_text().splitlines()
    if pipe == "| tee log":
        assert log == [str(picture), "It is a cat."]
    else:  # the log has the prompts, but not the typed lines that follow them
        assert any(line.endswith(str(picture)) for line in log)
        assert any(line.endswith("It is a cat.") for line in log)


def test_pictures_are_listed_shown_opened_and_copied(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("xdg-open", "open", "xclip"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/used\ncat > /dev/null\n')
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    screen = session(tmp_path, "--no-preview", PATH=path, DISPLAY=":9", WAYLAND_DISPLAY="")
    run(screen, "/ls", "there are no pictures yet")
    run(screen, "a cat at dusk", "picture 1  ")
    run(screen, "make it red --seed 7", "picture 2  ")
    run(screen, "/ls", "1  256x256  seed 42  generate: a cat at dusk")
    assert re.search(r"^› 2  256x256  seed 7   edit of 1: make it red$", screen.text, re.MULTILINE)
    run(screen, "/show 1", "generate: a cat at dusk · 256x256 · seed 42")
    screen.wait_for_toolbar("selected 2")
    run(screen, "/open", "opened ~/data/sessions/")
    run(screen, "/open folder", "/pictures\n")
    run(screen, "/copy 1", "copied picture 1")
    run(screen, "/copy answer", "there are no answers yet")
    run(screen, "/open 9", "there is no picture 9")
    assert screen.leave() == 0
    pictures = sorted(tmp_path.glob("data/sessions/*/pictures/*.png"))
    used = (tmp_path / "used").read_text().splitlines()
    assert f"xdg-open {pictures[1]}" in used and f"xdg-open {pictures[1].parent}" in used
    assert "xclip -selection clipboard -t image/png" in used


def test_without_a_desktop_the_path_is_copied_by_the_terminal(tmp_path: Path) -> None:
    screen = session(tmp_path, "--no-preview", DISPLAY="", WAYLAND_DISPLAY="")
    run(screen, "a cat", "picture 1  ")
    run(screen, "/copy", "copied the path of picture 1")
    assert "\x1b]52;c;" in screen.raw
    run(screen, "/open", "no desktop was found that could open the picture")
    assert screen.leave() == 0


def test_a_new_session_and_a_failed_load_keep_the_model_and_the_settings(tmp_path: Path) -> None:
    screen = session(tmp_path, "--no-preview")
    run(screen, "/set num_steps 3", "num_steps = 3")
    run(screen, "a cat", "picture 1  ")
    run(screen, "/rename my cats", "this session is named my cats")
    run(screen, "/new dogs", "this is a new session; the session my cats is saved")
    screen.wait_for_toolbar("draw · demo · 256x256 · 3 steps")
    run(screen, "a dog", "picture 1  001-a-dog-42.png")
    run(screen, "/new my cats", "there is a session named my cats already")
    run(screen, "/model ./gone", "there is no checkpoint folder ./gone")
    assert "the model is still demo" in " ".join(screen.text.split())
    run(screen, "/again", "picture 2  ")
    assert screen.leave() == 0
    assert "session dogs saved" in screen.text
    assert sorted(path.name for path in tmp_path.glob("data/sessions/*")) == ["dogs", "my cats"]
    assert screen.text.count("demo loaded in") == 1


def test_a_conversation_has_its_own_greeting(tmp_path: Path) -> None:
    screen = Terminal("chat", folder=tmp_path, module="tests.cli.fake_program")
    screen.wait_for_toolbar("chat · demo")
    assert "type a message, or /help; /generate PROMPT makes a picture" in screen.text
    assert "what to draw" not in screen.text
    assert "steps" not in screen.toolbar
    run(screen, "help", "A message is answered.")
    assert screen.leave() == 0


def test_keys_during_a_turn_wait_for_the_next_prompt(tmp_path: Path) -> None:
    """They are not echoed: Enter would move the cursor, and a row of the progress would stay on the screen."""
    screen = session(tmp_path, "--num-steps", "8", FAKE_STEP_SECONDS="0.3")
    screen.type("a cat")
    screen.wait_for("/8")
    screen.type("/ls")
    screen.type("/rename typed early")
    screen.wait_for("this session is named typed early")
    screen.wait_for_prompt()
    assert [line for line in screen.lines if "/ls" in line or "/rename" in line] == [
        "edit › /ls",
        "edit › /rename typed early",
    ]
    assert "━" not in screen.text
    assert screen.leave() == 0


def test_a_second_ctrl_c_leaves_a_terminal_that_echoes(tmp_path: Path) -> None:
    shell = "PROGRAM repl --num-steps 3; stty -a"
    screen = Terminal(
        folder=tmp_path, module="tests.cli.fake_program", shell=shell, FAKE_STEP_SECONDS="600", HOME=str(tmp_path)
    )
    screen.wait_for_toolbar("draw")
    screen.type("a cat")
    screen.wait_for("a step has begun")
    screen.child.send("\x03")
    screen.wait_for("stopping after this step")
    screen.child.send("\x03")
    screen.wait_for("icanon")
    assert re.search(r"(?<!-)\becho\b", screen.text)
