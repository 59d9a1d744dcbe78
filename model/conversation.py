"""A conversation as a value: what was asked, about which pictures, and what was answered."""

from dataclasses import dataclass

from PIL import Image

from config.settings import TextSettings
from model.inputs.prompts import write_placeholders
from model.requests import AnswerRequest, Message


@dataclass(frozen=True)
class Conversation:
    """Questions and answers so far; gives the request of the next question.

    >>> conversation = Conversation(system="Be brief.")
    >>> request = conversation.ask("What is this?", (picture,))
    >>> answer = next(event for event in engine.run(request) if isinstance(event, Answer))
    >>> conversation = Conversation.after(request, answer.text)
    >>> request = conversation.ask("And which colour has it?")

    Requests that follow one another so begin with the same tokens, up to the last answer, and an engine reads only
    what is new. An answer is read as its text, as in any other request with this history: where the tokenizer writes
    that text with other tokens than the model chose, the answer is read once more from there on.

    Attributes:
        turns: finished ones, oldest first. Each picture has its `<image>` placeholder in a question.
        images: the pictures, in the order of their placeholders.
        system: a system message; none is written when it is empty.
    """

    turns: tuple[Message, ...] = ()
    images: tuple[Image.Image, ...] = ()
    system: str = ""

    @classmethod
    def after(cls, request: AnswerRequest, answer: str) -> "Conversation":
        """The conversation that a request and its answer make; the answer may have been cut short.

        Raises:
            RequestError: the request has more placeholders than pictures.
        """
        asked = write_placeholders([*request.history, Message("user", request.prompt)], len(request.images))
        return cls((*asked, Message("assistant", answer)), request.images, request.system)

    def ask(
        self, question: str, images: tuple[Image.Image, ...] = (), settings: TextSettings | None = None
    ) -> AnswerRequest:
        """The next question, about new pictures or those there are.

        Args:
            question: may hold an `<image>` placeholder for each of the new pictures; else they come before it.

        Raises:
            RequestError: the question is empty, is no text, or has more placeholders than there are new pictures.
        """
        return AnswerRequest(question, (*self.images, *images), self.turns, self.system, settings or TextSettings())
