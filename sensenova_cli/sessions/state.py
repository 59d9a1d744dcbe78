"""State of a session: an immutable value, the result of applying the session's entries in order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue

from config.profiles import is_profile_path
from config.settings import REMOTE_SETTINGS, SESSION_SETTINGS, SETTING_NAMES
from sensenova_cli.errors import SessionError
from sensenova_cli.sessions.entries import (
    AnswerTurn,
    Entry,
    InterleaveTurn,
    Opened,
    PictureTurn,
    Redo,
    SessionPicture,
    Set,
    Stage,
    Turn,
    Undo,
    Unset,
    Use,
    UseProfile,
)


@dataclass(frozen=True)
class Moment:
    """The part of a state that undo and redo restore.

    Attributes:
        selected: number of the selected image, or None.
        candidates: numbers of the pictures that the last turn with pictures made.
        conversation: the answered turns that the next question follows, oldest first.
    """

    selected: int | None = None
    candidates: tuple[int, ...] = ()
    conversation: tuple[AnswerTurn | InterleaveTurn, ...] = ()

    @property
    def shown(self) -> tuple[int, ...]:
        """Numbers of the pictures that the conversation showed last; empty if it is about text alone."""
        return next((turn.inputs for turn in reversed(self.conversation) if turn.inputs), ())


@dataclass(frozen=True)
class State:
    """The state after an entry.

    Attributes:
        turns: all turns, including undone and failed ones.
        pictures: all pictures by number, in order of appearance; undo removes none of them.
        now: the current moment.
        past, future: moments that undo and redo restore, the next one last.
        staged: numbers of the input pictures of the next turn.
        settings, profile: settings and profile that were set in this session.
    """

    turns: tuple[Turn, ...] = ()
    pictures: Mapping[int, SessionPicture] = field(default_factory=dict)
    now: Moment = Moment()
    past: tuple[Moment, ...] = ()
    future: tuple[Moment, ...] = ()
    staged: tuple[int, ...] = ()
    settings: Mapping[str, JsonValue] = field(default_factory=dict)
    profile: str | None = None

    @property
    def selected(self) -> SessionPicture | None:
        """The selected image, or None."""
        return None if self.now.selected is None else self.pictures[self.now.selected]

    @property
    def next_turn(self) -> int:
        """Number of the next turn."""
        return self.turns[-1].turn + 1 if self.turns else 1

    @property
    def next_picture(self) -> int:
        """Number of the next picture."""
        return max(self.pictures, default=0) + 1

    def picture(self, number: int) -> SessionPicture:
        """Return the picture with this number.

        Raises:
            SessionError: no picture has the number.
        """
        if number not in self.pictures:
            known = sorted(self.pictures)
            are = "the picture is" if len(known) == 1 else "the pictures are"
            hint = f"{are} {_ranges(known)}" if known else "there are no pictures yet"
            raise SessionError(f"there is no picture {number} in this session", hint)
        return self.pictures[number]

    def prompt_of(self, number: int) -> str:
        """Return the prompt that made a picture; for a copy, the name of its original; empty if neither is known."""
        for turn in self.turns:
            if not isinstance(turn, AnswerTurn) and any(picture.number == number for picture in turn.pictures):
                return turn.prompt
        source = self.pictures[number].source if number in self.pictures else None
        return Path(source).name if source and source != "-" else ""

    def conversation_of(self, numbers: Sequence[int]) -> tuple[AnswerTurn | InterleaveTurn, ...]:
        """Return the turns with these numbers, without picture turns."""
        return tuple(turn for turn in self.turns if turn.turn in numbers and not isinstance(turn, PictureTurn))

    def after(self, entry: Entry) -> "State":
        """Return the state after `entry`.

        Raises:
            SessionError: nothing is left to undo or redo, a picture does not exist, or a number is used twice.
        """
        match entry:
            case Opened():
                return self
            case PictureTurn() | AnswerTurn() | InterleaveTurn():
                return self._after_turn(entry)
            case Use():
                state = self._with_pictures(entry.brought)
                if entry.picture is not None:
                    state.picture(entry.picture)
                return state._moved(replace(state.now, selected=entry.picture))
            case Stage():
                state = self._with_pictures(entry.brought)
                for number in entry.staged:
                    state.picture(number)
                return replace(state, staged=entry.staged)
            case Undo():
                if not self.past:
                    raise SessionError("there is nothing to undo")
                return replace(self, now=self.past[-1], past=self.past[:-1], future=(*self.future, self.now))
            case Redo():
                if not self.future:
                    raise SessionError("there is nothing to redo")
                return replace(self, now=self.future[-1], past=(*self.past, self.now), future=self.future[:-1])
            case Set():
                return replace(self, settings={**self.settings, **entry.settings})
            case Unset():
                remaining = {name: value for name, value in self.settings.items() if name not in entry.names}
                return replace(self, settings=remaining)
            case UseProfile():
                return replace(self, profile=entry.profile)

    def without_addresses(self) -> tuple["State", tuple[str, ...]]:
        """Return the state of a session that may come from another person, and the settings that are left out.

        They could send the user's words and key to a server, load a model, or read a file as a profile.
        """
        dropped = [f"{name} {value}" for name, value in self.settings.items() if _leads_outside(name, value)]
        kept = {name: value for name, value in self.settings.items() if not _leads_outside(name, value)}
        profile = self.profile
        if profile is not None and is_profile_path(profile):
            dropped.append(f"profile {profile}")
            profile = None
        return replace(self, settings=kept, profile=profile), tuple(dropped)

    def _after_turn(self, turn: Turn) -> "State":
        # Input numbers are not checked, so that a turn stays even if the line of its input is lost.
        if turn.turn < self.next_turn:
            raise SessionError(f"turn {turn.turn} is not the next one after turn {self.next_turn - 1}")
        state = replace(self._with_pictures(turn.brought), turns=(*self.turns, turn))
        pictures = () if isinstance(turn, AnswerTurn) else turn.pictures
        answered = None if isinstance(turn, PictureTurn) or turn.status != "done" else turn
        if not pictures and answered is None:
            return state
        moment = state.now
        if pictures:
            state = state._with_pictures(pictures)
            numbers = tuple(picture.number for picture in pictures)
            moment = replace(moment, selected=numbers[0], candidates=numbers)
        if answered is not None:
            moment = replace(moment, conversation=(*self._turns_before(answered), answered))
        # Pictures stay staged until a turn uses them successfully.
        staged = tuple(number for number in state.staged if number not in turn.inputs)
        return replace(state, staged=staged)._moved(moment)

    def _turns_before(self, turn: AnswerTurn | InterleaveTurn) -> tuple[AnswerTurn | InterleaveTurn, ...]:
        """Return the earlier turns in a turn's conversation. A repeated turn may follow fewer turns than there are."""
        if isinstance(turn, InterleaveTurn):
            return self.conversation_of(turn.follows)
        return self.now.conversation if turn.continues else ()

    def _moved(self, moment: Moment) -> "State":
        return replace(self, now=moment, past=(*self.past, self.now), future=())

    def _with_pictures(self, pictures: tuple[SessionPicture, ...]) -> "State":
        state = self
        for picture in pictures:
            if picture.number in state.pictures:
                raise SessionError(f"the number {picture.number} is taken by another picture")
            state = replace(state, pictures={**state.pictures, picture.number: picture})
        return state


def _leads_outside(name: str, value: JsonValue) -> bool:
    if name in (*REMOTE_SETTINGS, "enhance_with"):
        return value not in (None, "off")
    return name in SETTING_NAMES and name not in SESSION_SETTINGS


def _ranges(numbers: list[int]) -> str:
    """Format numbers as ranges: [1, 2, 3, 7] → `1–3, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
