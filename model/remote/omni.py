"""The engine of a vLLM-Omni server. It answers whole requests: no live text, no steps, no previews, no statistics.

All fields go into the nested object `extra_body`, which every version of that server reads; see docs/remote.md.
"""

import base64
import binascii
import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from config.recommended import Recommended
from config.settings import ImageSettings, LoadSettings, TextSettings
from config.sizes import TRAINED_SIZES, format_size, resolve_size
from model.checkpoint.card import Card
from model.checkpoint.named_lora import NamedLora
from model.conversation import write_placeholders
from model.engine import Engine
from model.errors import PictureError, RequestError, ServerError
from model.events import Answer, Event, Notice, Picture, Statistics, TextToken, ThinkText, Waiting
from model.image_files import read_picture
from model.png import PNGFiles
from model.remote.http import MAX_ANSWER, Connection
from model.requests import AnswerRequest, EditRequest, GenerateRequest, Message, Request

KIND = "a vLLM-Omni server"
PATH = "/v1/chat/completions"
UNKNOWN_IMAGE_SETTINGS = (
    "max_think_tokens",
    "input_pixels",
    "noise",
    *(name for name in ImageSettings.model_fields if name.startswith("cache")),
)
"""Picture settings that the server has not: they must have their defaults."""
UNKNOWN_TEXT_SETTINGS = ("top_p", "top_k", "repetition_penalty")
MISSING = (
    f"{KIND} answers whole requests: there are no steps, no previews and no live text; a picture never has exactly "
    "the bytes that it has here; after Ctrl-C the server goes on, and the next request waits for it"
)


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
            raise RequestError(f"the server has the model {model}, not {settings.model}", "leave `model` out")
        self._told = False

    def run(self, request: Request) -> Iterator[Event]:
        """See `Engine.run`. Yields `Waiting` while the server works."""
        _require_known(request)
        if not self._told:
            self._told = True
            yield Notice(MISSING)
        began = time.perf_counter()
        if isinstance(request, AnswerRequest):
            yield from self._answer(request)
            steps = 0
        else:
            for index in range(request.settings.num_images):
                yield from self._draw(request, index)
            steps = request.settings.num_images * request.settings.num_steps
        seconds = time.perf_counter() - began
        yield Statistics(0, 0, steps, 0.0, 0.0, seconds, 0, f"{KIND} at {self._connection.address.url}")

    @property
    def card(self) -> Card:
        """See `Engine.card`. The server does not tell its model's sizes, so these are those of the published models."""
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
            raise RequestError(f"{KIND} merges LoRAs when it starts", "start it with the LoRA")

    def close(self) -> None:
        """Close the connections to the server."""
        self._connection.close()

    def _draw(self, request: GenerateRequest | EditRequest, index: int) -> Iterator[Event]:
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
        if think is not None:
            yield ThinkText(think, (), "end", 0.0)
        image = _picture(answer)
        if image.size != (width, height):
            yield Notice(f"the server made {format_size(image.size)} instead of {width}x{height}")
        update = {"size": format_size(image.size), "seed": settings.seed + index, "num_images": 1}
        made_with = settings.model_copy(update=update)
        yield Picture(index, settings.num_images, image, made_with, think)

    def _answer(self, request: AnswerRequest) -> Iterator[Event]:
        settings = request.settings
        turns = write_placeholders([*request.history, Message("user", request.prompt)], len(request.images))
        if request.history:
            yield Notice(f"{KIND} has no conversations: the earlier turns are sent as one text")
        prompt = "\n\n".join(f"{turn.role}: {turn.text}" if len(turns) > 1 else turn.text for turn in turns)
        fields = {
            "modalities": ["text"],
            "max_tokens": settings.max_tokens,
            "seed": settings.seed,
            "extra_args": {"do_sample": settings.do_sample, "temperature": settings.temperature},
        }
        answer = yield from self._ask(prompt, _png_files(request.images), fields)
        text = _content(answer)
        if not isinstance(text, str):
            raise ServerError("the server answered a question with a picture", "check its version")
        yield TextToken(0, text)
        yield Answer(text, (), "end")

    def _ask(
        self, prompt: str, files: Sequence[bytes], fields: dict[str, Any]
    ) -> Generator[Event, None, Mapping[str, Any]]:
        """Send one message, yield `Waiting` meanwhile, and return the answer's JSON."""
        parts: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        for file in files:
            url = f"data:image/png;base64,{base64.b64encode(file).decode()}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        body = {"model": self._model, "messages": [{"role": "user", "content": parts}], "extra_body": fields}
        received: list[bytes] = []
        with closing(self._connection.post_in_background(PATH, body)) as answer:
            for part in answer.parts():
                if part is None:
                    yield Waiting(0)
                else:
                    received.append(part)
                    if sum(map(len, received)) > MAX_ANSWER:
                        raise ServerError("the answer of the server is too long", "check the address")
        return _json(b"".join(received))


def _require_known(request: Request) -> None:
    """Raise RequestError if a setting that the server has not differs from its default."""
    names = UNKNOWN_TEXT_SETTINGS if isinstance(request, AnswerRequest) else UNKNOWN_IMAGE_SETTINGS
    group = TextSettings if isinstance(request, AnswerRequest) else ImageSettings
    for name in names:
        if getattr(request.settings, name) != group.model_fields[name].default:
            raise RequestError(f"{KIND} has no setting `{name}`", "leave it out, or use a server of sensenova")
    if isinstance(request, AnswerRequest) and request.system:
        raise RequestError(f"{KIND} ignores system messages", "leave it out, or use a server of sensenova")


def _png_files(images: Sequence[Any]) -> list[bytes]:
    """Return upright RGB files: the server neither turns pictures nor blends transparent parts as we do."""
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
        raise ServerError("the server answered without a picture", "check the server's log")
    try:
        return read_picture(base64.b64decode(str(urls[0]).partition(",")[2], validate=True), "the server's picture")
    except (binascii.Error, PictureError) as error:
        raise ServerError(f"the server sent a damaged picture: {error}", "run it again") from None


def _think_text(answer: Mapping[str, Any]) -> str | None:
    metrics = answer.get("metrics")
    text = metrics.get("think_text") if isinstance(metrics, dict) else None
    return text if isinstance(text, str) and text else None
