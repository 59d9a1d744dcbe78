"""Conversations: finished questions and answers, and the images that they are about."""

from dataclasses import dataclass

from PIL import Image

from config.settings import TextSettings
from model.inputs.prompts import write_placeholders
from model.requests import AnswerRequest, Message


@dataclass(frozen=True)
class Conversation:
    """The finished turns of a conversation. `ask` builds the request of the next question.

    >>> conversation = Conversation(system="Be brief.")
    >>> request = conversation.ask("What is this?", (picture,))
    >>> answer = next(event for event in engine.run(request) if isinstance(event, Answer))
    >>> conversation = Conversation.after(request, answer.text)
    >>> request = conversation.ask("And which colour has it?")

    Consecutive requests begin with the same tokens, up to the last answer, so an engine only processes new tokens. A
    request contains an answer's text, not its tokens. If the tokenizer splits that text into other tokens than the
    model generated, the engine processes the answer again from the first different token on.

    Attributes:
        turns: the finished turns, oldest first. Each image has an `<image>` placeholder in a question.
        images: the images, in the order of their placeholders.
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
