"""Lines of a session, piped into it as a script."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import model.opening
from model.errors import CheckpointError, DeviceMemoryError, NumericsError, RankError
from model.requests import AnswerRequest, EditRequest, GenerateRequest
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.repl.repl import Repl
from tests.cli.fake_engine import FakeEngine
from tests.repl.script import Script


def session_file() -> list[dict[str, object]]:
    """Return the entries of the only session."""
    (file,) = Path(os.environ["SENSENOVA_DATA_DIR"]).glob("sessions/*/session.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_prompts_make_a_picture_and_then_change_it(script: Script) -> None:
    outcome = script("a cat at dusk", "make it red")
    assert outcome.code == 0, outcome.stderr
    first, second = outcome.stdout.splitlines()
    assert Image.open(first).size == (64, 64)
    assert Path(second).is_file()
    generate, edit = script.requests
    assert isinstance(generate, GenerateRequest) and generate.prompt == "a cat at dusk"
    assert isinstance(edit, EditRequest) and edit.prompt == "make it red"
    assert edit.images[0].tobytes() == Image.open(first).convert("RGB").tobytes()


def test_pictures_of_a_session_have_records_and_can_be_replayed(script: Script, home: Path) -> None:
    path = script("a cat --seed 7").stdout.strip()
    assert script.program("generate", "--from", path, "-o", "again.png").code == 0
    assert (home / "again.png").read_bytes() == Path(path).read_bytes()


def test_an_edited_picture_of_a_session_can_be_replayed(script: Script, home: Path) -> None:
    path = script("a cat", "make it red").stdout.splitlines()[1]
    assert script.program("edit", "--from", path, "-o", "again.png").code == 0
    assert (home / "again.png").read_bytes() == Path(path).read_bytes()


def test_a_line_may_end_with_options(script: Script) -> None:
    outcome = script("a cat --size 96x64 --seed 7 --num-steps 3")
    assert outcome.code == 0, outcome.stderr
    settings = script.requests[0].settings
    assert (settings.size, settings.seed, settings.num_steps) == ("96x64", 7, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a cat --sed 7", "no such option: --sed"),
        ("a cat --seed x", "--seed x: must be"),
        ("a cat --size 100x100", "both sides must be multiples of 32"),
        ("a cat --model other", "--model cannot be given with a line"),
        ("a cat --model other", "use /model [FOLDER|HUB_ID|demo]"),
        ("a cat --offload off", "use /set offload VALUE"),
        ("a cat --json", "--json cannot be given with a line"),
        ("a cat --help", "see: /help generate"),
        ("/undp", "did you mean /undo?"),
        ("/home/nobody/cat.png", "there is no picture file /home/nobody/cat.png"),
        ("/undo", "there is nothing to undo"),
        ("/redo", "there is nothing to redo"),
        ("/use 99", "there is no picture 99"),
        ("/use it", "'it' is not the number of a picture"),
        ("/set cfg_scal 3", "did you mean /set cfg_scale?"),
        ("/set num_steps 0", "/set num_steps 0: must be"),
        ("/set num_steps", "the value is missing\nhint: it is a whole number from 1 to 1000"),
        ("/set offlod", "did you mean /set offload?"),
        ("/set cfg_interval 1 0", "the default is /set cfg_interval 0.0 1.0"),
        ("/set width 96", "use /set size 96xHEIGHT, or end a line with --width 96"),
        ("/set aspect 16:9", "use /set size 16:9"),
        ("/set model x", "use /model [FOLDER|HUB_ID|demo]"),
        ("/set lora x", "use /lora [FILE[:STRENGTH]|off]"),
        ("/set output x.png", "use /save [N] [FILE] [-f]"),
        ("/set gpu-memory much", "write it like 8GiB or 7.5GB; or all"),
        ("/unset seed", "seed is not set in this session"),
        ("/profile drft", "did you mean draft?"),
        ("/save", "no picture is selected"),
        ("/load gone.png", "gone.png"),
        ("/edit make it red", "no picture is selected"),
        ("/describe", "no picture is selected"),
        ("/again", "there are no pictures yet"),
        ("/stats", "there are no measurements yet"),
        ("/help undp", "did you mean /undo?"),
        ("/undo --seed 7", "/undo takes no options"),
        ("/generate", "there is no prompt"),
        ("/chat", "there is no message"),
        ('a cat -o "x', "a quote is not closed"),
    ],
)
def test_a_bad_line_is_an_error_and_the_session_continues(script: Script, line: str, message: str) -> None:
    outcome = script(line, "a dog")
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.code == 1
    assert len(outcome.stdout.splitlines()) == 1
    assert script.requests[-1].prompt == "a dog"


def test_a_conversation_shows_its_picture_once(script: Script) -> None:
    outcome = script("a cat", "? which animal is this?", "? and which color?")
    assert outcome.code == 0
    assert outcome.stdout.splitlines()[1:] == ["It is a cat.", "It is a cat."]
    first, second = script.requests[1:]
    assert isinstance(first, AnswerRequest) and isinstance(second, AnswerRequest)
    assert len(first.images) == len(second.images) == 1
    assert [message.text for message in second.history] == ["<image>\nwhich animal is this?", "It is a cat."]
    assert second.prompt == "and which color?"


def test_a_prompt_that_looks_like_a_question_gets_a_note(script: Script) -> None:
    """It still makes or changes a picture, as every prompt."""
    outcome = script("what is this?", "what is this? --seed 3", "make it red", "? what is this?", "/generate who?")
    assert outcome.stderr.count("to ask about a picture, begin the line with ?") == 2
    assert "note: this prompt makes a picture; to ask" in outcome.stderr
    assert "note: this prompt changes the picture; to ask" in outcome.stderr
    assert len(script.requests) == 5 and outcome.code == 0


def test_another_picture_begins_a_new_conversation(script: Script) -> None:
    script("a cat", "? what is this?", "make it red", "? what is this?")
    last = script.requests[-1]
    assert isinstance(last, AnswerRequest)
    assert last.history == ()
    assert len(last.images) == 1


def test_a_chat_sees_the_pictures_of_the_conversation(script: Script) -> None:
    script("a cat", "? what is this?", "/chat tell me more")
    last = script.requests[-1]
    assert isinstance(last, AnswerRequest)
    assert len(last.images) == 1
    assert len(last.history) == 2


def test_undo_and_redo_select_the_previous_and_the_next_picture(script: Script) -> None:
    outcome = script("a cat", "make it red", "/undo", "make it blue", "/undo", "/undo", "/redo", "/history")
    assert outcome.code == 0, outcome.stderr
    paths = outcome.stdout.splitlines()
    assert len(paths) == 3 and all(Path(path).is_file() for path in paths)
    blue = script.requests[-1]
    assert isinstance(blue, EditRequest)
    assert blue.images[0].tobytes() == Image.open(paths[0]).convert("RGB").tobytes()
    assert "selected: picture 1" in outcome.stderr.splitlines()[-1]


def test_again_uses_the_next_seed_and_the_same_pictures(script: Script) -> None:
    script("a cat -n 2 --seed 5", "/again", "/again --seed 40", "make it red", "/again")
    seeds = [request.settings.seed for request in script.requests]
    assert seeds[:3] == [5, 7, 40]
    *_, edit, again = script.requests
    assert isinstance(edit, EditRequest) and isinstance(again, EditRequest)
    assert again.images[0].tobytes() == edit.images[0].tobytes()
    assert again.settings.seed > edit.settings.seed


def test_several_candidates_and_one_of_them_chosen(script: Script) -> None:
    outcome = script("a cat -n 3", "/use 3", "make it red")
    assert "pictures 1, 2, 3" in outcome.stderr
    edit = script.requests[-1]
    third = outcome.stdout.splitlines()[2]
    assert edit.images[0].tobytes() == Image.open(third).convert("RGB").tobytes()


def test_a_file_is_staged_for_the_next_line(script: Script, home: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(home / "mine.png")
    outcome = script("mine.png", "make it blue", "make it green")
    assert outcome.code == 0, outcome.stderr
    assert "staged for the next line: picture 1" in outcome.stderr
    first, second = script.requests
    assert first.images[0].getpixel((0, 0)) == (255, 0, 0)
    assert second.images[0].tobytes() != first.images[0].tobytes()


def test_a_staged_picture_does_not_need_its_file(script: Script, home: Path) -> None:
    """The session has a copy."""
    Image.new("RGB", (64, 64), "red").save(home / "mine.png")
    assert script("mine.png").code == 0
    (home / "mine.png").unlink()
    outcome = script("make it blue", options=("--continue",))
    assert outcome.code == 0, outcome.stderr


def test_a_deleted_picture_is_an_error(script: Script, home: Path) -> None:
    path = Path(script("a cat").stdout.strip())
    path.unlink()
    outcome = script("make it red", "a dog --seed 3", options=("--continue",))
    assert outcome.code == 1
    assert "picture 1" in outcome.stderr
    assert str(path.name) in outcome.stderr


def test_save_overwrites_only_if_forced(script: Script, home: Path) -> None:
    (home / "cat.png").write_bytes(b"precious")
    outcome = script("a cat", "/save cat.png", "/save 1 other.png")
    assert outcome.code == 1
    assert "cat.png exists already" in outcome.stderr
    assert (home / "cat.png").read_bytes() == b"precious"
    assert outcome.stdout.splitlines()[-1] == "other.png"
    assert Image.open(home / "other.png").size == (64, 64)
    assert script("/save cat.png -f", options=("--continue",)).code == 0
    assert Image.open(home / "cat.png").size == (64, 64)


def test_a_line_can_also_write_a_file(script: Script, home: Path) -> None:
    outcome = script("a cat -o out/cat.png")
    assert outcome.code == 0, outcome.stderr
    assert (home / "out" / "cat.png").is_file()


def test_a_failed_turn_is_logged_and_the_session_continues(script: Script) -> None:
    def prepare(engine: FakeEngine) -> None:
        def fail(number: int) -> None:
            if len(engine.requests) == 2:
                raise DeviceMemoryError("out of memory: this request does not fit", "ask for a smaller picture")

        engine.on_step = fail

    script.program.prepare = prepare
    outcome = script("a cat", "make it red", "make it blue")
    assert outcome.code == 1
    assert "hint: ask for a smaller picture" in outcome.stderr
    assert len(outcome.stdout.splitlines()) == 2
    turns = [entry for entry in session_file() if "turn" in entry]
    assert [entry["status"] for entry in turns] == ["done", "failed", "done"]
    assert "out of memory" in str(turns[1]["reason"])


def test_an_interrupted_turn_is_logged_and_ends_a_script(script: Script) -> None:
    def prepare(engine: FakeEngine) -> None:
        def interrupt(number: int) -> None:
            if len(engine.requests) == 2:
                raise KeyboardInterrupt

        engine.on_step = interrupt

    script.program.prepare = prepare
    outcome = script("a cat", "make it red", "never")
    assert outcome.code == 130
    assert "interrupted" in outcome.stderr
    turns = [entry for entry in session_file() if "turn" in entry]
    assert [entry["status"] for entry in turns] == ["done", "cancelled"]
    script.program.prepare = lambda engine: None
    assert script("make it blue", options=("--continue",)).code == 0
    assert [entry for entry in session_file() if "turn" in entry][-1]["inputs"] == [1]


def test_a_load_error_is_reported_by_the_first_turn(script: Script) -> None:
    script.program.load_error = CheckpointError("a shard is truncated", "download it again")
    outcome = script("/help", "a cat")
    assert outcome.code == 1
    assert "error: a shard is truncated" in outcome.stderr


def test_a_session_can_be_continued(script: Script) -> None:
    script("/set num_steps 3", "a cat", "make it red", "/undo")
    outcome = script("make it blue", "/history", options=("--continue",))
    assert outcome.code == 0, outcome.stderr
    assert "2 turns, 2 pictures" in outcome.stderr
    (edit,) = script.requests
    assert edit.settings.num_steps == 3
    assert "3. edit of 1: make it blue → 3" in outcome.stderr


def test_sessions_have_names(script: Script) -> None:
    assert script("a cat", options=("--session", "holiday")).code == 0
    assert "holiday" in script.program("sessions", "list").stdout
    assert script("make it red", options=("--session", "holiday")).code == 0
    assert "2. edit of 1" in script("/history", options=("--session", "holiday")).stderr
    assert script("x", options=("--session", "../holiday")).code == 2
    assert script("x", options=("--session", "a", "--continue")).code == 2


def test_a_session_without_a_turn_leaves_nothing(script: Script, tmp_path: Path) -> None:
    assert script("/help", "/set").code == 0
    assert list((tmp_path / "data").glob("sessions/*")) == []


def test_comments_and_empty_lines_are_ignored(script: Script) -> None:
    outcome = script("# a comment", "", "a cat \\", "at dusk", "/quit", "never")
    assert outcome.code == 0
    assert [request.prompt for request in script.requests] == ["a cat \nat dusk"]


@pytest.mark.parametrize("word", ["exit", "quit", "Quit", ":q", "/exit", "/q", "/quit"])
def test_words_that_leave(script: Script, word: str) -> None:
    outcome = script(word, "never")
    assert (outcome.code, outcome.stdout) == (0, "")


def test_words_that_help(script: Script) -> None:
    outcome = script("help", "?", "/?", "/h", "clear")
    assert (outcome.code, outcome.stdout) == (0, "")
    assert outcome.stderr.count("Keys: Tab completes") == 4


def test_only_pictures_are_opened_on_the_desktop(
    script: Script, home: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's session may name a program as its picture."""
    tool = home / "bin" / "xdg-open"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho $1 > {home}/opened\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.setenv("DISPLAY", ":9")
    path = Path(script("a cat").stdout.strip())
    (file,) = data.glob("sessions/*/session.jsonl")
    file.write_text(file.read_text().replace(path.name, "001-a-cat.desktop"))
    path.rename(path.with_name("001-a-cat.desktop"))
    assert "001-a-cat.desktop is not named as a picture" in script("/open", options=("--continue",)).stderr
    file.write_text(file.read_text().replace("001-a-cat.desktop", path.name))
    path.write_text("#!/bin/sh\n")
    assert path.name in script("/open", options=("--continue",)).stderr
    assert not (home / "opened").exists()


