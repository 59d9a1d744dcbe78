"""OpenAI's Images API: `/v1/images/generations` and `/v1/images/edits`, with previews as partial images."""

import asyncio
import base64
import io
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from config.settings import PictureFormat
from config.sizes import format_size, parse_size, resolve_size
from config.task_defaults import applying
from model import (
    AnswerRequest,
    DenoisingStep,
    EditRequest,
    Event,
    Notice,
    PrefixRead,
    Statistics,
    ThinkText,
    ThinkToken,
    read_picture,
)
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.outputs.picture_files import FORMATS, MAX_WEBP_SIDE, encode_picture
from sensenova_cli.outputs.picture_record import FORMAT, PictureRecord
from sensenova_cli.serve.bodies import read_json
from sensenova_cli.serve.errors import bad_request
from sensenova_cli.serve.forms import PICTURE_NAMES, read_form
from sensenova_cli.serve.jobs import FinishedPicture, Job
from sensenova_cli.serve.picture_fields import OTHER_NAMES, merge_nested, picture_fields
from sensenova_cli.serve.pictures import decode_data_url, read_uploads, require_few
from sensenova_cli.serve.service import Service, require_text
from sensenova_cli.serve.streams import comment, event_stream, follow, json_response, require_done, sse, unless_gone
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.tasks import PictureTask

KNOWN = frozenset(
    {
        "prompt",
        "model",
        "response_format",
        "stream",
        "partial_images",
        "output_format",
        "output_compression",
    }
)
"""Fields that this module reads itself. The others are settings, or have no effect."""
MAX_PARTIAL_IMAGES = 20
PREVIEW_SIDE = 1024
"""Maximum number of pixels of the longer side of a partial image."""

Kind = Literal["generate", "edit"]


@dataclass(frozen=True)
class Output:
    """The form in which a client wants its pictures.

    Attributes:
        as_url: give out addresses instead of the files.
        format: png, jpeg or webp.
        quality: quality of JPEG and WebP files, 0 to 100.
        stream: send each picture as an event when it is finished.
        partial_images: number of previews of a picture in a stream.
    """

    as_url: bool
    format: PictureFormat
    quality: int
    stream: bool
    partial_images: int


