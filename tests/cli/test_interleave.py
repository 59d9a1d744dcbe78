"""`sensenova interleave`: text and pictures in order, as a document, as JSON or as a page."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from model.errors import DeviceMemoryError
from model.requests import InterleaveRequest
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.render.markdown_document import MarkdownDocument
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import Program

TALE = """# The kite

Once a kite.

![picture 1](a-tale-42-0.png)

It flew.

![picture 2](a-tale-43-1.png)

The end.
"""
FILES = ["a-tale-42-0.png", "a-tale-43-1.png"]


def with_story(*story: list[str] | None) -> Any:
    def prepare(engine: FakeEngine) -> None:
        engine.story = list(story)

    return prepare


def stop_at_step(number: int, action: Any) -> Any:
    """Return a preparation that acts at the N-th step or token of a run."""

    def prepare(engine: FakeEngine) -> None:
        seen: list[int] = []

        def on_step(step: int) -> None:
            seen.append(step)
            if len(seen) == number:
                action()

        engine.on_step = on_step

    return prepare


THIRD_PICTURE = [["One."], None, ["Two."], None, ["Three."], None, ["Four."]]
INSIDE_THIRD = 3 + 2 * 4 + 2
"""Number of the second step of the third picture, without thinking: three tokens, two pictures of four steps."""


# The document


def test_stdout_is_a_document_of_text_and_pictures_in_order(program: Program, home: Path) -> None:
    outcome = program("interleave", "A tale")
    assert (outcome.code, outcome.stdout) == (0, TALE)
    assert sorted(path.name for path in home.iterdir()) == FILES
    assert Image.open("a-tale-43-1.png").size == (96, 64)


def test_the_links_lead_from_the_current_folder_to_the_files(program: Program, home: Path) -> None:
    for output in ("new book/", str(home / "other")):
        Path(output).mkdir(exist_ok=True)
        outcome = program("interleave", "A tale", "-o", output)
        links = re.findall(r"!\[picture \d\]\((.*)\)", outcome.stdout)
        assert links == [f"{Path(output).name.replace(' ', '%20')}/{name}" for name in FILES]
        assert sorted(path.name for path in Path(output).iterdir()) == FILES


def test_nothing_is_overwritten(program: Program, home: Path) -> None:
    program("interleave", "A tale")
    before = Path(FILES[0]).read_bytes()
    outcome = program("interleave", "A tale", "--num-steps", "2")
    assert "(a-tale-42-0-2.png)" in outcome.stdout
    assert Path(FILES[0]).read_bytes() == before


def test_thinking_goes_to_stderr(program: Program) -> None:
    outcome = program("interleave", "A tale")
    assert "A kite flies." in outcome.stderr
    assert "thought for 4 tokens" in outcome.stderr
    hidden = program("interleave", "A tale", "--hide-think")
    assert "A kite flies." not in hidden.stderr + hidden.stdout


def test_print_think_puts_the_thinking_into_the_document(program: Program) -> None:
    outcome = program("interleave", "A tale", "--print-think")
    assert outcome.stdout.startswith("A kite flies.\n\n# The kite\n")
    assert "A kite flies." not in outcome.stderr


def test_a_picture_inside_the_thinking_stands_where_it_comes(program: Program) -> None:
    program.prepare = with_story(["<think>", "First:"], None, ["then.", "</think>"], ["Look at <image1>."])
    outcome = program("interleave", "A tale", "--print-think")
    assert outcome.stdout == "First:\n\n![picture 1](a-tale-42-0.png)\n\nthen.\n\nLook at &#60;image1>.\n"


def test_without_thinking(program: Program) -> None:
    outcome = program("interleave", "A tale", "--no-think")
    assert outcome.stdout.startswith("# The kite")
    assert "thought" not in outcome.stderr
    assert program.request.settings.think is False


def test_progress_names_the_picture_of_the_answer(program: Program) -> None:
    lines = program("interleave", "A tale").stderr.splitlines()
    assert [line for line in lines if line.endswith("of the answer: 4 steps")] == [
        "picture 1 of the answer: 4 steps",
        "picture 2 of the answer: 4 steps",
    ]


def test_quiet_leaves_only_the_document(program: Program) -> None:
    outcome = program("interleave", "A tale", "-q")
    assert (outcome.stdout, outcome.stderr) == (TALE, "")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "[a](javascript:alert(1))",
        "![a](http://elsewhere/x.png)",
        "[a]: javascript:x\n    <script>x</script>",
        "| a |\n| - |\n    <script>x</script>",
        "> [a]: javascript:x\n>     <script>x</script>",
        "> | a |\n> | - |\n>     <script>x</script>",
        "    <script>x</script>",
        "- a\n  ```\n<script>x</script>",
        "<div>\n```\n</div>\n<script>x</script>",
        "```\nopen",
        "~~~~ html\nopen\n```",
        "a\n===\n[b]: c 'd\ne'\n\n<b>",
    ],
)
def test_the_text_can_neither_run_nor_load_anything(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A viewer that allows everything shows no element but ours; the picture below the text is always there."""
    for size in (1, 3, len(text)):
        document = MarkdownDocument()
        for start in range(0, len(text), size):
            document.add(text[start : start + size])
        document.add_picture(1, Path("p.png"))
        document.end_text()
        printed = capsys.readouterr().out
        viewer = MarkdownIt("commonmark", {"html": True})
        for page in (viewer.render(printed), viewer.enable("table").render(printed)):
            assert page.count("<img") == 1 and '<img src="p.png" alt="picture 1"' in page
            assert not re.search(r"<(script|a|div|b)\b", page)


