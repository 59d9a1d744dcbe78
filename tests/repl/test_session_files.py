"""Sessions on disk: written at once, read back, damaged, killed, shared and moved."""

import errno
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.errors import PictureError
from sensenova_cli import __version__
from sensenova_cli.errors import OutputWriteError, SessionError, SessionWriteError, exit_code
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.outputs.png_metadata import read_record
from sensenova_cli.sessions.entries import Redo, Set, Stage, Undo, Use, UseProfile
from sensenova_cli.sessions.lock import LOCK_FILE, is_locked
from sensenova_cli.sessions.saved import SavedSession, read_session
from sensenova_cli.sessions.session import Session
from sensenova_cli.sessions.store import find_session, latest_session, sessions_folder
from tests.repl.sessions import MODEL, ask, draw, record

ROOT = Path(__file__).parents[2]


def rich_session(name: str = "cats") -> Path:
    """Write a session with every kind of entry, and return its folder."""
    Image.new("RGB", (40, 20), "teal").save("outside.jpg")
    with Session.open(name, MODEL) as session:
        draw(session, "A cat", 7, 8, typed={"size": "16:9"}, think_text="First the cat.")
        session.append(Use(picture=2))
        draw(session, "red", 9, kind="edit", inputs=(2,))
        session.append(Set(settings={"num_steps": 4, "cfg_interval": [0.1, 0.9]}))
        session.append(Stage(staged=(session.import_picture("outside.jpg").number,)))
        ask(session, "Which of them?", inputs=(4,))
        session.append(Undo())
        session.append(Redo())
        session.append(UseProfile(profile="draft"))
        draw(session, "again", 10, status="cancelled", reason="interrupted")
        folder = session.folder
    assert folder is not None
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def file_of(folder: Path) -> Path:
    return folder / "session.jsonl"


def problems(saved: SavedSession) -> list[str]:
    return [f"{Path(problem.place).name}: {problem.what}" for problem in saved.problems]


