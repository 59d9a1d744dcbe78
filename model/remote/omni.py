"""The engine of a vLLM-Omni server. It answers whole requests: no live text, no steps, no previews, no statistics.

All fields go into the nested object `extra_body`, which every version of that server reads; see docs/remote.md.
"""

import base64
import binascii
import json
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from config.errors import SenseNovaError
from config.mentions import mention
from config.recommended import Recommended
from config.settings import ImageSettings, LoadSettings, TextSettings
from config.sizes import TRAINED_SIZES, format_size, resolve_size
from model.checkpoint.card import Card
from model.checkpoint.named_lora import NamedLora
from model.conversation import write_placeholders
from model.engine import Engine
from model.errors import PictureError, RequestError, ServerError
from model.events import Answer, Event, Notice, Picture, Statistics, TextToken, ThinkText, ThinkToken, Waiting
from model.image_files import read_picture
from model.placeholders import PLACEHOLDER
from model.png import PNGFiles
from model.remote.failures import LostConnectionError, Refused, UnreachableError
from model.remote.http import MAX_ANSWER, Connection
from model.requests import AnswerRequest, EditRequest, GenerateRequest, InterleaveRequest, Message, Request

KIND = "a vLLM-Omni server"
PATH = "/v1/chat/completions"
THINK_START, THINK_END = "<think>", "</think>"
UNKNOWN_IMAGE_SETTINGS = (
    "negative",
    "max_think_tokens",
    "input_pixels",
    "noise",
    "cfg_every",
    "cfg_stop",
    "half_size_until",
    *(name for name in ImageSettings.model_fields if name.startswith("cache")),
)
"""Picture settings that the server does not have. They must have their defaults."""
UNKNOWN_TEXT_SETTINGS = ("top_p", "top_k", "repetition_penalty")
"""Text settings that the server does not have."""
DRAWS = (
    f"{KIND} sends a picture when it is finished, without steps and previews, and its pictures never have exactly the "
    "bytes of pictures that are made here"
)
ANSWERS = f"{KIND} sends an answer when it is finished, and does not say whether `max_tokens` has cut it off"
FOLDS = f"{KIND} has no conversations: the earlier turns are sent as one text, so the answer may differ from one here"
OUR_SERVER = "use a server that `sensenova serve` has started"
GOES_ON = f"{KIND} may go on with the cancelled request, and the next request then waits for it"


