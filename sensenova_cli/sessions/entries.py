"""The lines of a session file: what happened, one immutable value each.

Fields may be added at any time: a program leaves aside those it does not know. A change after which an older program
would get a session wrong (a new kind of entry, say) raises FORMAT.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, field_validator

FORMAT = 1


def _now() -> datetime:
    return datetime.now().astimezone()


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class SessionPicture(_Part):
    """A picture of a session, made in it or copied into it.

    Attributes:
        number: from 1 on; it is never given to another picture.
        file: its name in the session's folder of pictures.
        width, height: pixels, upright.
        seed: the seed it was made with; None for a picture from outside.
        source: for a picture from outside, the file that it is a copy of, absolute, or `-`.
        sha256: for a picture from outside, the checksum of the file.
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
        """Sessions come from strangers, too, and an export must not hold files from elsewhere."""
        if not file or file in (".", "..") or not {"/", "\\", "\0"}.isdisjoint(file):
            raise ValueError(f"{file!r} is no plain file name")
        return file


class _Entry(_Part):
    """`when`: with its offset from UTC."""

    when: AwareDatetime = Field(default_factory=_now)


class Opened(_Entry):
    """The first line of a session file; written once more by each program that continues the session.

    Attributes:
        model: Hub id, folder or name of the built-in demo.
        version: of the program.
    """

    kind: Literal["opened"] = "opened"
    format: int = FORMAT
    model: str
    version: str


class _Bringing(_Entry):
    """`brought`: pictures from outside that were copied into the session for this; see Session.append."""

    brought: tuple[SessionPicture, ...] = ()


class _Turn(_Bringing):
    """What was asked of the model, and how it ended.

    Attributes:
        turn: number from 1 on.
        inputs: numbers of the pictures it was about, in order.
        typed: settings that were given with this turn alone, by name.
        settings: all settings of the request, by name.
        status, reason: `failed` and `cancelled` turns say why; what they made until then is noted all the same.
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
    """Pictures were made.

    Attributes:
        pictures: in the order of their seeds.
        think_text: the think text they were drawn from, or None.
    """

    kind: Literal["generate", "edit"]
    pictures: tuple[SessionPicture, ...] = ()
    think_text: str | None = None


class AnswerTurn(_Turn):
    """A question was answered.

    Attributes:
        inputs: the pictures shown with this question, without those of earlier questions that it follows.
        answer: as far as it was written.
        finish: as in model.events.Answer; None where the turn did not come to its end.
        system: the system message.
        continues: whether the model saw the conversation so far; else this question began a new one.
    """

    kind: Literal["describe", "chat"]
    answer: str = ""
    finish: Literal["end", "length"] | None = None
    system: str = ""
    continues: bool = False


class Use(_Bringing):
    """A picture was taken in hand, or put down: None."""

    kind: Literal["use"] = "use"
    picture: int | None


class Stage(_Bringing):
    """These pictures, and no others, go with the next turn."""

    kind: Literal["stage"] = "stage"
    staged: tuple[int, ...]


class Undo(_Entry):
    """The picture in hand and the conversation went back by one turn, or one `use`."""

    kind: Literal["undo"] = "undo"


class Redo(_Entry):
    """The last `undo` was taken back."""

    kind: Literal["redo"] = "redo"


class Set(_Entry):
    """Settings were set for the turns to come."""

    kind: Literal["set"] = "set"
    settings: dict[str, JsonValue]


class Unset(_Entry):
    """Settings went back to what they are without this session."""

    kind: Literal["unset"] = "unset"
    names: tuple[str, ...]


class UseProfile(_Entry):
    """Another profile was chosen, by name or path, or none."""

    kind: Literal["profile"] = "profile"
    profile: str | None


Turn = PictureTurn | AnswerTurn
Entry = Opened | PictureTurn | AnswerTurn | Use | Stage | Undo | Redo | Set | Unset | UseProfile

ENTRY: TypeAdapter[Entry] = TypeAdapter(
    Annotated[Entry, Field(discriminator="kind")], config=ConfigDict(defer_build=True)
)
"""Makes an entry of the JSON object on a line."""