def script(code: str, *words: str) -> subprocess.Popen[str]:
    """Start a Python process that runs `code` after imports; its stdin and stdout are pipes."""
    head = (
        "import os, sys\nfrom sensenova_cli.sessions.session import Session\n"
        "from tests.repl.sessions import MODEL, ask, draw\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# Round trip


def test_a_session_is_read_back_unchanged() -> None:
    folder = rich_session()
    saved = read_session(folder)
    with Session.open("cats", MODEL) as session:
        assert session.state == saved.state
        assert session.problems == saved.problems == ()
    assert [turn.prompt for turn in saved.state.turns] == ["A cat", "red", "Which of them?", "again"]
    assert saved.state.now.selected == 5
    assert [turn.prompt for turn in saved.state.now.conversation] == ["Which of them?"]
    assert saved.state.settings == {"num_steps": 4, "cfg_interval": [0.1, 0.9]}
    assert all(saved.path(number).is_file() for number in saved.state.pictures)


def test_each_line_is_a_json_object_and_the_first_names_format_model_and_version() -> None:
    lines = [json.loads(line) for line in file_of(rich_session()).read_text().splitlines()]
    first = lines[0]
    assert (first["kind"], first["format"], first["model"], first["version"]) == ("opened", 1, MODEL, __version__)
    assert all(line["when"] for line in lines)


def test_text_of_any_kind_survives() -> None:
    prompt = '一只猫 🐈 \u2028 \x00 "quoted"\nsecond line \\ caf\udce9'
    with Session.open("cats", MODEL) as session:
        ask(session, prompt, answer=prompt * 1000)
    (turn,) = read_session(find_session("cats")).state.turns
    assert (turn.prompt, turn.answer) == (prompt, prompt * 1000)  # type: ignore[union-attr]


def test_a_picture_has_the_bytes_that_generate_would_have_written() -> None:
    image = Image.new("RGB", (64, 32), "navy")
    with Session.open("cats", MODEL) as session:
        picture = session.add_picture(image, prompt="A cat", seed=7, record=record("A cat", 7))
        path = session.path(picture.number)
    assert path.name == "001-a-cat-7.png"
    assert read_record(path) == record("A cat", 7)
    direct = PictureWriter.prepare("direct.png", stdout_is_terminal=False).write(
        image, prompt="A cat", seed=7, index=0, count=1, record=record("A cat", 7)
    )
    assert direct is not None
    assert path.read_bytes() == direct.read_bytes()


def test_a_name_with_braces_is_not_a_template(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSENOVA_DATA_DIR", str(data / "{seed}"))
    with Session.open("cats", MODEL) as session:
        draw(session, "A cat")
        assert session.path(1).parent == data / "{seed}" / "sessions" / "cats" / "pictures"


def test_each_program_that_continues_writes_an_opened_entry() -> None:
    rich_session()
    with Session.open("cats", "other/model"):
        pass
    assert "other/model" not in file_of(find_session("cats")).read_text()
    with Session.open("cats", "other/model") as session:
        ask(session, "And now?")
        ask(session, "And now?")
    opened = [entry for entry in read_session(find_session("cats")).entries if entry.kind == "opened"]
    assert [entry.model for entry in opened] == [MODEL, "other/model"]


# Pictures from outside


def test_a_picture_from_outside_is_copied() -> None:
    folder = rich_session()
    outside = Path("outside.jpg")
    content = outside.read_bytes()
    outside.unlink()
    picture = read_session(folder).state.pictures[4]
    assert (folder / "pictures" / picture.file).read_bytes() == content
    assert (picture.file, picture.source) == ("004-outside.jpeg", str(outside.absolute()))
    with Session.open("cats", MODEL) as session:
        given = session.read(4)
    assert (given.name, given.image.size, given.source.path) == (
        "picture 4",
        (40, 20),
        str(folder / "pictures" / picture.file),
    )


def test_the_same_file_is_copied_once() -> None:
    rich_session()
    with Session.open("cats", MODEL) as session:
        assert session.import_picture("outside.jpg").number == 4
        shutil.copy("outside.jpg", "same.jpg")
        assert session.import_picture("same.jpg").number == 4
        assert session.import_picture(str(session.path(1))).number == 1
        Image.new("RGB", (8, 8)).save("other.png")
        assert session.import_picture("other.png").number == session.import_picture("other.png").number == 6


def test_the_next_entry_names_imported_pictures() -> None:
    Image.new("RGB", (8, 8)).save("cat.png")
    with Session.open("cats", MODEL) as session:
        number = session.import_picture("cat.png").number
        session.append(Set(settings={"seed": 1}))
        draw(session, "Make it red", kind="edit", inputs=(number,))
    saved = read_session(find_session("cats"))
    assert {number: bool(picture.source) for number, picture in saved.state.pictures.items()} == {1: True, 2: False}


def test_a_file_that_is_not_a_picture_is_not_imported() -> None:
    Path("letter.txt").write_text("no picture")
    with Session.open("cats", MODEL) as session:
        with pytest.raises(PictureError, match=r"letter\.txt"):
            session.import_picture("letter.txt")
        with pytest.raises(PictureError, match="no file"):
            session.import_picture("nowhere.png")
        assert list(session.state.pictures) == []


def test_a_missing_picture_is_reported() -> None:
    folder = rich_session()
    (folder / "pictures" / "001-a-cat-7.png").unlink()
    with Session.open("cats", MODEL) as session:
        assert [problem.what for problem in session.problems] == ["picture 1 is missing"]
        with pytest.raises(PictureError, match="picture 1 is missing"):
            session.read(1)
        assert session.read(2).seed == 8


# Damage


@pytest.mark.parametrize("entry", ["turn", "cancelled turn"])
def test_a_last_line_cut_off_at_any_byte(entry: str) -> None:
    """Only that line is lost, and the next one does not follow its remains."""
    with Session.open("cats", MODEL) as session:
        ask(session, "First?")
        before = file_of(find_session("cats")).read_bytes()
        ask(session, "Zweite Frage: süß 🐈?", status="done" if entry == "turn" else "cancelled")
    folder = find_session("cats")
    whole = file_of(folder).read_bytes()
    for length in range(len(before), len(whole) + 1):
        file_of(folder).write_bytes(whole[:length])
        kept = length >= len(whole) - 1  # with and without its newline
        saved = read_session(folder)
        assert len(saved.state.turns) == (2 if kept else 1), length
        torn = ["session.jsonl:3: is incomplete: the program ended while it wrote this line, which is lost"]
        assert problems(saved) == ([] if kept or length == len(before) else torn), length
        with Session.open("cats", MODEL) as session:
            ask(session, "Third?")
        healed = read_session(folder)
        assert healed.problems == ()
        assert [turn.prompt for turn in healed.state.turns][-1] == "Third?"
        assert len(healed.state.turns) == (3 if kept else 2)


def test_valid_turns_of_a_damaged_file_load_and_bad_lines_are_named() -> None:
    folder = rich_session()
    lines = file_of(folder).read_bytes().splitlines()
    bad = [
        b"not json",
        b"[1, 2]",
        b'{"turn": 1}',
        b'{"kind": "dance", "when": "2026-07-31T12:00:00+00:00"}',
        b'{"kind": "use"}',
        b'{"kind": "use", "picture": 99}',
        b"\xff\xfe",
        b"1" * 5000,
        b"[" * 100_000,
        b'{"kind": "stage", "staged": [], "brought": [{"number": 9, "file": "../../secret", "width": 1, "height": 1}]}',
    ]
    file_of(folder).write_bytes(b"\n".join([*lines[:3], b"", *bad, *lines[3:]]) + b"\n")
    saved = read_session(folder)
    assert [turn.turn for turn in saved.state.turns] == [1, 2, 3, 4]
    assert problems(saved) == [
        "session.jsonl:5: is not JSON: Expecting value at column 1",
        "session.jsonl:6: is not a JSON object",
        'session.jsonl:7: has no "kind"',
        'session.jsonl:8: "kind": "dance" is unknown',
        "session.jsonl:9: picture: field required",
        "session.jsonl:10: there is no picture 99 in this session",
        "session.jsonl:11: byte 1 of the line is not UTF-8",
        "session.jsonl:12: is not readable JSON",
        "session.jsonl:13: is not readable JSON",
        "session.jsonl:14: brought.0.file: '../../secret' is not a plain file name",
    ]


def test_a_turn_whose_input_was_lost_with_another_line_still_loads() -> None:
    folder = rich_session()
    lines = file_of(folder).read_bytes().splitlines(keepends=True)
    file_of(folder).write_bytes(lines[0] + b"{}\n" + b"".join(lines[2:]))
    saved = read_session(folder)
    assert [turn.turn for turn in saved.state.turns] == [2, 3, 4]
    with Session.open("cats", MODEL) as session:
        assert draw(session, "on and on").turn == 5


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "session.jsonl: the file is empty"),
        (b"{}\n", 'session.jsonl:1: has no "kind"'),
        (b"\0\0\0\0", "session.jsonl:1: is incomplete: the program ended while it wrote this line, which is lost"),
    ],
)
def test_a_file_without_its_first_line_can_be_continued(content: bytes, problem: str) -> None:
    folder = rich_session()
    file_of(folder).write_bytes(content)
    assert problems(read_session(folder)) == [problem]
    with Session.open("cats", MODEL) as session:
        draw(session, "A new cat", 7)
        assert session.path(1).name == "001-a-new-cat-7.png"
    saved = read_session(folder)
    assert [turn.prompt for turn in saved.state.turns] == ["A new cat"]


