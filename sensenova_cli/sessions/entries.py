"""Entries of a session file: one immutable value for each line.

New fields may be added at any time, because a program ignores fields that it does not know. A change that an older
program would misread, such as a new kind of entry, requires a higher FORMAT.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, field_validator

FORMAT = 2
"""2 since there are interleaved answers."""
MAX_FILE_NAME = 255
"""Most bytes of a file name on the usual file systems."""


def _now() -> datetime:
    return datetime.now().astimezone()


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class SessionPicture(_Part):
    """A picture that was made in a session or copied into it.

    Attributes:
        number: from 1 up; never used again for another picture.
        file: file name in the session's `pictures` folder.
        width, height: size in pixels, after the rotation that the file's metadata asks for.
        seed: seed of a picture that the model made; None for a copy.
        source: original of a copy: an absolute path, or `-` for standard input.
        sha256: checksum of a copy's original.
    """

    number: Annotated[int, Field(ge=1)]
    file: str
    width: int
    height: int
    seed: int | None = None
    source: str | None = None
    sha256: str | None = None

    @field_validator("file")
    @classmethod
    def _plain_name(cls, file: str) -> str:
        # A stranger may have made the session, and an export must not include files from outside its folder.
        is_plain = file not in ("", ".", "..") and {"/", "\\", "\0"}.isdisjoint(file)
        if not is_plain or len(file.encode("utf-8", "surrogatepass")) > MAX_FILE_NAME:
            raise ValueError(f"{file[:MAX_FILE_NAME]!r} is not a plain file name")
        return file


class _Entry(_Part):
    """A line of a session file, with the time at which it was written, as an offset from UTC."""

    when: AwareDatetime = Field(default_factory=_now)


class Opened(_Entry):
    """The first line of a session file. Each program that continues the session writes another one.

    Attributes:
        model: Hub id, folder, or name of the built-in demo.
        version: version of the program.
    """

    kind: Literal["opened"] = "opened"
    format: int = FORMAT
    model: str
    version: str


class _CopyingEntry(_Entry):
    """An entry that can list copies of pictures from outside the session.

    Attributes:
        brought: pictures that were copied into the session for this entry. `Session.append` adds them.
    """

    brought: tuple[SessionPicture, ...] = ()


class _Turn(_CopyingEntry):
    """A request to the model and its result.

    Attributes:
        turn: number of the turn, from 1 up.
        inputs: numbers of the input pictures, in order.
        typed: line options: settings of this turn alone, by name.
        settings: all settings of the request, by name.
        status, reason: whether the turn failed or was cancelled, and why. The entry has its results until then.
    """

    turn: Annotated[int, Field(ge=1)]
    prompt: str
    inputs: tuple[int, ...] = ()
    typed: dict[str, JsonValue] = {}
    settings: dict[str, JsonValue] = {}
    model: str
    status: Literal["done", "failed", "cancelled"] = "done"
    reason: str = ""
    seconds: float = 0.0


class PictureTurn(_Turn):
    """A turn that makes pictures.

    Attributes:
        pictures: the pictures, in the order of their seeds.
        think_text: the text that the model wrote before it drew, or None.
        original_prompt, enhanced_by: as in a picture's record.
    """

    kind: Literal["generate", "edit"]
    pictures: tuple[SessionPicture, ...] = ()
    think_text: str | None = None
    original_prompt: str | None = None
    enhanced_by: str | None = None


class AnswerTurn(_Turn):
    """A turn that answers a question.

    Attributes:
        inputs: the pictures shown with this question, without those of earlier questions in its conversation.
        answer: the answer, or its beginning if the turn was interrupted.
        finish: as in model.events.Answer; None if the turn was interrupted.
        system: the system message.
        continues: whether the question follows the conversation so far. If False, it began a new conversation.
    """

    kind: Literal["describe", "chat"]
    answer: str = ""
    finish: Literal["end", "length"] | None = None
    system: str = ""
    continues: bool = False


class AnswerText(_Part):
    """A stretch of an interleaved answer's text.

    Attributes:
        thinking: whether the stretch is part of the thinking. Its text includes `<think>` and `</think>`.
    """

    text: str
    thinking: bool = False

    @property
    def without_tags(self) -> "AnswerText":
        """The text that a reader sees."""
        text = self.text.removeprefix("<think>").removesuffix("</think>").strip() if self.thinking else self.text
        return AnswerText(text=text, thinking=self.thinking)


class InterleaveTurn(_Turn):
    """A turn whose answer has text and pictures.

    Attributes:
        inputs: the pictures shown with this prompt, without those of earlier turns in its conversation.
        parts: text and pictures in the order of the answer, as far as it was made.
        finish: as in model.events.InterleavedAnswer; None if the turn was interrupted.
        follows: numbers of the earlier turns in its conversation, oldest first.
    """

    kind: Literal["interleave"]
    parts: tuple[SessionPicture | AnswerText, ...] = ()
    finish: Literal["end", "length", "images"] | None = None
    follows: tuple[int, ...] = ()

    @property
    def pictures(self) -> tuple[SessionPicture, ...]:
        """The pictures of the answer, in order."""
        return tuple(part for part in self.parts if isinstance(part, SessionPicture))


class Use(_CopyingEntry):
    """The selection of a picture by its number; None means that no picture is selected."""

    kind: Literal["use"] = "use"
    picture: int | None


class Stage(_CopyingEntry):
    """The choice of input pictures for the next turn; it replaces an earlier choice."""

    kind: Literal["stage"] = "stage"
    staged: tuple[int, ...]


class Undo(_Entry):
    """A step back: selected image and conversation are as they were one turn or one `use` ago."""

    kind: Literal["undo"] = "undo"


class Redo(_Entry):
    """A step forward: the last `undo` no longer applies."""

    kind: Literal["redo"] = "redo"


class Set(_Entry):
    """New values of settings, for all later turns."""

    kind: Literal["set"] = "set"
    settings: dict[str, JsonValue]


class Unset(_Entry):
    """The removal of settings that the session had set."""

    kind: Literal["unset"] = "unset"
    names: tuple[str, ...]


class UseProfile(_Entry):
    """The choice of a profile by name or path; None means that no profile is used."""

    kind: Literal["profile"] = "profile"
    profile: str | None


Turn = PictureTurn | AnswerTurn | InterleaveTurn
Entry = Opened | PictureTurn | AnswerTurn | InterleaveTurn | Use | Stage | Undo | Redo | Set | Unset | UseProfile

ENTRY: TypeAdapter[Entry] = TypeAdapter(
    Annotated[Entry, Field(discriminator="kind")], config=ConfigDict(defer_build=True)
)
"""Validates the JSON object of a line as an entry."""
