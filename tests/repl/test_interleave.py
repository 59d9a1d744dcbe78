"""/interleave and /continue: text and pictures in a session, its log, resumption, undo and exports."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.errors import DeviceMemoryError
from model.requests import AnswerRequest, EditRequest, InterleaveRequest
from sensenova_cli.sessions.entries import AnswerText, InterleaveTurn, SessionPicture
from sensenova_cli.sessions.saved import read_session
from sensenova_cli.sessions.store import latest_session
from tests.cli.fake_engine import FakeEngine
from tests.repl.script import Script


def turns() -> list[InterleaveTurn]:
    """Return the interleaved turns of the last session."""
    found = read_session(latest_session()).state.turns
    return [turn for turn in found if isinstance(turn, InterleaveTurn)]


def in_order(turn: InterleaveTurn) -> list[int | str]:
    """Return the parts of an answer: texts, and numbers of pictures."""
    return [part.number if isinstance(part, SessionPicture) else part.text for part in turn.parts]


def test_text_and_pictures_come_in_order(script: Script) -> None:
    outcome = script("/interleave a tale")
    assert outcome.code == 0, outcome.stderr
    text = re.sub(r"^/.*/", "", outcome.stdout, flags=re.MULTILINE)
    assert text == ("# The kite\n\nOnce a kite.\n001-a-tale-42.png\nIt flew.\n002-a-tale-43.png\nThe end.\n")
    assert "A kite flies." in outcome.stderr
    assert "pictures 1, 2: /use N selects one" in outcome.stderr


def test_the_log_has_the_answer(script: Script) -> None:
    script("/interleave a tale --max-images 5 --num-steps 2")
    (turn,) = turns()
    assert in_order(turn) == [
        "<think>A kite flies.</think>",
        "# The kite\n\nOnce a kite.",
        1,
        "It flew.",
        2,
        "The end.",
    ]
    assert [part.thinking for part in turn.parts if isinstance(part, AnswerText)] == [True, False, False, False]
    assert (turn.prompt, turn.finish, turn.status, turn.follows) == ("a tale", "end", "done", ())
    assert (turn.settings["max_images"], turn.settings["num_steps"], turn.settings["max_tokens"]) == (5, 2, 8192)


def test_pictures_of_the_session_are_numbered_selected_and_edited(script: Script) -> None:
    outcome = script("a cat", "/interleave a tale", "make it red", "/use 3", "/save 3 out.png")
    assert outcome.code == 0, outcome.stderr
    edit = script.requests[-1]
    assert isinstance(edit, EditRequest)
    assert edit.images[0].getpixel((0, 0)) == Image.open(read_session(latest_session()).path(2)).getpixel((0, 0))
    assert Path("out.png").is_file()


def test_staged_pictures_are_shown_with_the_prompt(script: Script, home: Path) -> None:
    Image.new("RGB", (64, 96), "teal").save("in.png")
    script("/image in.png", "/interleave what is in <image>?", "/interleave and without?")
    first, second = script.requests
    assert isinstance(first, InterleaveRequest) and isinstance(second, InterleaveRequest)
    assert ([image.size for image in first.images], second.images) == ([(64, 96)], ())
    assert first.history == second.history == ()
    assert turns()[0].inputs == (1,)


def test_a_picture_of_a_session_repeats_its_answer(script: Script, home: Path) -> None:
    outcome = script("/interleave a tale", "/continue in winter?")
    paths = [Path(line) for line in outcome.stdout.splitlines() if line.endswith(".png")]
    assert len(paths) == 4
    requests: list[Any] = script.requests
    for path, request in ((paths[1], requests[0]), (paths[3], requests[1])):
        again = script.program("interleave", "--from", str(path), "-o", "again/", "-q", "-f")
        assert again.code == 0, again.stderr
        repeated = script.program.request
        assert (repeated.history, repeated.prompt) == (request.history, request.prompt)
        assert [image.tobytes() for image in repeated.images] == [image.tobytes() for image in request.images]
        made = sorted(Path("again").iterdir())[-1]
        assert made.read_bytes() == path.read_bytes()
        for file in Path("again").iterdir():
            file.unlink()


def test_the_history_has_the_text_of_the_answer(script: Script) -> None:
    """Without its thinking, and with the numbers of its pictures in their places."""
    outcome = script("a cat", "/interleave a tale", "? why?", "/history")
    assert outcome.code == 0
    shown = [
        "2. interleave: a tale → 2, 3",
        *("   # The kite", "", "   Once a kite.", "   [picture 2]", "   It flew.", "   [picture 3]", "   The end."),
        "3. describe: why?",
        "   It is a cat.",
    ]
    assert "\n".join(shown) in outcome.stderr and outcome.stderr.count("A kite flies.") == 1


def test_undo_and_redo(script: Script) -> None:
    outcome = script("a cat", "/interleave a tale", "/undo", "/redo")
    assert outcome.stderr.count("the conversation is empty now") == 1
    assert "selected: picture 1 (a cat)" in outcome.stderr
    assert outcome.stderr.splitlines()[-1] == "selected: picture 2 (a tale)"


def test_a_conversation_goes_on_behind_the_answer(script: Script) -> None:
    outcome = script("/interleave a tale", "/chat and then?", "/continue in winter? --max-images 1", "/chat why?")
    assert outcome.code == 0, outcome.stderr
    _, chat, story, last = script.requests
    assert isinstance(chat, AnswerRequest) and isinstance(story, InterleaveRequest) and isinstance(last, AnswerRequest)
    answer = "<think>A kite flies.</think># The kite\n\nOnce a kite.It flew.The end."
    told = chat.history[1]
    assert ([turn.role for turn in chat.history], told.text) == (["user", "assistant"], answer)
    assert [told.text[at:][:4] for at in told.images_at] == ["It f", "The "]
    assert len(chat.images) == 2
    assert [turn.text for turn in story.history] == ["a tale", answer, "and then?", "It is a cat."]
    assert (len(story.images), story.system, len(last.images), len(last.history)) == (2, None, 3, 6)
    assert outcome.stderr.count("is an experiment") == 1


def test_again_repeats_the_answer_with_the_next_seeds(script: Script) -> None:
    outcome = script("a cat", "/interleave a tale --max-images 2 --size 64x96 -o book/", "/chat and?", "/again")
    assert outcome.code == 0, outcome.stderr
    _, first, _, again = script.requests
    assert isinstance(again, InterleaveRequest)
    assert (again.settings.seed, again.settings.size, again.text_settings.max_images) == (44, "64x96", 2)
    assert (again.prompt, again.images, again.history) == (first.prompt, (), ())
    assert len(list(Path("book").iterdir())) == 2, "a repetition must not write to the same files"
    script("/again --no-think --seed 7", options=("--continue",))
    (request,) = script.requests
    assert (request.settings.seed, request.settings.think, request.settings.size) == (7, False, "64x96")


def test_again_keeps_the_turns_before_the_answer_and_replaces_the_answer(script: Script) -> None:
    script("/chat hello", "/interleave a tale", "/continue in winter?", "/again", "/undo", "/again", "/chat why?")
    *_, first, again, undone, chat = script.requests
    assert len(first.history) == 2
    for request in (again, undone):
        assert (request.prompt, request.history) == (first.prompt, first.history)
        assert [image.tobytes() for image in request.images] == [image.tobytes() for image in first.images]
    assert [turn.text for turn in chat.history if turn.role == "user"] == ["a tale", "in winter?"]
    assert [turn.follows for turn in turns()] == [(), (2,), (2,), (2,)]


def test_again_repeats_an_answer_that_was_interrupted(script: Script) -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.on_step = lambda number: signal.raise_signal(signal.SIGINT) if len(engine.requests) == 2 else None

    script.program.prepare = prepare
    script("/interleave a tale", "/continue in winter?")
    _, interrupted = script.requests
    script.program.prepare = lambda engine: None
    script("/again", options=("--continue",))
    (again,) = script.requests
    assert (again.prompt, again.history) == (interrupted.prompt, interrupted.history)
    assert again.settings.seed == interrupted.settings.seed + 1


def test_a_new_picture_never_has_the_seed_of_an_earlier_one(script: Script) -> None:
    script("/interleave a tale", "/continue in winter?")
    assert script.requests[1].settings.seed == 44


def test_a_continued_session_goes_on(script: Script) -> None:
    script("/interleave a tale")
    outcome = script("/chat and then?", "/history", options=("--continue",))
    assert outcome.code == 0, outcome.stderr
    (chat,) = script.requests
    assert isinstance(chat, AnswerRequest)
    assert (len(chat.history), len(chat.images)) == (2, 2)
    assert "1. interleave: a tale → 1, 2" in outcome.stderr


def test_a_missing_picture_of_the_answer_is_named(script: Script) -> None:
    path = Path(script("/interleave a tale").stdout.splitlines()[3])
    path.unlink()
    outcome = script("/chat and then?", options=("--continue",))
    assert outcome.code == 1
    assert f"picture {int(path.name[:3])} is missing" in outcome.stderr


@pytest.mark.parametrize("failure", ["", "memory"])
def test_ctrl_c_inside_the_third_picture_keeps_two_and_the_text(script: Script, failure: str) -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.story = [["<think>"], ["One."], None, ["Two."], None, ["Three."], None]
        seen: list[int] = []

        def on_step(number: int) -> None:
            seen.append(number)
            if len(seen) == 3 + 2 * 4 + 2:
                if failure:
                    raise DeviceMemoryError("the memory ends here", "try `size=64x64`")
                signal.raise_signal(signal.SIGINT)

        engine.on_step = on_step

    script.program.prepare = prepare
    outcome = script("/interleave a tale --no-think", "/use 2")
    assert ("the memory ends here\nhint: try /set size 64x64" if failure else "interrupted") in outcome.stderr
    (turn,) = turns()
    assert in_order(turn) == ["One.", 1, "Two.", 2, "Three."]
    assert (turn.status, turn.finish) == ("failed" if failure else "cancelled", None)
    state = read_session(latest_session()).state
    assert (state.now.candidates, state.now.conversation) == ((1, 2), ())
    assert outcome.stdout.splitlines()[-1] == "Three."


@pytest.mark.parametrize("ending", ["md", "html"])
def test_an_export_shows_text_and_pictures_in_place(script: Script, home: Path, ending: str) -> None:
    script("/interleave a tale")
    name = latest_session().name
    assert script.program("sessions", "export", name, "-o", f"tale.{ending}").code == 0
    text = Path(f"tale.{ending}").read_text()
    marks = r"A kite flies|Once a kite|\(tale-pictures/00\d|base64|It flew|The end"
    pictures = ["(tale-pictures/001", "(tale-pictures/002"] if ending == "md" else ["base64", "base64"]
    assert re.findall(marks, text) == [
        "A kite flies", "Once a kite", pictures[0], "It flew", pictures[1], "The end"
    ]  # fmt: skip
    assert "think&gt;" not in text and "<think>" not in text


def test_sessions_show_prints_the_answer_in_order(script: Script) -> None:
    script("/interleave a tale --max-images 1")
    lines = script.program("sessions", "show", latest_session().name).stdout.splitlines()
    at = lines.index("1 interleave: a tale")
    assert lines[at + 1] == "  think: A kite flies."
    assert lines[at + 4] == "  Once a kite."
    assert lines[at + 5].startswith("  picture 1: ")
    assert lines[at + 6] == "  It flew."
    assert "cut off at max_images" in lines[at + 7]


def test_copies_outside_of_the_session(script: Script, home: Path) -> None:
    outcome = script("/interleave a tale -o book/")
    assert sorted(path.name for path in Path("book").iterdir()) == ["a-tale-42-0.png", "a-tale-43-1.png"]
    assert "picture 2 is also saved as book/a-tale-43-1.png" in outcome.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/interleave", "for example: /interleave"),
        ("/continue and then?", "there is nothing to continue"),
        ("/interleave a tale --max-images 0", "--max-images 0: must be"),
        ("/interleave a tale -n 3", "no such option: -n"),
        ("/interleave <image>", "1 <image> placeholders for 0 picture(s)"),
        ("/interleave a tale --json", "--json cannot be given with a line"),
        ("/interleave a tale -o -", "stdout of a session is for paths and answers"),
        ("/interlave a tale", "did you mean /interleave?"),
    ],
)
def test_bad_lines(script: Script, line: str, message: str) -> None:
    outcome = script(line)
    assert outcome.code == 1
    assert message in outcome.stderr
    assert not list(Path(os.environ["SENSENOVA_DATA_DIR"]).glob("sessions/*/session.jsonl"))


def test_settings_of_the_session_apply(script: Script) -> None:
    script("/set max_images 1", "/think off", "/interleave a tale")
    request: Any = script.requests[0]
    assert (request.text_settings.max_images, request.settings.think) == (1, False)


def test_an_older_program_refuses_the_session(script: Script) -> None:
    script("/interleave a tale")
    first = json.loads((latest_session() / "session.jsonl").read_text().splitlines()[0])
    assert (first["kind"], first["format"]) == ("opened", 2)
