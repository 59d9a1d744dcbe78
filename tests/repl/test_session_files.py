"""Sessions on disk: written at once, read back, damaged, killed, shared and moved."""

import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from model.errors import PictureError
from sensenova_cli import __version__
from sensenova_cli.errors import OutputWriteError, SessionError, SessionWriteError, exit_code
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.sessions.entries import Set
from sensenova_cli.sessions.saved import read_session
from sensenova_cli.sessions.session import Session
from sensenova_cli.sessions.store import find_session
from tests.repl.sessions import MODEL, ask, draw, file_of, problems, record, rich_session

pytestmark = pytest.mark.usefixtures("here")


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
    assert (first["kind"], first["format"], first["model"], first["version"]) == ("opened", 2, MODEL, __version__)
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
    newer = {"kind": "opened", "when": "2030-01-01T00:00:00+00:00", "format": 3, "model": "m", "version": "9.1"}
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
        assert problem.value.hint.startswith("free some disk space, or check the folder")
        Image.new("RGB", (8, 8)).save("cat.png")
        with pytest.raises(SessionWriteError, match=r"cat.png cannot be copied"):
            session.import_picture("cat.png")


# Names and places