def test_no_picture_is_replaced_by_one_of_the_same_name() -> None:
    folder = rich_session()
    file_of(folder).write_bytes(b"")
    before = (folder / "pictures" / "001-a-cat-7.png").read_bytes()
    with Session.open("cats", MODEL) as session:
        draw(session, "A cat", 7)
        assert session.path(1).name == "001-a-cat-7-2.png"
    assert (folder / "pictures" / "001-a-cat-7.png").read_bytes() == before


def test_what_a_newer_version_wrote_is_refused() -> None:
    folder = rich_session()
    newer = {"kind": "opened", "when": "2030-01-01T00:00:00+00:00", "format": 2, "model": "m", "version": "9.1"}
    with file_of(folder).open("a") as file:
        file.write(json.dumps(newer) + "\n")
    for attempt in (lambda: read_session(folder), lambda: Session.open("cats", MODEL)):
        with pytest.raises(SessionError, match=r"newer version of sensenova \(9.1\)") as problem:
            attempt()
        assert "update" in problem.value.hint
    file_of(folder).write_bytes(file_of(folder).read_bytes().rpartition(b'{"kind": "opened"')[0])
    Session.open("cats", MODEL).close()  # the lock is free


def test_fields_of_a_newer_version_are_ignored() -> None:
    folder = rich_session()
    lines = [json.loads(line) | {"mood": "sunny"} for line in file_of(folder).read_text().splitlines()]
    before = read_session(folder)
    file_of(folder).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_session(folder).entries == before.entries


