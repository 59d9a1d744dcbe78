"""Streamed answers: Markdown on a screen, plain text elsewhere."""

import io
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pexpect
import pyte
import pytest
from rich.console import Console
from rich.live import Live

from model.events import Answer, TextToken
from model.requests import AnswerRequest
from sensenova_cli.render import markdown_answer as answer_module
from sensenova_cli.render.answer import PlainAnswer
from sensenova_cli.render.markdown_answer import MarkdownAnswer
from sensenova_cli.render.markdown_blocks import split_blocks
from sensenova_cli.render.turn_view import TurnView
from tests.cli.test_screen import environment
from tests.waiting import PATIENCE

MIXED = """# Cats

A cat is **small**, `furry` and, as everybody who has met one knows, hard to impress with words of any language.
## What they do
Intro:

1. sleep

   - on chairs

   - on keyboards

2. eat

2024 was a good year.

```python
def purr() -> None:

    print("- purr")
```

~~~~
```
not the end

~~~
~~~~

| cat | age |
| --- | --- |
| Tom | 3 |

> a quotation

> another one

---
* one

* two

12

The end"""
"""Every kind of block, each shorter than a screen."""


@pytest.mark.parametrize(
    ("text", "finished", "rest"),
    [
        ("", [], ""),
        ("one two", [], "one two"),
        ("one\ntwo\nthree", [], "one\ntwo\nthree"),
        ("one\n\ntwo", [], "one\n\ntwo"),
        ("one\n\ntwo\n", ["one\n\n"], "two\n"),
        ("one\n\n\n\ntwo\n\nthree\n", ["one\n\n\n\n", "two\n\n"], "three\n"),
        ("# One\ntwo\n", ["# One\n"], "two\n"),
        ("one\n===\ntwo\n", ["one\n===\n"], "two\n"),
        ("one\n\n---\ntwo\n", ["one\n\n", "---\n"], "two\n"),
        ("- a\n\n- b\n\n", [], "- a\n\n- b\n\n"),
        ("- a\n\n  more of a\n\n- b\n\nend\n", ["- a\n\n  more of a\n\n- b\n\n"], "end\n"),
        ("- a\n\n  - b\n\n        code\n\n- c\n\nend\n", ["- a\n\n  - b\n\n        code\n\n- c\n\n"], "end\n"),
        ("1. a\n\n2. b\n\nend\n", ["1. a\n\n2. b\n\n"], "end\n"),
        ("1. a\n\n**end**\n", ["1. a\n\n"], "**end**\n"),
        ("one\n- a\n\n- b\n\nend\n", ["one\n", "- a\n\n- b\n\n"], "end\n"),
        ("> a\n\n> b\n", ["> a\n\n"], "> b\n"),
        ("```\na\n\nb\n", [], "```\na\n\nb\n"),
        ("```\na\n\nb\n```\nend\n", ["```\na\n\nb\n```\n"], "end\n"),
        ("```\n~~~\n\nb\n```\nend\n", ["```\n~~~\n\nb\n```\n"], "end\n"),
        ("~~~ text\na\n\n```\n~~~\nend\n", ["~~~ text\na\n\n```\n~~~\n"], "end\n"),
        ("````\n```\n\nb\n```\n\nc\n````\nend\n", ["````\n```\n\nb\n```\n\nc\n````\n"], "end\n"),
        ("```\na\n\n`````\nend\n", ["```\na\n\n`````\n"], "end\n"),
        ("```\na\n\n``` b\n\nc\n", [], "```\na\n\n``` b\n\nc\n"),
        ("```one``` two\n\nthree\n", ["```one``` two\n\n"], "three\n"),
        ("- ```\n  a\n\n  b\n  ```\n\nend\n", ["- ```\n  a\n\n  b\n  ```\n\n"], "end\n"),
        ("| a | b |\n| - | - |\n| 1 | 2 |\n", [], "| a | b |\n| - | - |\n| 1 | 2 |\n"),
        ("| a |\n| - |\n| 1 |\n\nend\n", ["| a |\n| - |\n| 1 |\n\n"], "end\n"),
        ("\n\none\n\ntwo\n", ["\n\none\n\n"], "two\n"),
    ],
)
def test_a_block_is_finished_when_another_has_begun(text: str, finished: list[str], rest: str) -> None:
    assert split_blocks(text) == (finished, rest)


