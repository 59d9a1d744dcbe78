"""What goes where when stderr is a screen, and stdout is one or not."""

import os
import sys
from pathlib import Path

import pexpect
import pyte
import pytest

from tests.cli.harness import REPOSITORY
from tests.cli.test_preview import pixels
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow
PROGRAM = f"{sys.executable} -m tests.cli.fake_program"
OF_TERMINALS = ("COLUMNS", "LINES", "TMUX", "STY", "ZELLIJ", "TERM_PROGRAM", "LC_TERMINAL", "KITTY_WINDOW_ID")
"""Variables that say on what the tests themselves run."""


def environment(**variables: str) -> dict[str, str]:
    """That of a terminal with 24-bit colors and no protocol for pictures."""
    inherited = {name: value for name, value in os.environ.items() if name not in OF_TERMINALS}
    fixed = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "FAKE_PREVIEW": "red"}
    return {**inherited, "PYTHONPATH": str(REPOSITORY), **fixed, **variables}


def run_on_a_screen(command: str, width: int = 100, **variables: str) -> str:
    """A shell command line on a terminal; what the terminal got."""
    return str(
        pexpect.run(
            f"bash -c {command!r}",
            env=environment(**variables),
            timeout=PATIENCE,
            encoding="utf-8",
            dimensions=(24, width),
            withexitstatus=False,
        )
    )


def test_think_text_for_a_file_goes_into_the_file(home: Path) -> None:
    screen = run_on_a_screen(f"{PROGRAM} generate x --think --print-think -o a.png > out.txt")
    assert (home / "out.txt").read_text() == "A cat sits.\nIt purrs.\na.png\n"
    assert "purrs" not in screen
    assert "thought for 0.5 s (4 tokens)" in screen


def test_a_name_with_brackets_is_shown_as_it_is(home: Path) -> None:
    Path("b[").mkdir()
    Path(os.environ["SENSENOVA_MODEL"]).rename("b[/x]")
    screen = run_on_a_screen(f"{PROGRAM} generate x --model b[/x] -o a.png")
    assert "b[/x]" in screen
    assert (home / "a.png").exists()


