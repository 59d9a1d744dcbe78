"""The state of a session after its entries: undo, redo, selected image, conversation, staged pictures, settings."""

from typing import Any

import pytest

from sensenova_cli.errors import SessionError
from sensenova_cli.sessions.entries import (
    AnswerTurn,
    Entry,
    PictureTurn,
    Redo,
    SessionPicture,
    Set,
    Stage,
    Undo,
    Unset,
    Use,
    UseProfile,
)
from sensenova_cli.sessions.state import State


def picture(number: int, seed: int | None = 42) -> SessionPicture:
    return SessionPicture(number=number, file=f"{number}.png", width=64, height=32, seed=seed)


def drawn(turn: int, *numbers: int, **more: Any) -> PictureTurn:
    pictures = tuple(map(picture, numbers))
    return PictureTurn(turn=turn, kind="generate", prompt=f"prompt {turn}", model="m", pictures=pictures, **more)


def said(turn: int, **more: Any) -> AnswerTurn:
    return AnswerTurn(turn=turn, kind="chat", prompt=f"question {turn}", model="m", answer="yes", **more)


def replay(*entries: Entry) -> State:
    state = State()
    for entry in entries:
        state = state.after(entry)
    return state


def test_a_new_picture_is_selected() -> None:
    state = replay(drawn(1, 1), drawn(2, 2))
    assert state.selected == picture(2)
    assert (state.next_turn, state.next_picture) == (3, 3)


def test_of_several_candidates_the_first_is_selected_until_another_is_chosen() -> None:
    state = replay(drawn(1, 1), drawn(2, 2, 3, 4))
    assert (state.now.selected, state.now.candidates) == (2, (2, 3, 4))
    state = state.after(Use(picture=4))
    assert (state.now.selected, state.now.candidates) == (4, (2, 3, 4))


def test_undo_and_redo_change_the_selected_image() -> None:
    state = replay(drawn(1, 1), drawn(2, 2), Use(picture=1), Undo(), Undo())
    assert state.now.selected == 1
    state = state.after(Redo())
    assert state.now.selected == 2
    state = state.after(Redo())
    assert state.now.selected == 1
    with pytest.raises(SessionError, match="nothing to redo"):
        state.after(Redo())


def test_undo_to_the_beginning_selects_no_picture() -> None:
    state = replay(drawn(1, 1), Undo())
    assert state.selected is None
    with pytest.raises(SessionError, match="nothing to undo"):
        state.after(Undo())


def test_undo_frees_no_numbers_and_a_turn_ends_redo() -> None:
    state = replay(drawn(1, 1), drawn(2, 2), Undo(), drawn(3, 3))
    assert list(state.pictures) == [1, 2, 3]
    assert state.future == ()
    assert state.after(Undo()).now.selected == 1


def test_undo_removes_a_question_from_the_conversation() -> None:
    state = replay(said(1), said(2, continues=True))
    assert [turn.turn for turn in state.now.conversation] == [1, 2]
    assert [turn.turn for turn in state.after(Undo()).now.conversation] == [1]
    assert [turn.turn for turn in state.after(Undo()).after(Redo()).now.conversation] == [1, 2]


def test_a_question_that_follows_nothing_begins_a_new_conversation() -> None:
    state = replay(said(1), said(2))
    assert [turn.turn for turn in state.now.conversation] == [2]


def test_a_failed_or_cancelled_turn_is_logged_but_changes_nothing() -> None:
    failed = drawn(2, status="failed", reason="out of memory")
    state = replay(drawn(1, 1), failed, said(3, status="cancelled"))
    assert [turn.turn for turn in state.turns] == [1, 2, 3]
    assert (state.now.selected, len(state.past), state.now.conversation) == (1, 1, ())


def test_finished_pictures_of_a_cancelled_turn_are_candidates() -> None:
    assert replay(drawn(1, 1, 2, status="cancelled")).now.candidates == (1, 2)


def test_staged_pictures_stay_until_a_turn_has_used_them() -> None:
    state = replay(Stage(brought=(picture(1, None), picture(2, None)), staged=(1, 2)))
    assert state.staged == (1, 2)
    state = state.after(drawn(1, inputs=(1, 2), status="failed"))
    assert state.staged == (1, 2)
    assert state.after(drawn(2, 3, inputs=(1, 2))).staged == ()
    assert state.after(Stage(staged=())).staged == ()


def test_settings_of_the_session() -> None:
    state = replay(Set(settings={"seed": 7, "size": "16:9"}), Set(settings={"seed": 8}), UseProfile(profile="draft"))
    assert (state.settings, state.profile) == ({"seed": 8, "size": "16:9"}, "draft")
    state = state.after(Unset(names=("size", "think"))).after(UseProfile(profile=None))
    assert (state.settings, state.profile) == ({"seed": 8}, None)


def test_a_missing_picture_cannot_be_selected() -> None:
    state = replay(drawn(1, 1, 2, 3), drawn(2, 7))
    with pytest.raises(SessionError, match="no picture 99") as problem:
        state.after(Use(picture=99))
    assert problem.value.hint == "the pictures are 1–3, 7"
    with pytest.raises(SessionError, match="no picture 4"):
        state.after(Stage(staged=(1, 4)))
    assert state.after(Use(picture=None)).selected is None


def test_no_number_is_used_twice() -> None:
    state = replay(drawn(1, 1))
    with pytest.raises(SessionError, match="number 1 is taken"):
        state.after(drawn(2, 1))
    with pytest.raises(SessionError, match="turn 1 is not the next one"):
        state.after(drawn(1, 2))


def test_a_state_is_immutable() -> None:
    state = replay(drawn(1, 1))
    state.after(drawn(2, 2))
    state.after(Set(settings={"seed": 1}))
    assert (list(state.pictures), dict(state.settings), state.now.selected) == ([1], {}, 1)
