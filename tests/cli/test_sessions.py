"""`sensenova sessions`: list, show, export and rm."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pexpect
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from rich.cells import cell_len

from sensenova_cli.sessions.entries import PictureTurn, Set, Stage, Undo, Use
from sensenova_cli.sessions.session import Session
from sensenova_cli.sessions.store import sessions_folder
from tests.cli.harness import REPOSITORY, Program
from tests.repl.sessions import MODEL, ask, draw
from tests.waiting import PATIENCE

NASTY = '<script>alert(1)</script> & "quoted" <img src=x onerror=alert(2)> `code` *stars* \x1b[31m'
ANSWER = (
    "# A heading\n\nSome **bold** words, <b onclick=x>raw</b>, [a link](javascript:alert(3)), "
    "![track](http://evil.example/x.png)\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n"
    "```html\n<p>kept</p>\n```\n\n<iframe src=x></iframe>\n\n```\nnever closed <script>\n"
)


def cats(name: str = "cats") -> Path:
    """Write a session with a staged JPEG, an edit, an answer, a failure and an undo. Its texts contain HTML."""
    Image.new("RGB", (40, 20), "teal").save("outside.jpg")
    Image.new("RGB", (24, 12), "navy").save("outside.tif")
    with Session.open(name, MODEL) as session:
        draw(session, "A cute cat", 7, 8, think_text=f"Think {NASTY}")
        session.append(Use(picture=2))
        session.append(Set(settings={"num_steps": 4}))
        session.append(
            Stage(staged=(session.import_picture("outside.jpg").number, session.import_picture("outside.tif").number))
        )
        draw(session, f"- {NASTY}\nsecond line", 9, kind="edit", inputs=(2, 3, 4), typed={"size": "16:9"})
        ask(session, f"What is it? {NASTY}", ANSWER, inputs=(5,))
        session.append(Undo())
        failed = PictureTurn(turn=4, kind="generate", prompt="too big", model=MODEL, status="failed", reason="full")
        session.append(failed)
        assert session.folder is not None
        return session.folder


def set_dates(folder: Path, when: datetime) -> None:
    """Set the time of every line to `when`."""
    file = folder / "session.jsonl"
    lines = [json.loads(line) | {"when": when.isoformat()} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


# list


def test_list_without_sessions(program: Program) -> None:
    outcome = program("sessions", "list")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "note: there are no sessions yet\n")


def test_list_is_newest_first_with_counts_model_and_first_prompt(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 7, 31, 12, 0).astimezone()
    for days, name in enumerate(("new", "older", "oldest")):
        with Session.open(name, MODEL) as session:
            draw(session, f"A {name} cat", 1, 2)
            ask(session, "And?")
        set_dates(sessions_folder() / name, now - timedelta(days=days))
    monkeypatch.setenv("COLUMNS", "200")
    head, *rows = program("sessions", "list").stdout.splitlines()
    assert re.split(r"\s{2,}", head.strip()) == ["name", "used", "turns", "pictures", "first prompt", "model"]
    cells = [re.split(r"\s{2,}", row.strip()) for row in rows]
    assert [row[0] for row in cells] == ["new", "older", "oldest"]
    assert cells[0][1:] == ["2026-07-31 12:00", "2", "2", "A new cat", "SenseNova-U1-8B-MoT"]


def test_list_as_json_is_one_object_a_line(program: Program) -> None:
    cats()
    with Session.open("dogs", MODEL) as session:
        ask(session, "A dog?")
        rows = [json.loads(line) for line in program("sessions", "list", "--json").stdout.splitlines()]
    assert [(row["name"], row["turns"], row["pictures"], row["in_use"]) for row in rows] == [
        ("dogs", 1, 0, True),
        ("cats", 4, 5, False),
    ]
    assert (rows[1]["model"], rows[1]["first_prompt"]) == (MODEL, "A cute cat")
    assert rows[1]["folder"] == str(sessions_folder() / "cats")
    assert datetime.fromisoformat(rows[1]["created"]) <= datetime.fromisoformat(rows[1]["used"])


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_list_fits_the_terminal(columns: int, home: Path) -> None:
    """Checks a real terminal of that width. Some names and prompts have characters of two columns."""
    names = ["cats", "2026-07-31-a-cute-cat-sitting-on", "可爱的猫" * 8]
    for name in names:
        with Session.open(name, MODEL) as session:
            draw(session, "A cat reading 一本书 under a tree, " * 20)
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "sensenova_cli", "sessions", "list", "--no-color"],
        dimensions=(24, columns),
        env={**environment, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"},  # type: ignore[arg-type]
        encoding="utf-8",
        timeout=PATIENCE,
    )
    lines = re.sub(r"\x1b\[\d*m|\r", "", terminal.read()).splitlines()
    assert max(map(cell_len, lines)) <= columns
    # Names are complete, on one row or several.
    rows = [line.split("  ")[0].strip() for line in lines[1:]]
    assert all(name in "".join(rows) for name in names)
    assert ("first prompt" in lines[0], "model" in lines[0]) == (columns >= 80, columns == 200)


def test_list_into_a_pipe_is_not_cut(home: Path) -> None:
    with Session.open("n" * 150, MODEL) as session:
        draw(session, "A cat reading a book under a tree in the evening, and the moon")
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-m", "sensenova_cli", "sessions", "list"],
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "n" * 150 in done.stdout
    assert "evening, and the moon  SenseNova-U1-8B-MoT" in done.stdout


def test_list_shows_the_good_sessions_beside_damaged_and_newer_ones(program: Program) -> None:
    for name in ("good", "hurt", "newer"):
        cats(name)
    hurt, newer = (sessions_folder() / name / "session.jsonl" for name in ("hurt", "newer"))
    hurt.write_bytes(hurt.read_bytes() + b"scribble\n")
    newer.write_bytes(newer.read_bytes().replace(b'"format": 2', b'"format": 3'))
    (sessions_folder() / "no session").mkdir()
    outcome = program("sessions", "list")
    assert outcome.code == 2
    assert sorted(row.split()[0] for row in outcome.stdout.splitlines()) == ["good", "hurt", "name"]
    assert "parts of hurt are damaged" in outcome.stderr
    assert "the session newer was written by a newer version" in outcome.stderr


def test_list_of_an_unreadable_folder(program: Program) -> None:
    sessions_folder().parent.mkdir()
    sessions_folder().write_text("a file")
    outcome = program("sessions", "list")
    assert outcome.code == 2
    assert "cannot be read" in outcome.stderr
    assert "SENSENOVA_DATA_DIR" in outcome.stderr


# show


def test_show_lists_every_entry(program: Program) -> None:
    folder = cats()
    outcome = program("sessions", "show", "cats")
    assert (outcome.code, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert lines[0] == "cats: 4 turns, 5 pictures"
    pictures = folder / "pictures"
    for line in (
        "1 generate: A cute cat",
        f"  picture 1: {pictures}/001-a-cute-cat-7.png (64x32, seed 7)",
        "- selected picture 2",
        "- set num_steps = 4",
        "- staged pictures 3, 4",
        f"  picture 3: {pictures}/003-outside.jpeg (40x20, copy of {Path('outside.jpg').absolute()})",
        '  (about pictures 2, 3, 4, size = "16:9", 1.5 s)',
        "  second line",
        "  # A heading",
        "- undo",
        "4 generate: too big",
        "  (failed: full)",
    ):
        assert line in lines
    assert "\x1b" not in outcome.stdout


def test_show_as_json_holds_every_entry(program: Program) -> None:
    cats()
    content = json.loads(program("sessions", "show", "cats", "--json").stdout)
    kinds = ["opened", "generate", "use", "set", "stage", "edit", "describe", "undo", "generate"]
    assert [entry["kind"] for entry in content["entries"]] == kinds
    assert content["entries"][6]["answer"] == ANSWER
    assert (content["name"], content["turns"], content["problems"]) == ("cats", 4, [])


def test_show_names_damaged_lines_and_missing_pictures(program: Program) -> None:
    folder = cats()
    with (folder / "session.jsonl").open("a") as file:
        file.write("scribble\n")
    (folder / "pictures" / "001-a-cute-cat-7.png").unlink()
    outcome = program("sessions", "show", "cats")
    assert outcome.code == 0
    assert f"{folder}/session.jsonl:10: is not JSON" in outcome.stderr
    assert f"{folder}/pictures/001-a-cute-cat-7.png: picture 1 is missing" in outcome.stderr
    assert len(json.loads(program("sessions", "show", "cats", "--json").stdout)["problems"]) == 2


@pytest.mark.parametrize("command", [["show"], ["export"], ["rm", "-y"]])
def test_an_unknown_name(program: Program, command: list[str]) -> None:
    cats()
    for name, hint in (("cast", "did you mean cats?"), ("../cats", "did you mean cats?"), ("xyz", "sessions list")):
        outcome = program("sessions", *command, name)
        assert outcome.code == 2
        assert f"no session named '{name}'" in outcome.stderr
        assert hint in outcome.stderr


# export


ANSWER_TAGS = {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "pre", "code", "h1"}
"""Tags of the HTML that ANSWER becomes."""
HTML_TAGS = ANSWER_TAGS | {"html", "head", "meta", "title", "style", "body", "h2", "section", "div", "a"}
HTML_TAGS |= {"figure", "img", "figcaption", "details", "summary"}
MARKDOWN_TAGS = ANSWER_TAGS | {"h2", "br", "img", "em", "details", "summary", "blockquote"}


LIKE_MARKDOWN = r"""
# no heading
1. no list
2) none
- none
+ none
* none
> no quotation
===
---
a | b
~~~
```
2026-07-31 1.5 s
[x]: y
&lt;
\
![a](b)
<b>
https://a.b/_c_
$x$
""".strip().splitlines()


class Page(HTMLParser):
    """The tags and texts of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "hr"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("img", "br")
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_html_page_holds_the_pictures_and_no_markup_of_others(program: Program) -> None:
    folder = cats()
    outcome = program("sessions", "export", "cats")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "cats.html\n", "")
    page = Page(Path("cats.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.tags} == HTML_TAGS
    assert [link["href"] for link in page.all("a")] == ["http://evil.example/x.png"]
    assert [(tag, name) for tag, attributes in page.tags for name in attributes if name.startswith("on")] == []
    images = page.all("img")
    sources = [str(image["src"]) for image in images]
    assert len(sources) == 5
    for number, (image, source) in enumerate(zip(images, sources, strict=True), start=1):
        kind, _, data = source.partition(";base64,")
        assert kind == ("data:image/jpeg" if number == 3 else "data:image/png")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as decoded:
            decoded.load()
            assert decoded.size == (int(str(image["width"])), int(str(image["height"])))
    first = base64.b64decode(sources[0].partition(",")[2])
    assert first == (folder / "pictures" / "001-a-cute-cat-7.png").read_bytes()
    text = "".join(page.texts["p"])
    assert '<script>alert(1)</script> & "quoted" <img src=x onerror=alert(2)>' in text
    assert "second line" in text
    assert "failed: full" in text
    assert page.texts["pre"][0].startswith("Think <script>alert(1)</script>")
    assert page.texts["strong"] == ["bold"]
    assert page.texts["code"] == ["<p>kept</p>\n", "never closed <script>\n"]
    assert page.texts["title"] == ["cats"]


@pytest.mark.parametrize("target", ["page.html", "page.md"])
def test_a_page_does_not_name_folders_of_the_user(program: Program, home: Path, target: str) -> None:
    cats()
    with Session.open("cats", str(home / "weights")) as session:
        session.append(PictureTurn(turn=5, kind="generate", prompt="more", model=str(home / "weights")))
    program("sessions", "export", "cats", "-o", target)
    text = Path(target).read_text()
    assert str(home) not in text
    assert "weights" in text
    assert "copy of outside.jpg" in text


def exported_markdown(program: Program, *words: str) -> str:
    outcome = program("sessions", "export", *words)
    assert (outcome.code, outcome.stderr) == (0, "")
    return Path(outcome.stdout.strip("\n")).read_text(encoding="utf-8")


def test_markdown_has_its_pictures_beside_it(program: Program) -> None:
    folder = cats("my cats")
    text = exported_markdown(program, "my cats", "-o", "out/my page.md")
    rendered = Page(MarkdownIt("commonmark").render(text))
    sources = [unquote(str(image["src"])) for image in rendered.all("img")]
    assert len(sources) == 5
    for source in sources:
        assert source.startswith("my page-pictures/")
        with Image.open(Path("out") / source) as image:
            image.load()
    assert (Path("out") / sources[0]).read_bytes() == (folder / "pictures" / "001-a-cute-cat-7.png").read_bytes()
    assert sources[3].endswith("004-outside.png")  # a TIFF, which viewers do not show


def test_markdown_escapes_markup_of_prompts_and_answers(program: Program) -> None:
    cats()
    text = exported_markdown(program, "cats", "-o", "cats.md")
    page = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert {tag for tag, _ in page.tags} == MARKDOWN_TAGS
    assert page.all("img")[-1]["src"] == "cats-pictures/005-script-alert-1-script-quoted-img-src-x-9.png"
    assert "<script>alert(1)</script>" in "".join(page.texts["strong"])
    assert page.texts["code"] == ["<p>kept</p>\n", "never closed <script>\n"]
    # The text after the answer is outside of its unclosed code block.
    assert [heading.split(" · ")[:2] for heading in page.texts["h2"]] == [
        ["1", "generate"],
        ["2", "edit"],
        ["3", "describe"],
        ["4", "generate"],
    ]


@pytest.mark.parametrize("prompt", LIKE_MARKDOWN)
def test_a_prompt_in_markdown_is_shown_as_typed(program: Program, prompt: str) -> None:
    with Session.open("cats", MODEL) as session:
        ask(session, f"{prompt}\n{prompt}", "")
    page = Page(
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render(exported_markdown(program, "cats", "-o", "cats.md"))
    )
    assert {tag for tag, _ in page.tags} == {"h1", "h2", "p", "strong", "br"}
    assert [text.strip() for text in page.texts["strong"]] == [prompt.strip()] * 2


@pytest.mark.parametrize("target", ["page.html", "page.md"])
def test_export_replaces_nothing_unless_forced(program: Program, target: str) -> None:
    cats()
    Path(target).write_text("mine")
    outcome = program("sessions", "export", "cats", "-o", target)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert f"{target} exists already" in outcome.stderr
    assert Path(target).read_text() == "mine"
    assert [path.name for path in Path().iterdir() if path.suffix in (".part", "")] == []
    assert program("sessions", "export", "cats", "-o", target, "-f").stdout == f"{target}\n"
    assert program("sessions", "export", "cats", "-o", target, "-f").code == 0
    assert "cute cat" in Path(target).read_text()


def test_export_does_not_mix_into_a_folder_of_pictures(program: Program) -> None:
    cats()
    Path("page-pictures").mkdir()
    outcome = program("sessions", "export", "cats", "-o", "page.md")
    assert outcome.code == 2
    assert "page-pictures exists already" in outcome.stderr
    assert not Path("page.md").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [("page.txt", "end it in .html"), ("page", "end it in .html"), ("folder.md", "exists already")],
)
def test_export_to_a_file_that_is_not_a_page(program: Program, target: str, message: str) -> None:
    cats()
    Path("folder.md").mkdir()
    outcome = program("sessions", "export", "cats", "-o", target)
    assert outcome.code == 2
    assert message in outcome.stderr


def test_export_to_an_unwritable_folder(program: Program) -> None:
    cats()
    Path("file").write_text("in the way")
    for name in ("page.html", "page.md"):
        outcome = program("sessions", "export", "cats", "-o", f"file/{name}")
        assert outcome.code == 1
        assert f"file/{name} cannot be written" in outcome.stderr


@pytest.mark.parametrize("target", ["page.html", "page.md"])
def test_export_of_a_session_with_missing_pictures_reports_them(program: Program, target: str) -> None:
    folder = cats()
    for path in (folder / "pictures").iterdir():
        path.unlink()
    outcome = program("sessions", "export", "cats", "-o", target)
    assert outcome.code == 0
    assert "picture 5 is missing" in outcome.stderr
    assert Path(target).read_text().count("the file is missing or damaged") == 5


# rm


def test_rm_asks(program: Program) -> None:
    folder = cats()
    outcome = program("sessions", "rm", "cats", stdin="n\n")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "Remove the session cats with all pictures?" in outcome.stderr
    outcome = program("sessions", "rm", "cats", stdin="")
    assert outcome.code == 2
    assert "add -y" in outcome.stderr
    assert folder.exists()
    outcome = program("sessions", "rm", "cats", stdin="y\n")
    assert (outcome.code, outcome.stdout) == (0, "cats\n")
    assert list(sessions_folder().iterdir()) == []


def test_rm_of_several(program: Program) -> None:
    for name in ("one", "two", "three"):
        cats(name)
    assert program("sessions", "rm", "-y", "one", "four").code == 2
    assert (sessions_folder() / "one").exists()
    assert program("sessions", "rm", "--yes", "one", "two", "one").stdout == "one\ntwo\n"
    assert [path.name for path in sessions_folder().iterdir()] == ["three"]


def test_rm_leaves_a_session_that_is_in_use(program: Program) -> None:
    cats()
    with Session.open("cats", MODEL):
        outcome = program("sessions", "rm", "-y", "cats")
    assert outcome.code == 2
    assert f"the session cats is in use by process {os.getpid()}" in outcome.stderr
    assert len(json.loads(program("sessions", "show", "cats", "--json").stdout)["entries"]) == 9


def test_rm_removes_a_link_but_not_its_target(program: Program, tmp_path: Path) -> None:
    folder = cats()
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    assert program("sessions", "rm", "-y", "cats").code == 0
    assert list(sessions_folder().iterdir()) == []
    assert (elsewhere / "session.jsonl").exists()


def test_rm_of_old_ones(program: Program) -> None:
    now = datetime.now().astimezone()
    for name, age in (("fresh", 1), ("older", 40), ("oldest", 50)):
        cats(name)
        set_dates(sessions_folder() / name, now - timedelta(days=age))
    with Session.open("older", MODEL):  # which another process continues
        assert program("sessions", "rm", "--older-than", "30d", "-y").stdout == "oldest\n"
    outcome = program("sessions", "rm", "--older-than", "5w", stdin="y\n")
    assert (outcome.code, outcome.stdout) == (0, "older\n")
    assert "Remove the session older with all pictures?" in outcome.stderr
    outcome = program("sessions", "rm", "--older-than", "48h", "-y")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "note: no session is older than 48h\n")
    assert [path.name for path in sessions_folder().iterdir()] == ["fresh"]


def test_rm_lists_several_old_ones_before_it_asks(program: Program) -> None:
    for name in ("one", "two"):
        cats(name)
        set_dates(sessions_folder() / name, datetime.now().astimezone() - timedelta(days=40))
    outcome = program("sessions", "rm", "--older-than", "30", stdin="n\n")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "  one\n  two\nRemove these 2 sessions with all pictures?" in outcome.stderr
    assert len(list(sessions_folder().iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--older-than", "soon"], "must be a number of hours, days or weeks"),
        (["--older-than", "-3d"], "must be a number of hours, days or weeks"),
        (["--older-than", "3d", "cats"], "give the names of sessions, or --older-than"),
        ([], "give the names of sessions, or --older-than"),
    ],
)
def test_rm_of_unclear_ones(program: Program, words: list[str], message: str) -> None:
    cats()
    outcome = program("sessions", "rm", "-y", *words)
    assert outcome.code == 2
    assert message in outcome.stderr
    assert len(list(sessions_folder().iterdir())) == 1


def test_the_beginning_of_a_name_is_enough(program: Program) -> None:
    cats("2026-07-31-a-cute-cat")
    cats("2026-07-31-a-dog")
    for beginning in ("2026-07-31-a-c", "a-cute"):
        assert program("sessions", "show", beginning).stdout.startswith("2026-07-31-a-cute-cat: 4 turns")
    outcome = program("sessions", "rm", "-y", "2026-07")
    assert outcome.code == 2
    assert "several sessions begin with '2026-07': 2026-07-31-a-cute-cat, 2026-07-31-a-dog" in outcome.stderr
    outcome = program("sessions", "rm", "a-d", stdin="y\n")
    assert (outcome.code, outcome.stdout) == (0, "2026-07-31-a-dog\n")


@pytest.mark.parametrize("words", ["sessions show ", "sessions rm one ", "repl --session ", "sessions export "])
def test_the_shell_completes_names(program: Program, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    cats("holiday")
    cats("hat")
    cats("cats")
    typed = f"sensenova {words}h"
    monkeypatch.setenv("_SENSENOVA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert program().stdout.split() == ["hat", "holiday"]