def test_a_script_without_a_session_writes_its_pictures_here(script: Script, home: Path, data: Path) -> None:
    outcome = script(
        "a cat --seed 7", "make it red", "? what is this?", "a dog -o dog.png", options=("--no-session", "-q")
    )
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines() == ["a-cat-7.png", "make-it-red-42.png", "It is a cat.", "dog.png"]
    assert not list(data.glob("sessions/*"))
    record = read_record(home / "make-it-red-42.png")
    assert record is not None and record.inputs[0].path == str(home / "a-cat-7.png")
    assert script.program("edit", "--from", "make-it-red-42.png", "-o", "again.png").code == 0
    assert (home / "again.png").read_bytes() == (home / "make-it-red-42.png").read_bytes()
    assert script("a cat", options=("--no-session", "--continue")).code == 2


def test_statistics_show_reused_tokens(script: Script) -> None:
    outcome = script("a cat", "? what is this?", "/stats")
    assert re.search(r"prefix +\d+ tokens computed, \d+ of \d+ reused", outcome.stderr)


def test_statistics_name_their_turn(script: Script) -> None:
    """A turn that fails leaves none; one that does not begin leaves those of the turn before, which are named."""
    script.program.prepare = fail_at("dog")
    outcome = script("a cat", "/generate a fox --size 33x33", "/stats", "/generate a dog", "/stats")
    assert re.search(r"^turn +generate: a cat$", outcome.stderr, re.MULTILINE)
    assert "the last turn did not finish, so it has no measurements" in outcome.stderr