class ImagesApi:
    """Handlers of `/v1/images/…`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def generate(self, request: Request) -> Response:
        """Make pictures from a prompt."""
        fields = merge_nested(await read_json(request))
        for name in PICTURE_NAMES:
            if fields.get(name):  # otherwise the client would get a picture that ignores its input
                raise bad_request(
                    f'"{name}": generations start from a prompt alone', "use /v1/images/edits", param=name
                )
        return await self._make(request, "generate", fields, ())

    async def edit(self, request: Request) -> Response:
        """Change pictures, which come as form files or as data URLs in JSON."""
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            fields = merge_nested(await read_json(request))
            urls = [_url_of(each) for name in PICTURE_NAMES for each in _as_list(fields.pop(name, None))]
            require_few(len(urls), "image")
            contents = [(decode_data_url(url, "image"), f"picture {n}") for n, url in enumerate(urls, start=1)]
        else:
            fields, contents = await read_form(request)
        if not contents:
            raise bad_request("there is no picture to change", 'send one as "image"', param="image")
        self._service.scheduler.require_room()
        return await self._make(request, "edit", fields, await read_uploads(contents, "image"))

    async def _make(
        self, request: Request, kind: Kind, fields: dict[str, Any], inputs: tuple[InputImage, ...]
    ) -> Response:
        service = self._service
        service.require_model(fields.get("model"))
        prompt = require_text(fields.get("prompt"), "prompt")
        if not prompt.strip():
            raise bad_request("the prompt is empty", 'write one like "a cat"', param="prompt")
        given = picture_fields(fields, KNOWN)
        output = _read_output(fields)
        task = PictureTask(kind, Prompt(prompt, settings=given.settings), inputs)
        built = service.build(task, names=sent_names(fields))
        turn = with_previews(built, output.partial_images if output.stream else 0)
        _require_room(output, _size_of(turn, service))
        notices = (*given.notices, *_output_notices(fields, output, turn))
        job = service.submit(turn, given.lora, notices)
        answers = _Answers(service, job, kind, output, str(request.base_url))
        if output.stream:
            return event_stream(service, job, answers.events())
        return await unless_gone(request, service, job, answers.whole)


class _Answers:
    """Builds the answers to one request from the events of its job."""

    def __init__(self, service: Service, job: Job, kind: Kind, output: Output, base_url: str) -> None:
        self._service = service
        self._job = job
        self._output = output
        self._base_url = base_url
        self._prefix = "image_generation" if kind == "generate" else "image_edit"

    async def whole(self) -> Response:
        """Wait for all pictures and return them."""
        await self._job.wait()
        require_done(self._job)
        results = list(self._job.results)
        pictures = [each for each in results if isinstance(each, FinishedPicture)]
        data = [await self._picture(picture) for picture in pictures]
        return json_response(
            {
                "created": int(self._job.created_at),
                "data": data,
                **_shape(self._output, pictures[0].picture.settings.size),
                "usage": usage(results, pictures),
                **extras(self._job, results),
            }
        )

    async def events(self) -> AsyncGenerator[bytes]:
        """Yield the standard events: partial images, then each picture when it is finished."""
        steps = preview_steps(self._job.turn, self._output.partial_images)
        async for message in follow(self._job):
            if isinstance(message, bytes):
                yield message
            elif isinstance(message, ThinkToken):
                yield comment("thinking")
            elif isinstance(message, DenoisingStep) and (message.preview is None or message.step not in steps):
                yield step_comment(message)
            elif isinstance(message, DenoisingStep):
                assert message.preview is not None
                file = await asyncio.to_thread(_encode_preview, message.preview, self._output)
                yield self._event(
                    "partial_image",
                    {
                        "b64_json": base64.b64encode(file).decode(),
                        "partial_image_index": steps.index(message.step),
                        "index": message.index,
                        **_shape(self._output, self._size),
                    },
                )
            elif isinstance(message, FinishedPicture):
                results = list(self._job.results)
                last = message.picture.index + 1 == message.picture.count
                if last:  # the statistics, which the usage needs, follow the last picture
                    await self._job.wait()
                    results = list(self._job.results)
                content = await self._picture(message)
                shape = _shape(self._output, message.picture.settings.size)
                counts = usage(results, [message])
                yield self._event("completed", {**content, **shape, "usage": counts, **extras(self._job, results)})

    def _event(self, name: str, content: dict[str, Any]) -> bytes:
        kind = f"{self._prefix}.{name}"
        return sse({"type": kind, "created_at": int(time.time()), **content}, kind)

    @property
    def _size(self) -> str:
        return format_size(_size_of(self._job.turn, self._service))

    async def _picture(self, finished: FinishedPicture) -> dict[str, Any]:
        """Return one picture with the values that made it."""
        picture, file = finished.picture, await finished.png
        if self._output.format != "png":
            file = await asyncio.to_thread(_convert, file, finished.record, self._output)
        content: dict[str, Any] = {"index": picture.index, "seed": picture.settings.seed}
        if self._output.as_url:
            name = self._service.pictures.add(file)
            content["url"] = f"{self._base_url}v1/sensenova/pictures/{name}"
        if self._output.stream or not self._output.as_url:  # an event of a stream always has it
            content["b64_json"] = base64.b64encode(file).decode()
        content["settings"] = applying(picture.settings.model_dump(mode="json"), self._job.turn.task.kind)
        record = finished.record
        content["record"] = {"format": FORMAT, **record.model_dump(mode="json")} if record is not None else None
        if picture.think_text is not None:
            content["think_text"] = picture.think_text
        return content


def sent_names(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return setting → field of the client, for settings that it sent under another name than ours."""
    return {setting: name for name, setting in OTHER_NAMES.items() if fields.get(name) is not None}


def usage(results: list[Event | FinishedPicture], pictures: list[FinishedPicture]) -> dict[str, Any]:
    """Return the token counts of a request: one token for each 32 × 32 pixels of a picture, and think tokens."""
    condition = next((each for each in results if isinstance(each, PrefixRead) and each.branch == "condition"), None)
    tokens, image_tokens = (condition.tokens, condition.image_tokens) if condition else (0, 0)
    made = 0
    for finished in pictures:
        size = parse_size(finished.picture.settings.size)
        made += size[0] * size[1] // 1024 if size else 0
    think = next((len(each.token_ids) for each in results if isinstance(each, ThinkText)), 0)
    output = made + think
    return {
        "input_tokens": tokens,
        "input_tokens_details": {
            "text_tokens": tokens - image_tokens,
            "image_tokens": image_tokens,
            "cached_tokens": condition.reused if condition else 0,
        },
        "output_tokens": output,
        "output_tokens_details": {"image_tokens": made, "text_tokens": think},
        "total_tokens": tokens + output,
    }


def extras(job: Job, results: list[Event | FinishedPicture]) -> dict[str, Any]:
    """Return the parts of an answer that OpenAI's API does not have: the request's id, notices and measurements."""
    statistics = next((each for each in results if isinstance(each, Statistics)), None)
    metrics = None
    if statistics is not None:
        metrics = {
            "seconds": round(statistics.seconds, 3),
            "denoise_seconds": round(statistics.denoise_seconds, 3),
            "steps": statistics.steps,
            "new_tokens": statistics.new_tokens,
            "peak_memory": statistics.peak_memory,
        }
    notices = [each.text for each in results if isinstance(each, Notice)]
    return {"id": job.id, "notices": notices, "metrics": metrics}