def test_code_in_the_text_stays_code(program: Program) -> None:
    code = "```c\n#include <x>\n\nint a[2];\n```\n"
    program.prepare = with_story(["<think>"], [f"Like **this** [1]:\n{code}"], None, [" then"])
    document = program("interleave", "A tale", "--no-think").stdout
    assert document == f"Like **this** &#91;1]:\n\n{code}\n![picture 1](a-tale-42-0.png)\n\nthen\n"


# JSON, page


def test_an_interrupted_answer_keeps_the_tags_of_each_thinking(program: Program) -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.story = [["<think>", "One.", "</think>"], ["Two."], ["<think>", "Three.", "</think>"], ["Four."]]
        engine.on_step = lambda number: signal.raise_signal(signal.SIGINT) if number == 8 else None

    program.prepare = prepare
    outcome = program("interleave", "A tale", "--json")
    assert outcome.code == 130
    texts = [part["text"] for part in json.loads(outcome.stdout)["parts"]]
    assert texts == ["<think>One.</think>", "Two.", "<think>Three.</think>", "Four."]


def test_json_is_one_object(program: Program) -> None:
    outcome = program("interleave", "A tale", "--json")
    answer = json.loads(outcome.stdout)
    assert (answer["task"], answer["finish"], answer["prompt"]) == ("interleave", "end", "A tale")
    assert answer["parts"] == [
        {"text": "<think>A kite flies.</think>", "token_ids": [1, 2, 3, 4], "thinking": True},
        {"text": "# The kite\n\nOnce a kite.", "token_ids": [5, 6, 7], "thinking": False},
        {"path": FILES[0], "seed": 42, "size": "96x64"},
        {"text": "It flew.", "token_ids": [8, 9], "thinking": False},
        {"path": FILES[1], "seed": 43, "size": "96x64"},
        {"text": "The end.", "token_ids": [10], "thinking": False},
    ]
    assert (answer["settings"]["max_images"], answer["settings"]["think"]) == (10, True)