def fail_at(word: str) -> Callable[[FakeEngine], None]:
    def prepare(engine: FakeEngine) -> None:
        def fail(step: int) -> None:
            if word in engine.requests[-1].prompt:
                raise NumericsError("NaN", "")

        engine.on_step = fail

    return prepare


def test_help_names_every_command_and_more_of_each(script: Script) -> None:
    from sensenova_cli.repl.slash_commands import COMMANDS

    outcome = script("/help", *(f"/help {name}" for name in COMMANDS))
    assert outcome.code == 0
    for name, command in COMMANDS.items():
        assert f"/{name}" in outcome.stderr
        assert command.help.split()[0] in outcome.stderr


def test_quiet_prints_only_errors(script: Script) -> None:
    outcome = script("a cat", "/undo", options=("-q",))
    assert outcome.stderr == ""
    assert "error: there is nothing" in script("/redo", options=("-q",)).stderr


def test_a_broken_pipe_ends_the_session(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sensenova_cli.repl.repl.Repl.print_result", lambda self, text: (_ for _ in ()).throw(BrokenPipeError)
    )
    outcome = script("a cat", "a dog")
    assert len(script.requests) == 1
    assert "Traceback" not in outcome.stderr


def test_nothing_heavy_is_imported_for_the_help() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from sensenova_cli.app import app; "
        "print(CliRunner().invoke(app, ['repl', '--help']).stdout); "
        "print('heavy:', {'torch', 'PIL', 'prompt_toolkit', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--continue" in done.stdout
    assert "heavy: set()" in done.stdout


