"""OpenAI's Images API: `/v1/images/generations` and `/v1/images/edits`, with previews as partial images."""

import asyncio
import base64
import io
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import Image
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from config.sizes import format_size, parse_size, resolve_size
from model import AnswerRequest, DenoisingStep, EditRequest, Event, Notice, PrefixRead, Statistics
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.serve.bodies import read_json
from sensenova_cli.serve.errors import ApiError, bad_request
from sensenova_cli.serve.jobs import FinishedPicture, Job
from sensenova_cli.serve.picture_fields import from_form, merge_nested, picture_fields
from sensenova_cli.serve.pictures import MAX_FILE_BYTES, MAX_FILES, decode_data_url, read_upload, require_few
from sensenova_cli.serve.service import MAX_TEXT, Service, require_text
from sensenova_cli.serve.streams import event_stream, follow, json_response, require_done, sse, unless_gone
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
        "image",
        "image[]",
        "images",
        "url",
        "url[]",
    }
)
"""Fields that this module reads itself. The others are settings, or have no effect."""
MAX_PARTIAL_IMAGES = 20
PREVIEW_SIDE = 1024
"""Longer side of a partial image in pixels, at most."""
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}

Kind = Literal["generate", "edit"]


@dataclass(frozen=True)
class Output:
    """The form in which a client wants its pictures.

    Attributes:
        as_url: give out addresses instead of the files.
        format: png, jpeg or webp. Only PNG files contain the record of how they were made.
        quality: quality of JPEG and WebP files, 0 to 100.
        partial_images: number of previews of a picture in a stream.
    """

    as_url: bool
    format: str
    quality: int
    stream: bool
    partial_images: int


class ImagesApi:
    """Handlers of `/v1/images/…`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def generate(self, request: Request) -> Response:
        """Make pictures from a prompt."""
        return await self._make(request, "generate", merge_nested(await read_json(request)), ())

    async def edit(self, request: Request) -> Response:
        """Change pictures, which come as form files or as data URLs in JSON."""
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            fields = merge_nested(await read_json(request))
            given = fields.get("images", fields.get("image", []))
            urls = given if isinstance(given, list) else [given]
            require_few(len(urls), "image")
            files = [(_url_of(each), f"picture {number}") for number, each in enumerate(urls, start=1)]
            contents = [(decode_data_url(url, "image"), name) for url, name in files]
        else:
            fields, contents = await _read_form(request)
        if not contents:
            raise bad_request("there is no picture to change", 'send one as "image"', param="image")
        inputs = [await asyncio.to_thread(read_upload, content, name, "image") for content, name in contents]
        return await self._make(request, "edit", fields, tuple(inputs))

    async def _make(
        self, request: Request, kind: Kind, fields: dict[str, Any], inputs: tuple[InputImage, ...]
    ) -> Response:
        service = self._service
        service.require_model(fields.get("model"))
        prompt = require_text(fields.get("prompt"), "prompt")
        given = picture_fields(fields, KNOWN)
        output = _read_output(fields)
        if output.partial_images and not output.stream:
            given.notices.append('"partial_images" has no effect without "stream": true')
        task = PictureTask(kind, Prompt(prompt, settings=given.settings), inputs)
        turn = with_previews(service.build(task), output.partial_images if output.stream else 0)
        job = service.submit(turn, given.lora, tuple(given.notices))
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
            elif isinstance(message, DenoisingStep) and message.preview is not None and message.step in steps:
                file = await asyncio.to_thread(encode_picture, message.preview, self._output)
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
                yield self._event("completed", {**content, **shape, "usage": usage(results, [message])})

    def _event(self, name: str, content: dict[str, Any]) -> bytes:
        kind = f"{self._prefix}.{name}"
        return sse({"type": kind, "created_at": int(time.time()), **content}, kind)

    @property
    def _size(self) -> str:
        request, trained = self._job.turn.request, self._service.card.recommended.trained_sizes
        first = request.images[0].size if isinstance(request, EditRequest) else None
        assert not isinstance(request, AnswerRequest)
        return format_size(resolve_size(request.settings.size, trained, first))

    async def _picture(self, finished: FinishedPicture) -> dict[str, Any]:
        """Return one picture with the values that made it."""
        picture, file = finished.picture, await finished.png
        if self._output.format != "png":
            file = await asyncio.to_thread(_convert, file, self._output)
        content: dict[str, Any] = {"index": picture.index, "seed": picture.settings.seed}
        if self._output.as_url:
            name = self._service.pictures.add(file)
            content["url"] = f"{self._base_url}v1/sensenova/pictures/{name}"
        else:
            content["b64_json"] = base64.b64encode(file).decode()
        record = finished.record.model_dump(mode="json") if finished.record is not None else None
        content |= {"settings": picture.settings.model_dump(mode="json"), "record": record}
        if picture.think_text is not None:
            content["think_text"] = picture.think_text
        return content


def usage(results: list[Event | FinishedPicture], pictures: list[FinishedPicture]) -> dict[str, Any]:
    """Return the token counts of a request: one token for each 32 × 32 pixels of a picture, and think tokens."""
    condition = next((each for each in results if isinstance(each, PrefixRead) and each.branch == "condition"), None)
    tokens, image_tokens = (condition.tokens, condition.image_tokens) if condition else (0, 0)
    made = 0
    for finished in pictures:
        size = parse_size(finished.picture.settings.size)
        made += size[0] * size[1] // 1024 if size else 0
    think = next((each.new_tokens for each in results if isinstance(each, Statistics)), 0)
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
    """Return the parts of an answer that OpenAI's API does not have: the request's id, notes and measurements."""
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
    """Return a turn for pictures with `count` evenly spaced previews of each, or as many as it has steps."""
    request = turn.request
    assert not isinstance(request, AnswerRequest)
    every = max(1, request.settings.num_steps // (count + 1)) if count else 0
    return replace(turn, request=replace(request, preview_every=every, preview_size=PREVIEW_SIDE))


def preview_steps(turn: Turn, count: int) -> list[int]:
    """Return the steps after which a picture of this turn has a partial image."""
    request = turn.request
    assert not isinstance(request, AnswerRequest)
    every = request.preview_every
    return list(range(every, request.settings.num_steps, every))[:count] if every else []


def encode_picture(image: Image.Image, output: Output) -> bytes:
    """Encode a preview in the client's format."""
    buffer = io.BytesIO()
    if output.format == "png":
        image.save(buffer, "PNG", compress_level=1)
    else:
        image.save(buffer, FORMATS[output.format], quality=output.quality)
    return buffer.getvalue()


