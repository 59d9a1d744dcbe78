"""The native API: every request and event of the engine, as `model.wire` writes them."""

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from config.settings import RECORDED_LOAD_SETTINGS, ImageSettings, SettingsGroup, TextSettings
from config.sizes import format_size
from model import WIRE_VERSION, Conversation, Event, Message, count_images, pack
from sensenova_cli import __version__
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.outputs.picture_record import checksum
from sensenova_cli.serve.bodies import read_json
from sensenova_cli.serve.errors import ApiError, bad_request
from sensenova_cli.serve.jobs import FinishedPicture, Job, Position
from sensenova_cli.serve.pictures import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_INPUT_PIXELS,
    decode_data_url,
    media_type,
    read_uploads,
    require_few,
)
from sensenova_cli.serve.service import MAX_CONVERSATION, Service, check_settings, require_text
from sensenova_cli.serve.streams import event_stream, follow, json_response, sse
from sensenova_cli.turns.build_request import Previews
from sensenova_cli.turns.tasks import AnswerTask, InterleaveTask, PictureTask, Task

FIELDS = frozenset(
    {
        "request",
        "version",
        "prompt",
        "settings",
        "images",
        "pictures",
        "history",
        "system",
        "text_settings",
        "preview_every",
        "preview_size",
        "lora",
    }
)
"""The known fields of a request."""