@pytest.mark.parametrize("beginning", ["2", "-", "*", "+", " ", "  ", "   more"])
def test_a_line_that_may_become_part_of_a_list_is_not_finished(beginning: str) -> None:
    assert split_blocks(f"1. a\n\n{beginning}") == ([], f"1. a\n\n{beginning}")


def test_finished_blocks_never_change() -> None:
    blocks, _ = split_blocks(MIXED)
    assert len(blocks) > 10
    for length in range(len(MIXED) + 1):
        finished, rest = split_blocks(MIXED[:length])
        assert finished == blocks[: len(finished)]
        assert "".join(finished) + rest == MIXED[:length]


class Screen:
    """A terminal that shows an answer.

    Attributes:
        written: all its input.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int, rows: int) -> None:
        self._file = io.StringIO()
        self._lives: list[Live] = []
        self._terminal = pyte.HistoryScreen(columns, rows, history=5000, ratio=0.5)
        self._terminal.set_mode(pyte.modes.LNM)  # a terminal's driver converts \n to \r\n
        lives = self._lives

        class RecordedLive(Live):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                lives.append(self)

        def console(**options: Any) -> Console:
            return Console(
                file=self._file, force_terminal=True, width=columns, height=rows, color_system="truecolor", **options
            )

        monkeypatch.setattr(answer_module, "Console", console)
        monkeypatch.setattr(answer_module, "Live", RecordedLive)

    def write(self, chunks: Iterable[str]) -> list[str]:
        """Write an answer, redraw after every chunk, and return all rows, including those that scrolled away."""
        written = MarkdownAnswer()
        for chunk in chunks:
            written.add(chunk)
            self._lives[-1].refresh()
        written.close()
        pyte.Stream(self._terminal).feed(self.written)
        columns = range(self._terminal.columns)
        gone = ["".join(row[column].data for column in columns) for row in self._terminal.history.top]
        return "\n".join(row.rstrip() for row in (*gone, *self._terminal.display)).rstrip("\n").split("\n")

    def echo(self, text: str) -> None:
        """Show text that the answer has not written."""
        self._file.write(text)

    @property
    def written(self) -> str:
        return self._file.getvalue()


Shows = Callable[..., list[str]]


@pytest.fixture
def shows(monkeypatch: pytest.MonkeyPatch) -> Shows:
    """Return a function that writes chunks to a new screen and returns its rows."""

    def show(chunks: Sequence[str], columns: int = 80, rows: int = 24) -> list[str]:
        return Screen(monkeypatch, columns, rows).write(chunks)

    return show


def pieces(text: str, longest: int) -> list[str]:
    """Split the text into pieces of random length, at most `longest` letters."""
    chance = random.Random(longest)
    found = []
    while text:
        length = chance.randint(1, longest)
        found.append(text[:length])
        text = text[length:]
    return found


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("longest", [1, 4, 30, 200])
def test_an_answer_looks_the_same_for_any_tokens(shows: Shows, columns: int, longest: int) -> None:
    whole = shows([MIXED], columns)
    assert shows(pieces(MIXED, longest), columns) == whole
    text = "\n".join(whole)
    for words in ("Cats", "What they do", "on keyboards", 'print("- purr")', "not the end", "Tom", "another one"):
        assert text.count(words) == 1
    assert "**" not in text
    assert whole[-1] == "The end"


def test_an_answer_looks_the_same_with_and_without_an_empty_line_at_its_end(shows: Shows) -> None:
    text = "one\n\n---\n## two"
    assert shows([text]) == shows([text + "\n"]) == shows([text + "\n\n"])


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize(
    "separator", ["\n\n", "\n\n- ", "\n"], ids=["paragraphs", "one list", "one paragraph without an empty line"]
)
def test_an_answer_three_times_taller_than_the_screen_is_neither_repeated_nor_cut(
    shows: Shows, columns: int, separator: str
) -> None:
    rows = 12
    words = [f"word{index:03}" for index in range(rows * 3 * columns // 8)]
    text = separator.join(" ".join(words[begin : begin + 9]) for begin in range(0, len(words), 9))
    shown = shows(pieces(text, 20), columns, rows)
    assert len(shown) >= 3 * rows - 3
    assert [word for word in " ".join(shown).split() if word.startswith("word")] == words


def test_a_fence_taller_than_the_screen_is_neither_repeated_nor_cut(shows: Shows) -> None:
    lines = [f"line{index:03}" for index in range(40)]
    shown = shows(pieces("```\n" + "\n\n".join(lines) + "\n```\n", 5), 40, 10)
    assert " ".join(shown).split() == lines


def test_html_and_names_of_pictures_are_shown_as_text(shows: Shows) -> None:
    text = "As <image1> shows, a <b>kite</b>.\n\n<image2>\n\n<pre>\n\nflies\n\n</pre>\n"
    expected = ["As <image1> shows, a <b>kite</b>.", "<image2>", "<pre>", "flies", "</pre>"]
    for longest in (1, 200):
        assert [row for row in shows(pieces(text, longest)) if row] == expected


def test_ctrl_c_on_a_screen_does_not_repeat_the_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, 40, 24)

    def chunks() -> Iterable[str]:
        yield "# Kites\n\nA kite "
        screen.echo("^C\r\x1b[0m\x1b[2Kstopping after this step")  # as the terminal and SignalStop do
        yield "flies"

    assert [row.strip() for row in screen.write(chunks()) if row] == ["Kites", "A kite flies"]


def test_a_screen_of_few_rows_is_enough(shows: Shows) -> None:
    assert shows(pieces("one two three four five six seven\n\neight", 3), 8, 2) == shows(
        ["one two three four five six seven\n\neight"], 8, 50
    )


def test_only_the_end_of_unfinished_blocks_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, 40, 24)
    screen.write(f"{index} times\n\n" for index in range(60))
    assert 1 < screen.written.count("17 times") < 8  # while it is written, and when the next block has begun


HOSTILE = "safe\x1b[2J\x1b]0;title\x07 \x9b31mtext\x08\x7f\r\n\n&#27;[2J&#13;&#7; `\x1b[5m`\n\n```\n\x1b[H\n```\nend"


def test_control_characters_of_an_answer_never_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, 80, 24)
    shown = "\n".join(screen.write(pieces(HOSTILE, 3)))
    for sequence in ("\x1b[2J", "\x1b]0", "\x07", "\x9b", "\x08", "\x7f", "\x1b[5m", "\x1b[H"):
        assert sequence not in screen.written
    assert "safe[2J]0;title 31mtext" in shown
    assert shown.endswith("end")


def test_control_characters_of_plain_text_never_reach_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    plain = PlainAnswer()
    for piece in pieces(HOSTILE, 3):
        plain.add(piece)
    plain.close()
    out = capsys.readouterr().out
    assert not [letter for letter in out if (ord(letter) < 32 and letter != "\n") or 127 <= ord(letter) < 160]
    assert out.startswith("safe[2J") and out.endswith("end\n")


def test_a_pipe_gets_plain_text_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    view = TurnView(quiet=True, stream_answers=True)
    with view.showing(AnswerRequest("x")):
        for piece in pieces(MIXED, 5):
            view.event(TextToken(0, piece))
        view.event(Answer(MIXED, (), "end"))
    assert capsys.readouterr().out == MIXED + "\n"


PROGRAM = """
import sys, time
from sensenova_cli.render.markdown_answer import MarkdownAnswer
answer = MarkdownAnswer()
for word in sys.argv[1].split(" "):
    answer.add(word + " ")
    time.sleep(0.02)
answer.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 80])
def test_a_real_terminal_shows_the_whole_answer_once(columns: int) -> None:
    words = [f"word{index:03}" for index in range(120)]
    text = "\n\n".join(" ".join(words[begin : begin + 12]) for begin in range(0, len(words), 12))
    child = pexpect.spawn(
        sys.executable,
        ["-c", PROGRAM, text],
        env=environment(),
        timeout=PATIENCE,
        encoding="utf-8",
        dimensions=(8, columns),
    )
    child.expect(pexpect.EOF)
    screen = pyte.HistoryScreen(columns, 8, history=5000, ratio=0.5)
    pyte.Stream(screen).feed(str(child.before))
    gone = ["".join(row[column].data for column in range(columns)) for row in screen.history.top]
    assert " ".join((*gone, *screen.display)).split() == words