def _convert(png: bytes, output: Output) -> bytes:
    with Image.open(io.BytesIO(png)) as image:
        return encode_picture(image.convert("RGB"), output)


def _shape(output: Output, size: str) -> dict[str, str]:
    return {"background": "opaque", "output_format": output.format, "quality": "high", "size": size}


def _read_output(fields: Mapping[str, Any]) -> Output:
    form, kind = fields.get("response_format") or "b64_json", fields.get("output_format") or "png"
    if form not in ("b64_json", "url"):
        raise bad_request('"response_format" is b64_json or url', "use b64_json", param="response_format")
    if kind == "jpg":
        kind = "jpeg"
    if kind not in FORMATS:
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
    return Output(form == "url", kind, quality, bool(stream), count)


def _url_of(picture: object) -> object:
    """Return the URL of a picture in JSON: a text, or an object like those in chats."""
    if isinstance(picture, dict):
        picture = picture.get("image_url", picture.get("url"))
        return picture.get("url") if isinstance(picture, dict) else picture
    return picture


async def _read_form(request: Request) -> tuple[dict[str, Any], list[tuple[bytes, str]]]:
    """Return the fields and the picture files of a form."""
    fields: dict[str, str] = {}
    files: list[tuple[bytes, str]] = []
    try:
        form = await request.form(max_files=MAX_FILES + 1, max_fields=200, max_part_size=MAX_TEXT * 4)
    except ApiError:
        raise
    except Exception as error:  # the parser's own errors, which describe the form
        status = getattr(error, "status_code", 400)
        if status == 413:
            raise
        raise bad_request(f"the form cannot be read: {str(error)[:200] or type(error).__name__}") from None
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in ("image", "image[]", "images", "images[]"):
                    if name in ("mask", "mask_image"):
                        raise bad_request(
                            '"mask": the model cannot change only a part of a picture',
                            'leave out "mask"',
                            param="mask",
                            code="not_supported",
                        )
                    raise bad_request(f"there is no picture {name[:50]!r} in an edit", "name it image", param=name[:50])
                content = await value.read(MAX_FILE_BYTES + 1)
                files.append((content, _file_name(value.filename, len(files) + 1)))
            elif name in ("image", "image[]", "images", "url", "url[]"):
                files.append((decode_data_url(value, name), f"picture {len(files) + 1}"))
            elif name in fields:
                raise bad_request(f'"{name[:50]}" is given twice', "give it once", param=name[:50])
            else:
                fields[name] = value
    finally:
        await form.close()
    require_few(len(files), "image")
    return merge_nested(from_form(fields)), files


def _file_name(name: str | None, number: int) -> str:
    """Return a client's file name without folders and control characters."""
    plain = "".join(c for c in (name or "").replace("\\", "/").rpartition("/")[2] if c.isprintable())[:100]
    return plain or f"picture {number}"