# Death and company


def test_killed_at_any_moment_a_session_loses_at_most_the_turn_in_flight() -> None:
    """A process writes turns as fast as it can and prints the number of each; it is killed at eight moments."""
    code = """
with Session.open(sys.argv[1], MODEL) as session:
    while True:
        turn = draw(session, "A cat that is drawn again and again", 1, 2)
        print(turn.turn, flush=True)
"""
    for moment in range(8):
        name = f"killed-{moment}"
        with script(code, name) as process:
            assert process.stdout is not None
            printed = [process.stdout.readline() for _ in range(3 + moment)]
            process.send_signal(signal.SIGKILL)
            printed += process.stdout.readlines()
        last = int([line for line in printed if line.endswith("\n")][-1])
        saved = read_session(find_session(name))
        assert last <= len(saved.state.turns) <= last + 1
        assert saved.missing == frozenset()
        for number in saved.state.pictures:
            with Image.open(saved.path(number)) as image:
                image.load()
        with Session.open(name, MODEL) as session:
            ask(session, "Still there?")
            folder = session.folder
        assert folder is not None
        assert read_session(folder).problems == ()
        assert list(folder.rglob("*.part")) == []


def test_killed_in_the_middle_of_a_line() -> None:
    """The process stops after half of the bytes of its second turn."""
    code = """
from sensenova_cli.sessions import session as module
with Session.open("cats", MODEL) as session:
    draw(session, "whole")
    def half(file, data):
        os.write(file.fileno(), data[: len(data) // 2])
        print("half", flush=True)
        sys.stdin.read()
    module._write_all = half
    draw(session, "torn")
"""
    with script(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        folder = find_session("cats")
        while_written = read_session(folder)
        process.kill()
    assert while_written.problems == ()
    assert [turn.prompt for turn in while_written.state.turns] == ["whole"]
    saved = read_session(folder)
    assert [turn.prompt for turn in saved.state.turns] == ["whole"]
    assert len(saved.problems) == 1
    with Session.open("cats", MODEL) as session:
        assert session.problems == saved.problems
        draw(session, "next")
    healed = read_session(folder)
    assert ([turn.prompt for turn in healed.state.turns], healed.problems) == (["whole", "next"], ())


def test_two_processes_cannot_write_one_session() -> None:
    code = """
with Session.open("cats", MODEL) as session:
    draw(session, "mine")
    print(session.name, flush=True)
    sys.stdin.readline()
    draw(session, "mine, too")
    print("written", flush=True)
    sys.stdin.readline()
"""
    with script(code) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(SessionError) as problem:
            Session.open("cats", MODEL)
        assert problem.value.what == f"the session cats is in use by process {process.pid}"
        assert exit_code(problem.value) == 2
        assert [turn.prompt for turn in read_session(find_session("cats")).state.turns] == ["mine"]
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        assert len(read_session(find_session("cats")).state.turns) == 2
        process.kill()
    with Session.open("cats", MODEL) as session:
        assert len(session.state.turns) == 2


def test_a_second_attempt_leaves_the_name_of_the_holder() -> None:
    with Session.open("cats", MODEL) as session:
        assert session.folder is not None
        for _ in range(2):
            with pytest.raises(SessionError, match=f"in use by process {os.getpid()}"):
                Session.open("cats", MODEL)
        assert is_locked(session.folder)
    assert not is_locked(session.folder)


def test_a_folder_that_is_replaced_while_it_is_locked_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = rich_session()
    flock = fcntl.flock

    def replace_and_lock(descriptor: int, operation: int) -> None:
        if not folder.with_name("renamed").exists():
            folder.rename(folder.with_name("renamed"))
            folder.mkdir()
            (folder / LOCK_FILE).write_text("1 on elsewhere")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    with pytest.raises(SessionError, match="cats cannot be opened for writing"):
        Session.open("cats", MODEL)
    assert (folder / LOCK_FILE).read_text() == "1 on elsewhere"
    assert not is_locked(folder.with_name("renamed"))


def test_a_lock_file_that_cannot_be_written() -> None:
    folder = rich_session()
    (folder / LOCK_FILE).unlink()
    (folder / LOCK_FILE).mkdir()
    with pytest.raises(SessionError, match="cats cannot be opened for writing") as problem:
        Session.open("cats", MODEL)
    assert "SENSENOVA_DATA_DIR" in problem.value.hint


def test_two_new_sessions_of_one_prompt_get_two_names() -> None:
    with Session.start(MODEL) as one, Session.start(MODEL) as two:
        draw(one, "A cute cat")
        draw(two, "A cute cat")
        assert two.name == f"{one.name}-2"


def test_a_full_disk_leaves_the_session_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    from sensenova_cli.sessions import session as module

    with Session.open("cats", MODEL) as session:
        draw(session, "A cat")
        before, state = file_of(find_session("cats")).read_bytes(), session.state

        def run_full(file: io.FileIO, data: bytes) -> None:
            file.write(data[:20])
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(module, "_write_all", run_full)
            with pytest.raises(SessionWriteError, match="No space left") as problem:
                ask(session, "lost?")
        assert exit_code(problem.value) == 1
        assert file_of(find_session("cats")).read_bytes() == before
        assert session.state == state
        ask(session, "found")
    assert [turn.prompt for turn in read_session(find_session("cats")).state.turns] == ["A cat", "found"]


def test_ctrl_c_while_a_line_is_written_leaves_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Session.open("cats", MODEL) as session:
        draw(session, "A cat")
        before = file_of(find_session("cats")).read_bytes()

        def interrupted(descriptor: int) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ask(session, "lost?")
        assert file_of(find_session("cats")).read_bytes() == before
        assert ask(session, "found").turn == 2


def test_a_folder_that_was_removed_meanwhile_is_noticed() -> None:
    with Session.open("cats", MODEL) as session:
        draw(session, "A cat")
        shutil.rmtree(find_session("cats"))
        with pytest.raises(SessionWriteError, match="cats cannot be written"):
            ask(session, "Where?")


def test_a_picture_that_cannot_be_written_is_saved_elsewhere(data: Path) -> None:
    with Session.open("cats", MODEL) as session:
        (data / "sessions" / "cats" / "pictures").write_text("a file in the way")
        with pytest.raises(OutputWriteError, match="the picture was saved in ") as problem:
            draw(session, "A cat")
        kept = Path(problem.value.what.rpartition(" saved in ")[2])
        with Image.open(kept) as image:
            assert image.size == (64, 32)
        kept.unlink()
        assert problem.value.hint.startswith("make room, or check the folder")
        Image.new("RGB", (8, 8)).save("cat.png")
        with pytest.raises(SessionWriteError, match=r"cat.png cannot be copied"):
            session.import_picture("cat.png")


# Names and places


def test_a_new_session_is_named_by_day_and_prompt_once_something_happens() -> None:
    with Session.start(MODEL) as session:
        session.append(Set(settings={"seed": 7}))
        assert (session.name, list(sessions_folder().iterdir())) == (None, [])
        draw(session, "A cute cat sitting on the windowsill of an old house")
        assert session.name is not None
        assert session.name[10:] == "-a-cute-cat-sitting-on"
    saved = read_session(find_session(session.name))
    assert saved.state == session.state
    assert saved.state.settings == {"seed": 7}


def test_an_empty_session_leaves_nothing_behind() -> None:
    with Session.start(MODEL) as session:
        session.append(Set(settings={"seed": 7}))
    assert list(sessions_folder().iterdir()) == []


@pytest.mark.parametrize("name", ["my cats", "猫と犬", "ÄÖ-ü_1.2", "हिन्दी", "x" * 200])
def test_valid_names(name: str) -> None:
    with Session.open(name, MODEL) as session:
        draw(session, "A cat")
    with Session.open(name, MODEL) as session:
        assert len(session.state.turns) == 1
    assert [path.name for path in sessions_folder().iterdir()] == [name]


def test_both_encodings_of_an_accent_are_one_name() -> None:
    with Session.open("caf\u00e9", MODEL) as session:
        draw(session, "A cat")
    with Session.open("cafe\u0301", MODEL) as session:
        assert len(session.state.turns) == 1


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", "../up", "a/b", "/etc", "-rf", ".hidden", "a\nb", "a\0b", "end.", "x" * 201, "a:b", "~"],
)
def test_invalid_names(name: str, data: Path) -> None:
    with pytest.raises(SessionError) as problem:
        Session.open(name, MODEL)
    assert problem.value.hint
    assert not data.exists()


