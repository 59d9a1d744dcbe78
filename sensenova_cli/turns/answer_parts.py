"""The parts of an interleaved answer, collected while they come, so that an interrupted answer keeps what it has."""

from typing import Generic, Literal, TypeVar

from model import Event, InterleavedAnswer, PicturePart, TextPart, TextToken, ThinkText, ThinkToken

P = TypeVar("P")
"""A picture as the consumer stores it."""

Finish = Literal["end", "length", "images"]


class AnswerParts(Generic[P]):
    """Collects the parts of one answer.

    Attributes:
        finish: as in `InterleavedAnswer`; None until the answer is complete.
    """

    def __init__(self) -> None:
        self.finish: Finish | None = None
        self._parts: list[TextPart | P] = []
        self._pictures: list[P] = []
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._thinking = False  # whether the open text is thinking
        self._has_open_tag = False

    @property
    def parts(self) -> tuple[TextPart | P, ...]:
        """Text and pictures so far, in order."""
        return (*self._parts, *self._open_text())

    @property
    def pictures(self) -> tuple[P, ...]:
        """The pictures so far, in order."""
        return tuple(self._pictures)

    def take(self, event: Event) -> None:
        """Add a token; replace the texts by those of the complete answer."""
        match event:
            case ThinkToken():
                # The events of tags have no text, but a part contains it.
                tag = "" if self._has_open_tag else "<think>"
                self._has_open_tag = True
                self._add_token(event.token_id, tag + event.text, thinking=True)
            case ThinkText():
                self._has_open_tag = False
                if event.finish == "end" and self._thinking and self._ids:
                    self._texts.append("</think>")
            case TextToken():
                self._add_token(event.token_id, event.text, thinking=False)
            case InterleavedAnswer():
                self._texts, self._ids = [], []
                self._parts = [self._pictures[p.index] if isinstance(p, PicturePart) else p for p in event.parts]
                self.finish = event.finish

    def add_picture(self, picture: P) -> None:
        """Add a finished picture."""
        self._close_text()
        self._parts.append(picture)
        self._pictures.append(picture)

    def _add_token(self, token: int, text: str, *, thinking: bool) -> None:
        if thinking != self._thinking:
            self._close_text()
        self._thinking = thinking
        self._ids.append(token)
        self._texts.append(text)

    def _close_text(self) -> None:
        self._parts += self._open_text()
        self._texts, self._ids = [], []

    def _open_text(self) -> tuple[TextPart, ...]:
        return (TextPart("".join(self._texts), tuple(self._ids), self._thinking),) if self._ids else ()