class NativeApi:
    """Handlers of `/v1/sensenova/…`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def run(self, request: Request) -> Response:
        """Run a request, and stream its events."""
        content = await read_json(request)
        self._service.scheduler.require_room()
        ignored = [name for name in content if name not in FIELDS]
        task, previews = await self._read_task(content, ignored)
        turn = self._service.build(task, previews)
        notices = tuple(f"ignored: {name[:100]}" for name in ignored[:20])
        job = self._service.submit(turn, content.get("lora"), notices)
        return event_stream(self._service, job, _events(job))

    async def result(self, request: Request) -> Response:
        """Return the state of a job, with its results."""
        job = self._service.job(request.path_params["id"])
        events = [await event_json(each) for each in list(job.results)]
        if job.error is not None:
            events.append({"event": "error", **job.error.json()})
        return json_response({**_state(job), "events": events})

    async def stop(self, request: Request) -> Response:
        """Stop a job, and return its state without results."""
        job = self._service.job(request.path_params["id"])
        self._service.scheduler.cancel(job)
        return json_response({**_state(job), "status": "cancelled" if not job.is_finished else job.status})

    async def info(self, request: Request) -> Response:
        """Describe the server and its model."""
        service = self._service
        card, engine = service.card, service.scheduler.engine
        assert engine is not None
        limits, recommended = service.settings, card.recommended
        resolved = service.layers.resolve(recommended).settings
        return json_response(
            {
                "version": WIRE_VERSION,
                "program": __version__,
                "model": service.name,
                "description": engine.description,
                "loaded": {name: getattr(service.scheduler.public_settings, name) for name in RECORDED_LOAD_SETTINGS},
                "trained_sizes": [format_size(size) for size in recommended.trained_sizes],
                "settings": dict(recommended.settings),
                "interleave": {
                    "trained_sizes": [format_size(size) for size in recommended.interleave.trained_sizes],
                    "settings": dict(recommended.interleave.settings),
                },
                "world": recommended.world.model_dump() if recommended.world is not None else None,
                "defaults": _values(resolved, ImageSettings) | _values(resolved, TextSettings),
                "loras": list(service.loras),
                "queue": {
                    "running": int(service.scheduler.running is not None),
                    "waiting": len(service.scheduler.waiting),
                    "limit": limits.max_queue,
                },
                "limits": {
                    "max_images": limits.max_images,
                    "max_pixels": limits.max_pixels,
                    "max_steps": limits.max_steps,
                    "max_new_tokens": limits.max_new_tokens,
                    "max_pictures": MAX_FILES,
                    "max_picture_bytes": MAX_FILE_BYTES,
                    "max_picture_pixels": MAX_INPUT_PIXELS,
                },
            }
        )

    async def put_picture(self, request: Request) -> Response:
        """Store a picture under its checksum."""
        name = request.path_params["sha256"].lower()
        if self._service.pictures.get(name) is not None:
            return json_response({"sha256": name})
        content = await request.body()
        if len(content) > MAX_FILE_BYTES:
            raise ApiError(413, f"the picture has more than {MAX_FILE_BYTES:,} bytes", "picture_too_large")
        if media_type(content) is None:
            raise bad_request("this is not a PNG, JPEG, WebP or GIF file", code="not_a_picture")
        found = await asyncio.to_thread(checksum, content)
        if found != name:
            raise bad_request(f"the picture has the checksum {found}", "put it under this name", param="sha256")
        self._service.pictures.add(content)
        return json_response({"sha256": name}, 201)

    async def get_picture(self, request: Request) -> Response:
        """Return a stored picture."""
        content = self._service.pictures.get(request.path_params["sha256"].lower())
        if content is None:
            raise ApiError(404, "there is no such picture", "not_found", hint="the oldest pictures are removed first")
        return Response(content, media_type=media_type(content), headers={"Cache-Control": "private, max-age=600"})

    async def _read_task(self, content: Mapping[str, Any], ignored: list[str]) -> tuple[Task, Previews]:
        """Return the task of a request, and the previews that it asks for. Names of unknown settings are added to
        `ignored`."""
        _require_version(content)
        kind = content.get("request")
        if kind not in ("generate", "edit", "answer", "interleave"):
            known = "it is generate, edit, answer or interleave"
            raise bad_request(f'"request" is {str(kind)[:50]!r}', known, param="request")
        prompt = require_text(content.get("prompt"), "prompt")
        inputs = await self._read_pictures(content)
        if kind == "answer":
            settings = _settings(content, TextSettings, ignored)
            conversation = Conversation(_history(content), (), require_text(content.get("system", ""), "system"))
            images = tuple(each.image for each in inputs)
            return AnswerTask("describe" if images else "chat", prompt, images, conversation, settings), Previews()
        settings = _settings(content, ImageSettings, ignored)
        if kind == "generate" and inputs:
            raise bad_request("generate takes no pictures", 'use "request": "edit"', param="images")
        previews = Previews(_whole(content, "preview_every"), _whole(content, "preview_size"))
        if kind == "interleave":
            return _interleave_task(content, prompt, settings, inputs, ignored), previews
        return PictureTask(kind, Prompt(prompt, settings=settings), inputs), previews

    async def _read_pictures(self, content: Mapping[str, Any]) -> tuple[InputImage, ...]:
        images, pictures = content.get("images", []), content.get("pictures", [])
        if not isinstance(images, list) or not isinstance(pictures, list):
            raise bad_request("images and pictures must be lists", 'write "images": [{"png": 0}]', param="images")
        require_few(max(len(images), len(pictures)), "images")
        files = [self._file(each, index) for index, each in enumerate(pictures)]
        chosen: list[tuple[bytes, str]] = []
        for number, image in enumerate(images, start=1):
            index = image.get("png") if isinstance(image, dict) else None
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(files):
                raise bad_request("an image must name a picture", 'write it like {"png": 0}', param="images")
            chosen.append((files[index], f"picture {number}"))
        return await read_uploads(chosen, "pictures")

    def _file(self, picture: object, index: int) -> bytes:
        param = f"pictures.{index}"
        if not isinstance(picture, dict):
            return decode_data_url(picture, param)
        name = picture.get("sha256")
        content = self._service.pictures.get(name.lower()) if isinstance(name, str) else None
        if content is None:
            raise ApiError(404, "a picture is not stored here", "picture_unknown", param=param, hint="upload it first")
        return content


async def event_json(message: Event | FinishedPicture) -> dict[str, Any]:
    """Return an event as JSON, with its pictures in base64."""
    if isinstance(message, FinishedPicture):
        packed = pack(message.picture)
        files: tuple[bytes, ...] = (await message.png,)
    else:
        packed = await asyncio.to_thread(pack, message) if _has_preview(message) else pack(message)
        files = packed.pictures
    if not files:
        return dict(packed.content)
    return {**packed.content, "pictures": [base64.b64encode(file).decode() for file in files]}


async def _events(job: Job) -> AsyncGenerator[bytes]:
    yield sse({"event": "queued", "id": job.id, "position": job.position}, "queued")
    try:
        async for message in follow(job):
            if isinstance(message, bytes):
                yield message
            elif isinstance(message, Position):
                yield sse({"event": "queued", "id": job.id, "position": message.position}, "queued")
            else:
                content = await event_json(message)
                yield sse(content, content["event"])
    except ApiError as error:
        yield sse({"event": "error", **error.json()}, "error")


def _state(job: Job) -> dict[str, Any]:
    return {"id": job.id, "status": job.status, "position": job.position}


def _has_preview(event: Event) -> bool:
    return getattr(event, "preview", None) is not None


def _require_version(content: Mapping[str, Any]) -> None:
    version = content.get("version", WIRE_VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= WIRE_VERSION:
        raise bad_request(
            f"the request has version {str(version)[:20]}, and this server knows version {WIRE_VERSION}",
            "update the server, or use an older client",
            param="version",
        )


def _interleave_task(
    content: Mapping[str, Any],
    prompt: str,
    settings: dict[str, Any],
    inputs: tuple[InputImage, ...],
    ignored: list[str],
) -> InterleaveTask:
    """Return the task of an interleaved answer. Its two groups of settings share the seed of `settings`."""
    text = _settings(content, TextSettings, ignored, "text_settings")
    history, system = _history(content), content.get("system")
    count = min(len(inputs), count_images(history))
    earlier, new = inputs[:count], inputs[count:]
    return InterleaveTask(
        Prompt(prompt, settings={**text, **settings}),
        new,
        Conversation(history, tuple(each.image for each in earlier)),
        earlier,
        None if system is None else require_text(system, "system"),
    )


def _settings(
    content: Mapping[str, Any], group: type[SettingsGroup], ignored: list[str], field: str = "settings"
) -> dict[str, Any]:
    given = content.get(field, {})
    if not isinstance(given, dict):
        raise bad_request(f"{field} must be an object", 'write it like {"seed": 7}', param=field)
    ignored += [f"{field}.{name}" for name in given if name not in group.model_fields]
    known = {name: value for name, value in given.items() if name in group.model_fields}
    return check_settings(known, group, {name: f"{field}.{name}" for name in known})


def _history(content: Mapping[str, Any]) -> tuple[Message, ...]:
    history = content.get("history", [])
    if not isinstance(history, list):
        raise bad_request("history must be a list", param="history")
    messages = []
    for index, each in enumerate(history):
        if not isinstance(each, dict) or each.get("role") not in ("user", "assistant"):
            raise bad_request("a turn has a role, user or assistant, and a text", param=f"history.{index}")
        places = each.get("images_at", [])
        if not isinstance(places, list) or not all(type(place) is int for place in places):
            raise bad_request("images_at is a list of positions in the text", param=f"history.{index}.images_at")
        text = require_text(each.get("text"), f"history.{index}.text")
        messages.append(Message(each["role"], text, tuple(places)))
    if sum(len(each.text) for each in messages) > MAX_CONVERSATION:
        raise bad_request("the conversation is too long", "start a new one", param="history")
    return tuple(messages)


def _whole(content: Mapping[str, Any], name: str) -> int:
    value = content.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 100_000:
        raise bad_request(f'"{name}" must be a whole number, 0 or more', "write 0 for none", param=name)
    return value


def _values(settings: Any, group: type[SettingsGroup]) -> dict[str, Any]:
    return group.part_of(settings).model_dump(mode="json")
