"""Read the messages of a chat, in the forms of OpenAI's and vLLM-Omni's clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from config.errors import SenseNovaError
from model import Conversation, Message
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.serve.errors import api_error, bad_request
from sensenova_cli.serve.pictures import decode_data_url, read_uploads, require_few
from sensenova_cli.serve.service import MAX_CONVERSATION, require_text

Role = Literal["system", "user", "assistant"]
MAX_MESSAGES = 2000
"""Maximum number of messages of a chat."""
ROLES = ("system", "developer", "user", "assistant")


@dataclass
class ChatMessage:
    """One message.

    Attributes:
        files: the encoded pictures.
    """

    role: Role
    text: str
    files: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Chat:
    """The messages of a request.

    Attributes:
        messages: without system messages; consecutive messages of one role are merged. The last one is the user's.
        system: the text of all system messages.
    """

    messages: tuple[ChatMessage, ...]
    system: str

    @property
    def question(self) -> str:
        """The text of the last message."""
        return self.messages[-1].text


def read_messages(given: object) -> Chat:
    """Read the field `messages`.

    Raises:
        ApiError: it is missing, or a message is not in a known form, contains something other than text and pictures,
            or is too long.
    """
    if not isinstance(given, list) or not given:
        raise bad_request("messages must be a list", 'write [{"role": "user", "content": "…"}]', param="messages")
    if len(given) > MAX_MESSAGES:
        raise bad_request(f"{len(given):,} messages; the limit is {MAX_MESSAGES:,}", "drop old ones", param="messages")
    messages: list[ChatMessage] = []
    system: list[str] = []
    for index, each in enumerate(given):
        message = _read_message(each, f"messages.{index}")
        if message.role == "system":
            system.append(message.text)
        elif messages and messages[-1].role == message.role:
            messages[-1].text = "\n".join(filter(None, (messages[-1].text, message.text)))
            messages[-1].files += message.files
        else:
            messages.append(message)
    if not messages or messages[-1].role != "user":
        raise bad_request("the last message must be the user's", "add a message of the user", param="messages")
    if not messages[-1].text.strip():
        raise bad_request("the last message has no text", "write a question or a prompt", param="messages")
    if sum(map(len, system)) + sum(len(each.text) for each in messages) > MAX_CONVERSATION:
        raise bad_request("the conversation is too long", "start a new one", param="messages")
    require_few(sum(len(each.files) for each in messages), "messages")
    return Chat(tuple(messages), "\n".join(filter(None, system)))


async def conversation_of(chat: Chat) -> tuple[Conversation, tuple[InputImage, ...]]:
    """Return the conversation before the last message, and the pictures of that message.

    A picture of an assistant's message belongs to the question after it, because the model reads pictures in questions
    only.

    Raises:
        ApiError: a picture cannot be read, or a text has more `<image>` placeholders than there are pictures.
    """
    images_left = iter(await read_files([file for message in chat.messages for file in message.files]))
    conversation = Conversation(system=chat.system)
    question: ChatMessage | None = None
    inputs: tuple[InputImage, ...] = ()
    drawn: tuple[InputImage, ...] = ()
    for message in chat.messages[:-1]:
        found = tuple(islice(images_left, len(message.files)))
        if message.role == "assistant":
            drawn = found
            if question is None:  # a greeting
                conversation = Conversation(
                    (*conversation.turns, Message("assistant", message.text)), conversation.images, chat.system
                )
                continue
            images = tuple(each.image for each in inputs)
            try:
                request = conversation.ask(question.text, images)
                conversation = Conversation.after(request, message.text)
            except SenseNovaError as error:
                raise api_error(error, "messages") from None
            question = None
        else:
            question, inputs = message, (*drawn, *found)
    return conversation, (*drawn, *images_left)


def pictures_to_change(chat: Chat) -> list[bytes]:
    """Return the pictures of the newest message that has some: an edit starts from them."""
    return next((list(each.files) for each in reversed(chat.messages) if each.files), [])


async def read_files(files: Sequence[bytes]) -> tuple[InputImage, ...]:
    """Decode pictures.

    Raises:
        ApiError: one of them cannot be read.
    """
    return await read_uploads([(file, f"picture {n}") for n, file in enumerate(files, start=1)], "messages")


def _read_message(given: object, place: str) -> ChatMessage:
    if not isinstance(given, Mapping) or given.get("role") not in ROLES:
        found = str(given.get("role"))[:50] if isinstance(given, Mapping) else "missing"
        raise bad_request(f"the role is {found}", f"it is one of {', '.join(ROLES)}", param=f"{place}.role")
    role: Role = "system" if given["role"] == "developer" else given["role"]
    texts, files = _read_content(given.get("content"), place)
    pictures = given.get("images") or []  # the form in which answers contain pictures
    if not isinstance(pictures, list):
        raise bad_request("images must be a list", param=f"{place}.images")
    files += [_read_picture(picture, f"{place}.images") for picture in pictures]
    if role == "system" and files:
        raise bad_request("a system message cannot contain pictures", "move them to a user message", param=place)
    return ChatMessage(role, " ".join(texts) if len(texts) > 1 else "".join(texts), files)


def _read_content(content: object, place: str) -> tuple[list[str], list[bytes]]:
    if content is None:
        return [], []
    if isinstance(content, str):
        return [require_text(content, f"{place}.content")], []
    if not isinstance(content, list):
        raise bad_request("content must be text or a list of parts", param=f"{place}.content")
    texts: list[str] = []
    files: list[bytes] = []
    for index, part in enumerate(content):
        param = f"{place}.content.{index}"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "input_text", "output_text"):
            texts.append(require_text(part.get("text"), f"{param}.text"))
        elif kind in ("image_url", "input_image"):
            files.append(_read_picture(part, param))
        else:
            raise bad_request(
                f"parts of type {str(kind)[:50]!r} are not supported", "send text and image_url parts", param=param
            )
    return texts, files


def _read_picture(part: object, param: str) -> bytes:
    """Return the file in a part `{"type": "image_url", "image_url": {"url": "data:…"}}`.

    Ollama's clients write the URL itself instead of the inner object.
    """
    url = part.get("image_url", part.get("url")) if isinstance(part, Mapping) else part
    return decode_data_url(url.get("url") if isinstance(url, Mapping) else url, param)