def test_the_page_contains_everything(program: Program, home: Path) -> None:
    outcome = program("interleave", "A <b>tale</b>", "--html", "book.html")
    page = (home / "book.html").read_text()
    assert outcome.stdout.startswith("# The kite")
    assert "A &lt;b&gt;tale&lt;/b&gt;" in page
    assert re.findall(r"<h1>The kite</h1>|Once a kite|It flew|The end|data:image/png", page) == [
        "<h1>The kite</h1>",
        "Once a kite",
        "data:image/png",
        "It flew",
        "data:image/png",
        "The end",
    ]
    assert "<summary>Think text</summary>" in page and "&lt;think&gt;" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("book.pdf", "book.pdf does not name a page\nhint: end it in .html"),
        ("there.html", "there.html exists already\nhint: use -f to replace it"),
        ("folder.html", "folder.html is a folder"),
        ("there.html/book.html", "no file can be written in the folder there.html"),
    ],
)
def test_a_page_that_cannot_be_written_is_found_first(program: Program, home: Path, target: str, message: str) -> None:
    (home / "there.html").write_text("mine")
    (home / "folder.html").mkdir()
    outcome = program("interleave", "A tale", "--html", target)
    assert (outcome.code, outcome.stdout, program.engines) == (2, "", [])
    assert message in outcome.stderr
    assert (home / "there.html").read_text() == "mine"


def test_force_replaces_a_page(program: Program, home: Path) -> None:
    (home / "book.html").write_text("old")
    assert program("interleave", "A tale", "--html", "book.html", "-f").code == 0
    assert "The kite" in (home / "book.html").read_text()


# Settings


def test_settings_and_defaults(program: Program) -> None:
    program("interleave", "A tale")
    request = program.request
    assert isinstance(request, InterleaveRequest)
    assert (request.prompt, request.system, request.images) == ("A tale", None, ())
    assert request.settings.think
    assert (request.text_settings.max_tokens, request.text_settings.max_images) == (8192, 10)


def test_help_names_the_defaults_of_this_command(program: Program) -> None:
    text = program("interleave", "--help").stdout
    assert "  --no-think " in text and "  --think " not in text
    assert re.search(r"--max-tokens .*\[8192\]", text)
    assert not re.search(r"--max-tokens .*\[8192\]", program("chat", "--help").stdout)


def test_options_reach_the_engine(program: Program, home: Path) -> None:
    Image.new("RGB", (640, 480)).save("in.png")
    words = "--max-images 3 --max-tokens 9 --do-sample --seed 7 --cfg-scale 2 --num-steps 2 --system Brief."
    assert program("interleave", "A tale", "--image", "in.png", *words.split()).code == 0
    request = program.request
    assert (request.text_settings.max_images, request.text_settings.max_tokens) == (3, 9)
    assert (request.text_settings.seed, request.settings.seed, request.text_settings.do_sample) == (7, 7, True)
    assert (request.settings.cfg_scale, request.settings.num_steps, request.system) == (2.0, 2, "Brief.")
    assert [image.size for image in request.images] == [(640, 480)]
    program("interleave", "A tale", "--system", "")
    assert program.request.system == ""


def test_the_prompt_may_come_from_standard_input(program: Program) -> None:
    assert program("interleave", "-", stdin="A tale\n").stdout == TALE


def test_pictures_do_not_get_the_seed_of_an_input(program: Program) -> None:
    program("interleave", "A tale")
    outcome = program("interleave", "More", "--image", FILES[1], "--max-images", "2")
    assert program.request.settings.seed == 44
    note = "Using seed 44: drawing with the seed that made a-tale-43-1.png (43) would spoil the result."
    assert note in outcome.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is no prompt"),
        ((" ",), "the prompt is empty"),
        (("a", "<image>"), "put the prompt in quotes"),
        (("compare <image> with <image>",), "2 <image> placeholders for 0 picture(s)"),
        (("a tale", "--max-images", "0"), "--max-images 0: must be"),
        (("a tale", "--max-images", "many"), "--max-images many: must be"),
        (("a tale", "--size", "100x100"), "both sides must be multiples of 32"),
        (("a tale", "--width", "100"), "--width 100: must be a positive multiple of 32"),
        (("a tale", "--cfg-norm", "cfg_zero_star"), "cfg_zero_star works for generating only"),
        (("a tale", "-o", "-"), "-o - would mix the pictures with the text"),
        (("a tale", "-o", "tale.gif"), "pictures are written as PNG, JPEG or WebP files"),
        (("a tale", "-n", "3"), "the model decides; at most: --max-images N"),
        (("a tale", "--seed", str(2**63 - 1)), "exceed the largest seed"),
        (("a tale", "--image", "none.png"), "none.png"),
        (("a tale", "--system", "<img>"), "the system message contains <img>"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    program: Program, home: Path, words: tuple[str, ...], message: str
) -> None:
    outcome = program("interleave", *words)
    assert (outcome.code, outcome.stdout, program.engines) == (2, "", [])
    assert message in outcome.stderr
    assert list(home.iterdir()) == []