def test_a_similar_name_is_suggested() -> None:
    rich_session("cats-and-dogs")
    with pytest.raises(SessionError, match="no session named 'cats-and-dog'") as problem:
        find_session("cats-and-dog")
    assert problem.value.hint.startswith("did you mean cats-and-dogs?")


def test_the_latest_session_is_the_one_used_last() -> None:
    with pytest.raises(SessionError, match="no session to continue yet"):
        latest_session()
    for name in ("one", "two"):
        with Session.open(name, MODEL) as session:
            draw(session, "A cat")
    assert latest_session().name == "two"
    with Session.open("one", MODEL) as session:
        ask(session, "And now?")
    assert latest_session().name == "one"
    with Session.open("three", MODEL) as session:
        draw(session, "A cat")
        folder = session.folder
    assert folder is not None
    file_of(folder).write_bytes(file_of(folder).read_bytes().replace(b'"format": 1', b'"format": 2'))
    assert latest_session().name == "three"  # which then says why it cannot be opened


def test_an_unwritable_folder_is_reported_at_once(data: Path) -> None:
    data.mkdir()
    (data / "sessions").write_text("a file in the way")
    attempts: list[Any] = [lambda: Session.start(MODEL), lambda: Session.open("cats", MODEL)]
    for attempt in attempts:
        with pytest.raises(SessionError) as problem:
            attempt()
        assert exit_code(problem.value) == 2
        assert "SENSENOVA_DATA_DIR" in problem.value.hint


def test_a_read_only_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc is read-only for root, too."""
    if not Path("/proc/self").exists():
        pytest.skip("needs Linux's /proc")
    monkeypatch.delenv("SENSENOVA_DATA_DIR")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc")
    with pytest.raises(SessionError, match=r"sessions cannot be saved in /proc/.local/share/sensenova/sessions"):
        Session.start(MODEL)


def test_sessions_are_in_the_user_s_data_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSENOVA_DATA_DIR")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sessions_folder().is_relative_to(tmp_path)
    assert sessions_folder().parts[-2:] == ("sensenova", "sessions")


def test_a_session_can_be_moved() -> None:
    folder = rich_session()
    moved = folder.with_name("moved")
    folder.rename(moved)
    (moved / LOCK_FILE).unlink()
    saved = read_session(moved)
    assert (saved.problems, len(saved.state.turns)) == ((), 4)
