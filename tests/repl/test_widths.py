"""A session on narrow and wide screens, compared with reviewed text.

After an intended change, run UPDATE_SCREENS=1 python -m pytest tests/repl/test_widths.py and review the difference.
"""

import os
import re
from pathlib import Path

import pytest

from tests.repl.terminal import Terminal

pytestmark = pytest.mark.slow
SCREENS = Path(__file__).parent / "screens"
ROWS = 220
TYPED = (
    ("a cat at dusk", "picture 1"),
    ("? which animal is this?", "It is a cat."),
    ("make it red --seed 7 -n 2", "pictures 2, 3"),
    ("/use 3", "selected: picture 3"),
    ("/ls", "edit of 1"),
    ("/show 1", "256x256 · seed 42"),
    ("!ls", "shell commands do not run here"),
    ("/set cfg_scale 3", "cfg_scale = 3"),
    ("/sett x", "did you mean /set?"),
    ("/history", "2. describe"),
    ("/help", "Keys:"),
)


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_the_screen_matches_the_reviewed_text(columns: int, tmp_path: Path) -> None:
    screen = Terminal(
        "repl",
        "--session",
        "day",
        "--no-preview",
        folder=tmp_path,
        columns=columns,
        rows=ROWS,
        module="tests.cli.fake_program",
        HOME=str(tmp_path),
    )
    screen.wait_for_toolbar("draw · demo")
    for number, (line, text) in enumerate(TYPED):
        screen.type(line)
        screen.wait_for(text)
        screen.wait_for_toolbar("edit · demo")
        screen.wait_for(" ›", count=number + 2)
    # Figures differ from run to run. Their length decides where a narrow screen breaks the line.
    text = re.sub(r"\d+\.\d s · [^›]*? on cpu", "FIGURES", screen.text)
    text = re.sub(r"loaded in [^›]*? on\s+cpu", "loaded in FIGURES", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    assert screen.leave() == 0
    file = SCREENS / f"{columns}.txt"
    if "UPDATE_SCREENS" in os.environ:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()