# Ends


def test_an_answer_without_pictures_says_so(program: Program, home: Path) -> None:
    program.prepare = with_story(["<think>", "x", "</think>"], ["Only ", "words."])
    outcome = program("interleave", "A tale")
    assert (outcome.code, outcome.stdout) == (0, "Only words.\n")
    assert "note: the answer has no picture" in outcome.stderr
    assert list(home.iterdir()) == []


def test_the_limit_of_pictures_is_reported(program: Program) -> None:
    outcome = program("interleave", "A tale", "--max-images", "1")
    assert outcome.stdout.count("![picture") == 1
    assert "raise their limit with --max-images" in outcome.stderr


def test_the_limit_of_text_is_reported(program: Program) -> None:
    outcome = program("interleave", "A tale", "--max-tokens", "6")
    assert "cut off; raise the limit with --max-tokens\n" in outcome.stderr


def test_a_limit_inside_the_thinking_is_reported(program: Program) -> None:
    outcome = program("interleave", "A tale", "--max-tokens", "2", "--json")
    assert "reached its limit inside its thinking" in outcome.stderr
    assert "--max-tokens, or use --no-think" in outcome.stderr
    answer = json.loads(outcome.stdout)
    assert (answer["finish"], [part["thinking"] for part in answer["parts"]]) == ("length", [True])


def test_thinking_that_is_never_closed_is_reported(program: Program) -> None:
    program.prepare = with_story(["<think>", "Hm."], None, ["So."])
    outcome = program("interleave", "A tale")
    assert (outcome.code, outcome.stdout) == (0, "![picture 1](a-tale-42-0.png)\n")
    assert "the model did not close its thinking" in outcome.stderr


def test_ctrl_c_inside_the_third_picture_keeps_two_and_the_text(program: Program, home: Path) -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.story = [["<think>"], *THIRD_PICTURE]
        stop_at_step(INSIDE_THIRD, lambda: signal.raise_signal(signal.SIGINT))(engine)

    program.prepare = prepare
    outcome = program("interleave", "A tale", "--no-think", "--html", "book.html")
    assert outcome.code == 130
    assert outcome.stdout == f"One.\n\n![picture 1]({FILES[0]})\n\nTwo.\n\n![picture 2]({FILES[1]})\n\nThree.\n"
    assert sorted(path.name for path in home.iterdir()) == [*FILES, "book.html"]
    page = (home / "book.html").read_text()
    assert page.count("<img") == 2 and "Three." in page and "cancelled: interrupted" in page
    assert program.engines[0].request_closed


def test_memory_that_ends_at_a_picture_keeps_what_is_there(program: Program, home: Path) -> None:
    def fail() -> None:
        raise DeviceMemoryError("picture 3 does not fit in the memory", "try `size=64x64`")

    def prepare(engine: FakeEngine) -> None:
        engine.story = [["<think>"], *THIRD_PICTURE]
        stop_at_step(INSIDE_THIRD, fail)(engine)

    program.prepare = prepare
    outcome = program("interleave", "A tale", "--no-think", "--json")
    assert outcome.code == 4
    assert "error: picture 3 does not fit in the memory\nhint: try --size 64x64" in outcome.stderr
    answer = json.loads(outcome.stdout)
    assert answer["finish"] is None
    assert [part.get("path") or part["text"] for part in answer["parts"]] == [
        "One.", FILES[0], "Two.", FILES[1], "Three."
    ]  # fmt: skip