def test_again_does_not_repeat_the_output_file(script: Script, home: Path) -> None:
    assert script("a cat -o cat.png", "/again").code == 0
    outcome = script("a cat -o cat.png")
    assert "cat.png exists already" in outcome.stderr
    assert outcome.stdout == ""
    assert script("a cat -o cat.png -f").code == 0
    assert "stdout of a session is for paths" in script("a cat -o -").stderr


def test_a_repeated_question_unstages_its_picture(script: Script, home: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(home / "mine.png")
    script("/load mine.png", "? what is this?", "/image 1", "? and now?", "/generate a dog", "make it red")
    edit = script.requests[-1]
    assert isinstance(edit, EditRequest)
    assert edit.images[0].getpixel((0, 0)) != (255, 0, 0)


def test_a_failed_load_is_repeated_by_the_next_turn(script: Script) -> None:
    program = script.program
    load = program.load

    def fail_once(*arguments: object, **options: object) -> object:
        if not program.engines:
            program.engines.append(None)  # type: ignore[arg-type]
            raise CheckpointError("the network broke down", "try again")
        return load(*arguments, **options)  # type: ignore[arg-type]

    model.opening.open_engine = fail_once  # type: ignore[assignment]  # `program` puts it back
    outcome = script("a cat", "a cat")
    assert outcome.code == 1
    assert "the network broke down" in outcome.stderr
    assert len(outcome.stdout.splitlines()) == 1


def test_a_model_that_lost_a_rank_is_reloaded(script: Script) -> None:
    def lose(engine: FakeEngine) -> None:
        def lost(step: int) -> None:
            engine.lost = True
            raise RankError("rank 1 of 2 was killed (SIGKILL)", "load the model again; in a session the next turn does")

        if not script.program.engines:
            engine.on_step = lost

    script.program.prepare = lose
    outcome = script("a cat", "a cat")
    assert outcome.code == 1
    assert outcome.stderr.count("error: rank 1 of 2 was killed (SIGKILL)") == 1
    assert len(outcome.stdout.splitlines()) == 1
    assert len(script.program.engines) == 2
    assert script.program.engines[0].closed


def test_a_session_folder_that_cannot_be_written(script: Script, data: Path) -> None:
    data.write_text("in the way")
    outcome = script("a cat")
    assert outcome.code == 2
    assert "set SENSENOVA_DATA_DIR to a writable folder" in outcome.stderr


def test_a_damaged_session_loads_its_valid_turns(script: Script, data: Path) -> None:
    script("a cat", "make it red", "make it blue")
    (file,) = data.glob("sessions/*/session.jsonl")
    lines = file.read_text().splitlines()
    lines[2] = lines[2][:40]
    file.write_text("\n".join(lines) + "\n")
    outcome = script("/history", options=("--continue",))
    assert "session.jsonl:3" in outcome.stderr
    assert "1. generate: a cat" in outcome.stderr
    assert "3. edit of 2: make it blue" in outcome.stderr


def test_the_record_names_the_model_that_drew(script: Script, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the model whose load failed before."""
    checkpoint = os.environ["SENSENOVA_MODEL"]
    monkeypatch.delenv("SENSENOVA_MODEL")
    (home / "sensenova.toml").write_text('model = "./gone"\n')
    run_line = Repl.run_line

    def repair_then_run(self: Repl, typed: str) -> bool:
        if typed == "a dog":
            (home / "sensenova.toml").write_text(f'model = "{checkpoint}"\n')
        return run_line(self, typed)

    monkeypatch.setattr(Repl, "run_line", repair_then_run)
    outcome = script("a cat", "a dog")
    assert "there is no checkpoint folder ./gone" in outcome.stderr
    record = read_record(Path(outcome.stdout.strip()))
    assert record is not None and record.loaded.model == checkpoint
    assert session_file()[-1]["model"] == checkpoint