class OmniEngine(Engine):
    """A model on a vLLM-Omni server.

    Pictures of the same seed look the same as here on CUDA, but do not have the same bytes.
    """

    def __init__(self, connection: Connection, settings: LoadSettings, model: str) -> None:
        """Use `model.remote.open_server`.

        Args:
            model: the server's name for its model.
        """
        self._connection = connection
        self._model = model
        loaded = LoadSettings(model=model, server=settings.server, server_key_file=settings.server_key_file)
        self._card = Card(model, Recommended(trained_sizes=TRAINED_SIZES, settings={}), loaded)
        if settings.model not in (None, model):
            raise RequestError(
                f"{KIND} at {connection.address.url} has the model {model}, not {settings.model}", "leave `model` out"
            )
        self._noticed: set[str] = set()
        self._is_lost = False
        self._version: str | None = None

    def run(self, request: Request) -> Iterator[Event]:
        """See `Engine.run`. Yields `Waiting` while the server works."""
        if isinstance(request, InterleaveRequest):
            raise RequestError(
                f"{KIND} does not run interleaved answers", f"load the model here: `server=off`, or {OUR_SERVER}"
            )
        _require_known(request)
        began = time.perf_counter()
        steps = 0
        if isinstance(request, AnswerRequest):
            yield from self._notice_once(ANSWERS)
            yield from self._answer(request)
        else:
            yield from self._notice_once(DRAWS)
            shown: str | None = None
            for index in range(request.settings.num_images):
                shown = yield from self._draw(request, index, shown)
            steps = request.settings.num_images * request.settings.num_steps
        seconds = time.perf_counter() - began
        yield Statistics(0, 0, steps, 0.0, 0.0, seconds, 0, f"{KIND} at {self._connection.address.url}")

    @property
    def card(self) -> Card:
        """See `Engine.card`. The server does not send its model's sizes, so these are those of the published models."""
        return self._card

    @property
    def description(self) -> str:
        """See `Engine.description`."""
        return f"{KIND} at {self._connection.address.url}"

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        """See `Engine.loras`."""
        return ()

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """See `Engine.use_loras`.

        Raises:
            RequestError: this kind of server merges LoRAs at its start only.
        """
        if loras:
            raise RequestError(
                f"{KIND} merges LoRAs only when it starts", "start it with the LoRA, or leave `lora` out"
            )

    @property
    def is_lost(self) -> bool:
        """Whether the connection was lost. The server may have another model when it is back."""
        return self._is_lost

    @property
    def cancel_notice(self) -> str:
        """See `Engine.cancel_notice`. Such a server does not interrupt the steps of a picture."""
        return GOES_ON

    def close(self) -> None:
        """Close the connections to the server."""
        self._connection.close()

    def _draw(
        self, request: GenerateRequest | EditRequest, index: int, shown: str | None
    ) -> Generator[Event, None, str | None]:
        """Draw one picture, and return its think text.

        Args:
            shown: think text of the picture before; an equal text is not yielded again.
        """
        settings = request.settings
        images = request.images if isinstance(request, EditRequest) else ()
        first = images[0].size if images else None
        width, height = resolve_size(settings.size, self._card.recommended.trained_sizes, first)
        prompt = write_placeholders([Message("user", request.prompt)], len(images))[-1].text
        fields = {
            "modalities": ["image"],
            "width": width,
            "height": height,
            "seed": settings.seed + index,
            "num_inference_steps": settings.num_steps,
            "cfg_scale": settings.cfg_scale,
            "img_cfg_scale": settings.img_cfg_scale,
            "cfg_norm": settings.cfg_norm,
            "timestep_shift": settings.timestep_shift,
            "t_eps": settings.t_eps,
            "think": settings.think,
            "extra_args": {"cfg_interval": list(settings.cfg_interval)},
        }
        answer = yield from self._ask(prompt, _png_files(images), fields)
        think = _think_text(answer)
        if think is not None and think != shown:
            yield from _think_events(think)
        image = _picture(answer)
        if image.size != (width, height):
            yield Notice(f"the server made {format_size(image.size)} instead of {width}x{height}")
        update = {"size": format_size(image.size), "seed": settings.seed + index, "num_images": 1}
        made_with = settings.model_copy(update=update)
        yield Picture(index, settings.num_images, image, made_with, think, made_by=self._made_by())
        return think

    def _answer(self, request: AnswerRequest) -> Iterator[Event]:
        settings = request.settings
        turns = write_placeholders([*request.history, Message("user", request.prompt)], len(request.images))
        if request.history:
            yield from self._notice_once(FOLDS)
        prompt = _fold(turns)
        fields = {
            "modalities": ["text"],
            "max_tokens": settings.max_tokens,
            "seed": settings.seed,
            "extra_args": {"do_sample": settings.do_sample, "temperature": settings.temperature},
        }
        answer = yield from self._ask(prompt, _png_files(request.images), fields)
        content = _content(answer)
        if not isinstance(content, str):
            raise ServerError(
                f"{KIND} answered a question without text", "check that it has a SenseNova-U1 model, and its version"
            )
        think, text, is_cut = _split_think(content)
        if think:
            yield from _think_events(think)
        yield TextToken(0, text)
        yield Answer(text, (), "length" if is_cut else "end")

    def _notice_once(self, text: str) -> Iterator[Event]:
        if text not in self._noticed:
            self._noticed.add(text)
            yield Notice(text)

    def _made_by(self) -> str:
        """Return the server's name for records. `/version` is that of vLLM; behind some proxies it is missing."""
        if self._version is None:
            try:
                self._version = str(self._connection.get("/version")["version"])
            except (SenseNovaError, KeyError, TypeError):
                self._version = ""
        is_plain = re.fullmatch(r"[0-9A-Za-z.+_-]{1,40}", self._version) is not None
        return f"vLLM-Omni (vLLM {self._version})" if is_plain else "vLLM-Omni"

    def _ask(
        self, prompt: str, files: Sequence[bytes], fields: dict[str, Any]
    ) -> Generator[Event, None, Mapping[str, Any]]:
        """Send one message, yield `Waiting` meanwhile, and return the answer's JSON."""
        parts: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        for file in files:
            url = f"data:image/png;base64,{base64.b64encode(file).decode()}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        body = {"model": self._model, "messages": [{"role": "user", "content": parts}], "extra_body": fields}
        received = bytearray()
        try:
            with closing(self._connection.post_in_background(PATH, body)) as answer:
                for part in answer.parts():
                    if part is None:
                        yield Waiting(0)
                        continue
                    received += part
                    if len(received) > MAX_ANSWER:
                        raise ServerError("the answer of the server is too long", "check the address")
        except (UnreachableError, LostConnectionError):
            self._is_lost = True
            raise
        except Refused as refused:
            raise RequestError(f"{KIND} refuses the request: {refused.what}", refused.hint) from None
        return _json(bytes(received))


