"""Names and places of sessions on disk."""

from pathlib import Path
from typing import Any

import pytest

from sensenova_cli.errors import SessionError, exit_code
from sensenova_cli.sessions.entries import Set
from sensenova_cli.sessions.lock import LOCK_FILE
from sensenova_cli.sessions.saved import read_session
from sensenova_cli.sessions.session import Session
from sensenova_cli.sessions.store import complete_name, find_session, latest_session, sessions_folder
from tests.repl.sessions import MODEL, ask, draw, file_of, rich_session

pytestmark = pytest.mark.usefixtures("here")


def test_two_new_sessions_of_one_prompt_get_two_names() -> None:
    with Session.start(MODEL) as one, Session.start(MODEL) as two:
        draw(one, "A cute cat")
        draw(two, "A cute cat")
        assert two.name == f"{one.name}-2"


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
    with pytest.raises(SessionError, match="no session named 'cats-and-dgos'") as problem:
        find_session("cats-and-dgos")
    assert problem.value.hint.startswith("did you mean cats-and-dogs?")


def test_the_beginning_of_a_name_is_enough() -> None:
    for name in ("2026-07-31-a-cute-cat", "2026-07-31-a-dog", "2026-08-01-a-dog", "a-dog-s-day"):
        rich_session(name)
    assert find_session("2026-07-31-a-c").name == "2026-07-31-a-cute-cat"
    assert find_session("a-c").name == "2026-07-31-a-cute-cat"
    assert find_session("2026-08").name == "2026-08-01-a-dog"
    assert find_session("2026-07-31-a-dog").name == "2026-07-31-a-dog"
    for beginning in ("2026-07", "a-dog"):
        with pytest.raises(SessionError, match=f"several sessions begin with '{beginning}': 2026-07-31-a-") as problem:
            find_session(beginning)
        assert "type more of the name" in problem.value.hint
    with pytest.raises(SessionError, match="no session named ''"):
        find_session("")


def test_only_names_with_a_date_are_completed_when_a_session_is_opened() -> None:
    rich_session("2026-07-31-a-cute-cat")
    rich_session("cats")
    assert complete_name("2026-07-31-a") == "2026-07-31-a-cute-cat"
    assert complete_name("cat") == "cat"
    assert complete_name("2026-07-30-x") == "2026-07-30-x"


def test_a_session_can_be_renamed_while_it_is_open() -> None:
    rich_session("dogs")
    with Session.open("cats", MODEL) as session:
        draw(session, "A cat")
        with pytest.raises(SessionError, match="there is a session named dogs already"):
            session.rename("dogs")
        session.rename("my cats")
        draw(session, "Another cat")
        with pytest.raises(SessionError, match="in use"):
            Session.open("my cats", MODEL)
    saved = read_session(find_session("my cats"))
    assert (len(saved.state.pictures), saved.problems) == (2, ())
    with pytest.raises(SessionError):
        find_session("cats")


def test_a_new_session_gets_the_name_that_was_chosen_before_its_first_turn() -> None:
    with Session.start(MODEL) as session:
        session.rename("cats")
        assert list(sessions_folder().iterdir()) == []
        draw(session, "A cat")
        assert session.name == "cats"


def test_a_temporary_session_leaves_nothing() -> None:
    with Session.temporary(MODEL) as session:
        draw(session, "A cat")
        folder = session.folder
        assert folder is not None and folder.is_dir()
    assert not folder.exists()
    assert not sessions_folder().exists()


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
    file_of(folder).write_bytes(file_of(folder).read_bytes().replace(b'"format": 2', b'"format": 3'))
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