def with_previews(turn: Turn, count: int) -> Turn:
    """Return a turn whose pictures have `count` evenly spaced previews each, or fewer if there are too few steps."""
    request = turn.request
    assert not isinstance(request, AnswerRequest)
    steps = request.settings.num_steps
    # The finished picture ends the row of previews, so none of them is made after the last step.
    every = max(1, min(round(steps / (count + 1)), (steps - 1) // count)) if count else 0
    return replace(turn, request=replace(request, preview_every=every, preview_size=PREVIEW_SIDE))


def preview_steps(turn: Turn, count: int) -> list[int]:
    """Return the steps after which a picture of this turn has a partial image."""
    request = turn.request
    assert not isinstance(request, AnswerRequest)
    every = request.preview_every
    return list(range(every, request.settings.num_steps, every))[:count] if every else []


def step_comment(step: DenoisingStep) -> bytes:
    """Return a comment about a step. Clients skip it; it keeps the connection in use while a picture takes minutes."""
    return comment(f"step {step.step} of {step.steps}")


def _size_of(turn: Turn, service: Service) -> tuple[int, int]:
    """Return width and height of a turn's pictures."""
    request, trained = turn.request, service.card.recommended.trained_sizes
    first = request.images[0].size if isinstance(request, EditRequest) else None
    assert not isinstance(request, AnswerRequest)
    return resolve_size(request.settings.size, trained, first)


def _require_room(output: Output, size: tuple[int, int]) -> None:
    """Raise ApiError if the client's format cannot hold its pictures, before they are drawn."""
    if output.format == "webp" and max(size) > MAX_WEBP_SIDE:
        raise bad_request(
            f'"output_format": a WebP file has up to {MAX_WEBP_SIDE:,} pixels a side', "use png", param="output_format"
        )


def _output_notices(fields: Mapping[str, Any], output: Output, turn: Turn) -> list[str]:
    """Return notices about fields of the output that have no effect."""
    notices = []
    if output.partial_images and not output.stream:
        notices.append('"partial_images" has no effect without "stream": true')
    if output.stream and (possible := len(preview_steps(turn, output.partial_images))) < output.partial_images:
        notices.append(f'"partial_images": this number of steps has {possible} at most')
    if output.format == "png" and fields.get("output_compression") not in (None, 100):
        notices.append('"output_compression" has no effect on PNG files')
    return notices


def _encode_preview(image: Image.Image, output: Output) -> bytes:
    """Encode a preview in the client's format."""
    if output.format != "png":
        return encode_picture(image, None, output.format, output.quality).content
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _convert(png: bytes, record: PictureRecord | None, output: Output) -> bytes:
    """Return a picture in the client's format, with its record."""
    return encode_picture(read_picture(png), record, output.format, output.quality).content


def _shape(output: Output, size: str) -> dict[str, str]:
    return {"background": "opaque", "output_format": output.format, "quality": "high", "size": size}


def _read_output(fields: Mapping[str, Any]) -> Output:
    form, kind = fields.get("response_format") or "b64_json", fields.get("output_format") or "png"
    if form not in ("b64_json", "url"):
        raise bad_request('"response_format" is b64_json or url', "use b64_json", param="response_format")
    format = FORMATS.get(f".{kind}")  # jpg is jpeg
    if format is None:
        raise bad_request(
            '"output_format" is png, jpeg or webp', "use png", param="output_format", code="not_supported"
        )
    quality, count, stream = fields.get("output_compression"), fields.get("partial_images"), fields.get("stream")
    quality = 90 if quality is None else quality
    count = 0 if count is None else count
    for name, value, most in (("output_compression", quality, 100), ("partial_images", count, MAX_PARTIAL_IMAGES)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise bad_request(f'"{name}" must be a whole number from 0 to {most}', param=name)
    if not isinstance(stream, bool | None):
        raise bad_request('"stream" must be true or false', param="stream")
    return Output(form == "url", format, quality, bool(stream), count)


def _as_list(value: object) -> list[object]:
    """Return the pictures in a field that contains one picture or a list."""
    if not value:
        return []
    return value if isinstance(value, list) else [value]


def _url_of(picture: object) -> object:
    """Return the URL of a picture in JSON: a text, or an object like those in chats."""
    if isinstance(picture, dict):
        picture = picture.get("image_url", picture.get("url"))
        return picture.get("url") if isinstance(picture, dict) else picture
    return picture
