"""Conversations: finished questions and answers, and the images that they are about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from config.settings import TextSettings
from model.events import PicturePart, TextPart
from model.placeholders import PLACEHOLDER, require_placeholders
from model.requests import AnswerRequest, InterleaveRequest, Message


@dataclass(frozen=True)
class Conversation:
    """The finished turns of a conversation. `ask` builds the request of the next question.

    >>> conversation = Conversation(system="Be brief.")
    >>> request = conversation.ask("What is this?", (picture,))
    >>> answer = next(event for event in engine.run(request) if isinstance(event, Answer))
    >>> conversation = Conversation.after(request, answer.text)
    >>> request = conversation.ask("And what colour is it?")

    Consecutive requests begin with the same tokens, up to the last answer, so an engine only processes new tokens. A
    request contains an answer's text, not its tokens. If the tokenizer splits that text into other tokens than the
    model generated, the engine processes the answer again from the first different token on.

    Attributes:
        turns: the finished turns, oldest first. Each image has an `<image>` placeholder in a question, or a place in an
            interleaved answer.
        images: the images, in the order of their places in the turns.
        system: a system message; none is written if it is empty.
    """

    turns: tuple[Message, ...] = ()
    images: tuple[Image.Image, ...] = ()
    system: str = ""

    @classmethod
    def after(cls, request: AnswerRequest, answer: str) -> "Conversation":
        """Return the conversation after a request and its answer, which may be incomplete.

        Raises:
            RequestError: the request has more placeholders than images.
        """
        asked = write_placeholders([*request.history, Message("user", request.prompt)], len(request.images))
        return cls((*asked, Message("assistant", answer)), request.images, request.system)

    @classmethod
    def after_interleaved(
        cls, request: InterleaveRequest, parts: Sequence[TextPart | PicturePart], pictures: Mapping[int, Image.Image]
    ) -> "Conversation":
        """Return the conversation after a request and its interleaved answer, which may be incomplete.

        Args:
            parts: the parts of the answer; see `InterleavedAnswer`.
            pictures: the images of its `Picture` events, by index.

        Raises:
            RequestError: as for `after`.
        """
        text, images_at, images = "", [], []
        for part in parts:
            if isinstance(part, TextPart):
                text += part.text
            else:
                images_at.append(len(text))
                images.append(pictures[part.index])
        turns = [*request.history, Message("user", request.prompt)]
        asked = write_placeholders(turns, len(request.images), labels=False)
        answer = Message("assistant", text, tuple(images_at))
        return cls((*asked, answer), (*request.images, *images), request.system or "")

    def ask(
        self, question: str, images: tuple[Image.Image, ...] = (), settings: TextSettings | None = None
    ) -> AnswerRequest:
        """Build the request of the next question, about new images or earlier ones.

        Args:
            question: may contain an `<image>` placeholder for each new image. Images without one precede the question.
            images: the new images.

        Raises:
            RequestError: the question is empty or not text, or has more placeholders than there are new images.
        """
        return AnswerRequest(question, (*self.images, *images), self.turns, self.system, settings or TextSettings())


def write_placeholders(turns: Sequence[Message], images: int, *, labels: bool = True) -> list[Message]:
    """Write a placeholder for each image that has no place, at the start of the last turn.

    If the texts have no placeholder, one image gets `<image>`, and several get `Image-1:<image>`, `Image-2:<image>`, ….
    If they have some, the missing ones are `<image>`.

    Args:
        images: number of images, those of interleaved answers (`Message.images_at`) included.
        labels: write `Image-1:` and so on; False for interleaved answers, whose training data has no labels.

    Raises:
        RequestError: as for `require_placeholders`.
    """
    texts = [turn.text for turn in turns if turn.role == "user"]
    asked = images - sum(len(turn.images_at) for turn in turns)
    require_placeholders(texts, asked)
    written = sum(text.count(PLACEHOLDER) for text in texts)
    missing = asked - written
    if labels and missing > 1 and written == 0:
        front = "".join(f"Image-{number}:{PLACEHOLDER}\n" for number in range(1, missing + 1))
    else:
        front = f"{PLACEHOLDER}\n" * missing
    return [*turns[:-1], Message(turns[-1].role, front + turns[-1].text)]