@pytest.mark.parametrize("width", [40, 80])
def test_the_picture_forms_and_stands_below_its_path_in_the_end(home: Path, width: int) -> None:
    text = run_on_a_screen(f"{PROGRAM} generate x -o a.png --size 64x64", width, FAKE_STEP_SECONDS="0.3")
    assert "48;2;255;0;0m▀" in text, "no preview was shown"
    screen = pyte.Screen(width, 24)
    pyte.Stream(screen).feed(text)
    side = min(width, 42)
    assert pixels(screen) == [[("2a0104", "2a0104")] * side] * (side // 2)  # seed 42, one letter, 4 steps
    rows = [line.rstrip() for line in screen.display]
    at = rows.index("▀" * side)
    assert rows[at - 1] == "a.png"
    assert rows[at + side // 2].startswith("3.0 s · 4 steps")
    assert "/4" not in "".join(rows), "a progress bar was left"


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("ending", ["", "--think"])
def test_an_interrupted_picture_leaves_no_trace(home: Path, width: int, ending: str) -> None:
    child = pexpect.spawn(
        "bash",
        ["-c", f"{PROGRAM} generate x -o a.png --num-steps 100 {ending}"],
        env=environment(FAKE_STEP_SECONDS="0.95"),  # from 1 s, steps announce themselves
        dimensions=(24, width),
        encoding="utf-8",
        timeout=PATIENCE,
    )
    child.expect("thinking: 2" if ending else "1/100")
    before = child.before + child.after
    while not ending and child.expect([pexpect.TIMEOUT, "(?s).+"], timeout=0.5):  # until it is drawn to its end
        before += child.before + child.after
    child.sendintr()
    child.expect("stopping after this step")
    before += child.before + child.after
    child.expect(pexpect.EOF)
    screen = pyte.Screen(width, 24)
    pyte.Stream(screen).feed(before + child.before)
    rows = [line.rstrip() for line in screen.display if line.strip()]
    finished = ["A cat sits."] if ending else []
    loaded = 2 if width == 40 else 1  # rows of the line about loading
    assert "loaded in" in rows[0] and rows[loaded:] == [*finished, "interrupted"]


def test_each_of_several_pictures_is_shown(home: Path) -> None:
    text = run_on_a_screen(f"{PROGRAM} generate x -n 2 -o a.png --size 64x64")
    assert "38;2;42;1;4;" in text
    assert "38;2;43;1;4;" in text


def test_an_edit_is_shown(home: Path) -> None:
    text = run_on_a_screen(
        f"{PROGRAM} generate x -o a.png --no-preview; {PROGRAM} edit --image a.png y --seed 7 -o b.png"
    )
    assert "38;2;42;1;4;" not in text
    assert "38;2;7;1;4;" in text


def test_the_protocol_of_the_terminal_is_used(home: Path) -> None:
    text = run_on_a_screen(f"{PROGRAM} generate x -o a.png", TERM="xterm-kitty")
    assert text.count("\x1b_Ga=T") == 1


def test_paths_in_a_file_leave_the_preview_on_the_screen(home: Path) -> None:
    text = run_on_a_screen(f"{PROGRAM} generate x -o a.png > out.txt")
    assert (home / "out.txt").read_text() == "a.png\n"
    assert "▀" in text


@pytest.mark.parametrize(
    "ending",
    ["--no-preview", "--preview off", "-q", "--json", "--no-color", "2> err.txt", "2> err.txt > out.txt"],
)
def test_nothing_is_shown_where_it_is_not_wanted(home: Path, ending: str) -> None:
    """Nor is a preview asked for, which the engine here would refuse to make."""
    text = run_on_a_screen(f"unset FAKE_PREVIEW; {PROGRAM} generate x -o a.png {ending}; echo code $?")
    assert "code 0" in text
    for file in home.glob("*.txt"):
        text += file.read_text(encoding="utf-8")
    assert "▀" not in text
    assert (home / "a.png").exists()


def test_no_preview_overrules_the_settings_file(home: Path) -> None:
    (home / "sensenova.toml").write_text('preview = "kitty"\n')
    assert "\x1b_G" in run_on_a_screen(f"{PROGRAM} generate x -o a.png")
    assert "\x1b_G" not in run_on_a_screen(f"{PROGRAM} generate x -o b.png --no-preview")


@pytest.mark.parametrize("ending", ["", "--print-think"])
def test_an_interleaved_answer_shows_text_and_pictures_in_order(home: Path, ending: str) -> None:
    text = run_on_a_screen(f"{PROGRAM} interleave tale --num-steps 2 {ending}", FAKE_STEP_SECONDS="0.15")
    assert "picture 2 of the answer" in text, "no progress was shown"
    screen = pyte.Screen(100, 200)
    pyte.Stream(screen).feed(text)
    rows = [line.strip() for line in screen.display if line.strip()]
    shown = [row for row in rows if not row.startswith(("▀", "loading")) and " loaded in " not in row]
    thought = [] if ending else ["thought for 4 tokens, 0.5 s"]
    assert shown[:-1] == [
        "A kite flies.", *thought, "The kite", "Once a kite.", "tale-42-0.png", "It flew.", "tale-43-1.png", "The end."
    ]  # fmt: skip
    for path in ("tale-42-0.png", "tale-43-1.png"):
        assert rows[rows.index(path) + 1].startswith("▀"), "the picture is not below its path"


def test_several_pictures_are_shown_as_one_numbered_sheet(home: Path) -> None:
    text = run_on_a_screen(f"{PROGRAM} generate x -n 3 -o a.png --size 64x64", 100)
    screen = pyte.Screen(100, 24)
    pyte.Stream(screen).feed(text)
    rows = [line.rstrip() for line in screen.display]
    first = next(number for number, line in enumerate(rows) if line.startswith("▀"))
    assert rows[first - 3 : first] == ["a-0.png", "a-1.png", "a-2.png"]
    dots = pixels(screen)
    assert {upper for upper, _ in dots[-1]} >= {"2a0104", "2b0104", "2c0104"}, "they are not side by side"
    # A number is white on a black box in the corner of each picture.
    assert sum(upper == "ffffff" or lower == "ffffff" for row in dots for upper, lower in row) > 20


def test_a_notice_below_an_interleaved_text_does_not_repeat_it(home: Path) -> None:
    text = run_on_a_screen(f"{PROGRAM} interleave tale --no-think --max-tokens 2")
    screen = pyte.Screen(100, 24)
    pyte.Stream(screen).feed(text)
    rows = [line.strip() for line in screen.display if line.strip()]
    at = rows.index("The kite")
    assert rows[at + 1 : at + 3] == ["Once", "note: the answer has no picture: the model opened none"]
    assert rows.count("Once") == 1