def _require_known(request: Request) -> None:
    """Raise RequestError if a setting that the server does not have differs from its default."""
    names = UNKNOWN_TEXT_SETTINGS if isinstance(request, AnswerRequest) else UNKNOWN_IMAGE_SETTINGS
    group = TextSettings if isinstance(request, AnswerRequest) else ImageSettings
    instead = f"or {OUR_SERVER}"
    for name in names:
        if name == "input_pixels" and isinstance(request, GenerateRequest):
            continue  # it is about input pictures
        default = group.model_fields[name].default
        if getattr(request.settings, name) != default:
            way = "leave it out" if default in (None, "") else f"use {mention(name, default)}"
            raise RequestError(f"{KIND} has no setting `{name}`", f"{way}, {instead}")
    if isinstance(request, AnswerRequest) and request.system:
        raise RequestError(f"{KIND} ignores system messages", f"leave it out, {instead}")


def _fold(turns: Sequence[Message]) -> str:
    """Write a conversation as one text, with placeholders of pictures where they stand."""
    if len(turns) == 1:
        return turns[0].text
    texts = [turn.text if turn.role == "user" else _answer_text(turn) for turn in turns]
    return "\n\n".join(f"{turn.role}: {text}" for turn, text in zip(turns, texts, strict=True))


def _answer_text(turn: Message) -> str:
    """Return an earlier answer, in which `<image>` stands for a picture only."""
    return PLACEHOLDER.join(piece.replace(PLACEHOLDER, "(image)") for piece in turn.pieces)


def _think_events(text: str) -> Iterator[Event]:
    """Yield a think text that arrived as a whole. Its tokens and its time are not known."""
    yield ThinkToken(0, text)
    yield ThinkText(text, (), "end", 0.0)


def _split_think(content: str) -> tuple[str, str, bool]:
    """Return the think text in front of an answer, the answer, and whether it was cut off while the model thought."""
    think, end, answer = content.partition(THINK_END)
    if end:
        return think.strip().removeprefix(THINK_START).strip(), answer.strip(), False
    if content.lstrip().startswith(THINK_START):
        return content.strip().removeprefix(THINK_START).strip(), "", True
    return "", content, False


def _png_files(images: Sequence[Any]) -> list[bytes]:
    """Return upright RGB files, because the server does not rotate pictures or blend transparent parts as we do."""
    files = PNGFiles()
    for image in images:
        files.add(image)
    return files.files


def _json(content: bytes) -> Mapping[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        raise ServerError("the server's answer is not JSON", "check the address, and proxies on the way") from None
    if not isinstance(fields, dict) or not fields.get("choices"):
        raise ServerError("the server's answer has no choices", "check the server's log")
    return fields


def _content(answer: Mapping[str, Any]) -> Any:
    try:
        return answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise ServerError("the server's answer has no content", "check the server's log") from None


def _picture(answer: Mapping[str, Any]) -> Any:
    content = _content(answer)
    parts = content if isinstance(content, list) else []
    urls = [
        part["image_url"]["url"]
        for part in parts
        if isinstance(part, dict) and isinstance(part.get("image_url"), dict) and "url" in part["image_url"]
    ]
    if not urls:
        raise ServerError(
            f"{KIND} answered without a picture",
            "check that it is vLLM-Omni with a SenseNova-U1 model, not vLLM alone",
        )
    try:
        return read_picture(base64.b64decode(str(urls[0]).partition(",")[2], validate=True), "the server's picture")
    except (binascii.Error, PictureError) as error:
        raise ServerError(f"the server sent a damaged picture: {error}", "run it again") from None


def _think_text(answer: Mapping[str, Any]) -> str | None:
    """Return the think text of a picture, without the tokens around it."""
    metrics = answer.get("metrics")
    text = metrics.get("think_text") if isinstance(metrics, dict) else None
    if not isinstance(text, str):
        return None
    return text.replace(THINK_START, "").replace(THINK_END, "").strip() or None