# Replays


@pytest.mark.parametrize("index", [0, 1])
def test_a_picture_repeats_its_answer_as_far_as_itself(program: Program, home: Path, index: int) -> None:
    program("interleave", "A tale", "--seed", "42", "--max-images", "5")
    outcome = program("interleave", "--from", FILES[index], "-o", "again/")
    assert outcome.code == 0, outcome.stderr
    assert sorted(path.name for path in Path("again").iterdir()) == FILES[: index + 1]
    for name in FILES[: index + 1]:
        assert (home / "again" / name).read_bytes() == (home / name).read_bytes()
    assert outcome.stdout.rstrip().endswith(f"![picture {index + 1}](again/{FILES[index]})")
    assert program.engines[-1].request_closed
    assert program.request.text_settings.max_images == 5


def test_json_of_a_repeated_answer_has_the_same_parts(program: Program) -> None:
    first = json.loads(program("interleave", "A tale", "--json").stdout)
    again = json.loads(program("interleave", "--from", FILES[1], "-o", "again/", "--json").stdout)
    assert [part for part in again["parts"] if "text" in part] == [
        part for part in first["parts"][:-1] if "text" in part
    ]
    assert (len(again["parts"]), again["finish"]) == (5, None)


def test_a_record_holds_the_whole_request(program: Program, home: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save("in.png")
    program("interleave", "A tale", "--image", "in.png", "--system", "Brief.", "--no-think", "--do-sample")
    first = program.request
    assert program("interleave", "--from", FILES[1], "-o", "again/").code == 0
    again = program.request
    assert (again.prompt, again.system, again.text_settings) == (first.prompt, first.system, first.text_settings)
    assert again.settings == first.settings.model_copy(update={"size": again.settings.size})
    assert [image.tobytes() for image in again.images] == [image.tobytes() for image in first.images]
    record = read_record(home / FILES[1])
    assert record is not None and record.answer is not None
    assert (record.task, record.settings.seed, record.answer.index, record.answer.settings.seed) == (
        "interleave", 43, 1, 42
    )  # fmt: skip


def test_flags_override_a_record(program: Program) -> None:
    program("interleave", "A tale")
    outcome = program("interleave", "Another", "--from", FILES[1], "--num-steps", "2", "--seed", "9")
    assert program.request.prompt == "Another"
    assert (program.request.settings.num_steps, program.request.settings.seed) == (2, 9)
    assert "another-10-1.png" in outcome.stdout


def test_an_answer_that_ends_before_the_picture_is_reported(program: Program) -> None:
    program("interleave", "A tale")
    outcome = program("interleave", "--from", FILES[1], "--max-images", "1", "-o", "again/")
    assert outcome.code == 0
    assert "the answer ended before picture 2, so a-tale-43-1.png is not in it" in outcome.stderr


def test_other_commands_name_the_right_one(program: Program) -> None:
    program("interleave", "A tale")
    outcome = program("generate", "--from", FILES[0])
    assert outcome.code == 2
    assert f"to make it again: sensenova interleave --from {FILES[0]}" in outcome.stderr
    program("generate", "a cat")
    outcome = program("interleave", "--from", "a-cat-42.png")
    assert "to make it again: sensenova generate --from a-cat-42.png" in outcome.stderr


def test_a_changed_input_is_named(program: Program, home: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save("in.png")
    program("interleave", "A tale", "--image", "in.png")
    Image.new("RGB", (64, 64), "red").save("in.png")
    outcome = program("interleave", "--from", FILES[0])
    assert outcome.code == 2
    assert "in.png has changed since a-tale-42-0.png was made from it" in outcome.stderr
    assert program("interleave", "--from", FILES[0], "--image", "in.png").code == 0


def test_info_describes_the_answer(program: Program) -> None:
    program("interleave", "A tale", "--system", "Brief.")
    lines = program("info", FILES[1]).stdout.splitlines()
    assert {"task: interleave", "seed: 43", "picture of the answer: 2", "max_images: 10", "system: Brief."} <= {*lines}
