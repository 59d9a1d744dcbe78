"""The parts of the API of AUTOMATIC1111's web UI that other programs use: pictures, progress, and lists of choices.

SillyTavern, Open WebUI's oldest engine, webuiapi and many bots draw with this API only.
"""

import asyncio
import base64
import io
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from config.settings import ImageSettings
from config.sizes import parse_size
from config.task_defaults import applying
from model import DenoisingStep
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.serve.bodies import read_json
from sensenova_cli.serve.errors import bad_request
from sensenova_cli.serve.images import extras, with_previews
from sensenova_cli.serve.jobs import FinishedPicture, Job
from sensenova_cli.serve.pictures import decode_data_url, read_uploads, require_few
from sensenova_cli.serve.sd_fields import SAMPLER, read_fields, require_model
from sensenova_cli.serve.service import Service
from sensenova_cli.serve.streams import encode, json_response, require_done, unless_gone
from sensenova_cli.turns.tasks import PictureTask

PREFIX = "/sdapi/v1"
MAX_PREVIEWS = 20
"""Maximum number of previews of a picture. Clients ask for the newest one at any time."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass
class _Generation:
    """A request that has no answer yet.

    Attributes:
        client: address of the machine that sent it.
        step: the newest denoising step.
        preview: the newest preview.
        began: value of `time.monotonic` after its first denoising step; 0 before.
    """

    job: Job
    client: str
    step: DenoisingStep | None = None
    preview: Image.Image | None = None
    began: float = 0.0

    async def follow(self) -> None:
        """Record the progress until the job ends.

        Raises:
            ApiError: the job failed.
        """
        async for message in self.job.listen(ping_seconds=3600):
            if isinstance(message, DenoisingStep):
                self.began = self.began or time.monotonic()
                self.step, self.preview = message, message.preview or self.preview

    @property
    def progress(self) -> float:
        """The finished fraction of all steps of all pictures, from 0 to 1."""
        return (self.step.index + self.step.step / self.step.steps) / self.step.count if self.step else 0.0

    @property
    def seconds_left(self) -> float:
        """Estimated time to the end; 0 while it is unknown."""
        if self.step is None:
            return 0.0
        timed = self.progress - 1 / (self.step.steps * self.step.count)  # the first step ended when the clock started
        return (time.monotonic() - self.began) * (1 - self.progress) / timed if timed > 0 else 0.0


class SdApi:
    """Handlers of `/sdapi/v1/…`.

    A client sees and stops only requests that came through this API from its own machine.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._active: list[_Generation] = []

    def routes(self) -> list[Route]:
        """Return the routes of this API."""
        name, loras = self._service.name, list(self._service.loras)
        model = {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
        lists: dict[str, tuple[str, Any]] = {
            "sd-models": ("List the served model.", [model]),
            "samplers": (
                "List the sampler.",
                [{"name": SAMPLER, "aliases": ["euler", "k_euler"], "options": {}}],
            ),
            "schedulers": ("List the schedule.", [{"name": "automatic", "label": "Automatic", "aliases": None}]),
            "loras": (
                "List the LoRAs that a prompt can name, like `<lora:NAME:0.8>`.",
                [{"name": each, "alias": each, "path": each, "metadata": {}} for each in loras],
            ),
            "upscalers": (
                "List upscalers: there are none.",
                [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1}],
            ),
            "scripts": ("List scripts: there are none.", {"txt2img": [], "img2img": []}),
            "embeddings": ("List embeddings: there are none.", {"loaded": {}, "skipped": {}}),
        }
        for empty in ("latent-upscale-modes", "sd-vae", "hypernetworks", "face-restorers", "prompt-styles"):
            lists[empty] = ("Return an empty list: the model has nothing of this kind.", [])
        return [
            Route(f"{PREFIX}/txt2img", self.txt2img, methods=["POST"]),
            Route(f"{PREFIX}/img2img", self.img2img, methods=["POST"]),
            Route(f"{PREFIX}/progress", self.progress, methods=["GET"]),
            Route(f"{PREFIX}/interrupt", self.interrupt, methods=["POST"]),
            Route(f"{PREFIX}/skip", self.interrupt, methods=["POST"]),
            Route(f"{PREFIX}/options", self.options, methods=["GET"]),
            Route(f"{PREFIX}/options", self.set_options, methods=["POST"]),
            *(Route(f"{PREFIX}/{each}", _constant(*content), methods=["GET"]) for each, content in lists.items()),
        ]

    async def txt2img(self, request: Request) -> Response:
        """Make pictures from a prompt."""
        return await self._make(request, await read_json(request), changes_pictures=False)

    async def img2img(self, request: Request) -> Response:
        """Change pictures."""
        return await self._make(request, await read_json(request), changes_pictures=True)

    async def progress(self, request: Request) -> Response:
        """Say how far the request of this client is, with a preview of the picture."""
        skip = request.query_params.get("skip_current_image", "").lower() in ("1", "true", "yes", "on")
        current = self._current(request)
        step = current.step if current else None
        preview = current.preview if current and not skip else None
        image = await asyncio.to_thread(_base64_png, preview) if preview is not None else None
        count = _count(current.job) if current else 0
        state = {
            "skipped": False,
            "interrupted": current is not None and current.job.stop.requested,
            "stopping_generation": False,
            "job": current.job.id if current else "",
            "job_count": count,
            "job_timestamp": _timestamp(current.job) if current else "0",
            "job_no": step.index if step else 0,
            "sampling_step": step.step if step else 0,
            "sampling_steps": step.steps if step else 0,
        }
        return json_response(
            {
                "progress": round(current.progress, 4) if current else 0.0,
                "eta_relative": round(current.seconds_left, 2) if current else 0.0,
                "state": state,
                "current_image": image,
                "textinfo": _activity(current),
            }
        )

    async def interrupt(self, request: Request) -> Response:
        """Stop the running request of this client, or else its first waiting one."""
        current = self._current(request)
        if current is not None:
            self._service.scheduler.cancel(current.job)
        return json_response({})

    async def options(self, request: Request) -> Response:
        """Return the options: the name of the model, and values that no client can change."""
        return json_response(
            {
                "sd_model_checkpoint": self._service.name,
                "sd_checkpoint_hash": "",
                "samples_format": "png",
                "CLIP_stop_at_last_layers": 1,
            }
        )

    async def set_options(self, request: Request) -> Response:
        """Accept the served model's name. Other options have no effect here."""
        fields = await read_json(request)
        require_model(fields.get("sd_model_checkpoint"), self._service.name, "sd_model_checkpoint")
        return json_response({})

    async def _make(self, request: Request, fields: dict[str, Any], *, changes_pictures: bool) -> Response:
        service = self._service
        service.scheduler.require_room()
        given = read_fields(fields, service.name, changes_pictures=changes_pictures)
        inputs = await _read_pictures(fields.get("init_images")) if changes_pictures else ()
        prompt = Prompt(given.prompt, settings=given.settings)
        task = PictureTask("edit" if changes_pictures else "generate", prompt, inputs)
        turn = with_previews(service.build(task), MAX_PREVIEWS)
        job = service.submit(turn, given.lora, given.notices)
        generation = _Generation(job, _client(request))
        self._active.append(generation)
        try:
            return await unless_gone(request, service, job, lambda: self._answer(generation, fields))
        finally:
            self._active.remove(generation)

    async def _answer(self, generation: _Generation, fields: Mapping[str, Any]) -> Response:
        """Wait for the pictures and return them. If the request is stopped, return those that are finished."""
        await generation.follow()
        job = generation.job
        pictures = [each for each in job.results if isinstance(each, FinishedPicture)]
        if not pictures:
            require_done(job)
        files = [await each.png for each in pictures]
        hidden = ("mask",) if fields.get("include_init_images") is True else ("mask", "init_images")
        return json_response(
            {
                "images": [base64.b64encode(file).decode() for file in files],
                "parameters": {name: value for name, value in fields.items() if name not in hidden},
                "info": encode(self._info(job, pictures)).decode(),
            }
        )

    def _info(self, job: Job, pictures: list[FinishedPicture]) -> dict[str, Any]:
        """Return the values that made the pictures."""
        settings, prompt = [each.picture.settings for each in pictures], job.turn.prompt
        first = settings[0]
        width, height = parse_size(first.size) or (0, 0)
        found = extras(job, list(job.results))
        if len(pictures) < _count(job):
            found["notices"].append(f"stopped after {len(pictures)} of {_count(job)} pictures")
        return {
            "prompt": prompt,
            "all_prompts": [prompt] * len(pictures),
            "negative_prompt": first.negative,
            "all_negative_prompts": [each.negative for each in settings],
            "seed": first.seed,
            "all_seeds": [each.seed for each in settings],
            "subseed": first.seed,
            "all_subseeds": [each.seed for each in settings],
            "subseed_strength": 0,
            "width": width,
            "height": height,
            "sampler_name": SAMPLER,
            "cfg_scale": first.cfg_scale,
            "steps": first.num_steps,
            "batch_size": len(pictures),
            "restore_faces": False,
            "sd_model_name": self._service.name,
            "sd_model_hash": "",
            "index_of_first_image": 0,
            "infotexts": [self._infotext(prompt, each) for each in settings],
            "styles": [],
            "job_timestamp": _timestamp(job),
            "clip_skip": 1,
            "think_text": pictures[0].picture.think_text,
            "settings": applying(first.model_dump(mode="json"), job.turn.task.kind),
            **found,
        }

    def _infotext(self, prompt: str, settings: ImageSettings) -> str:
        """Return the description of a picture in the form that other programs parse."""
        values = {
            "Steps": settings.num_steps,
            "Sampler": SAMPLER,
            "CFG scale": f"{settings.cfg_scale:g}",
            "Seed": settings.seed,
            "Size": settings.size,
            "Model": self._service.name,
        }
        negative = f"Negative prompt: {settings.negative}\n" if settings.negative else ""
        return f"{prompt}\n{negative}" + ", ".join(f"{name}: {value}" for name, value in values.items())

    def _current(self, request: Request) -> _Generation | None:
        """Return the client's running request, or else its first waiting one."""
        mine = [each for each in self._active if each.client == _client(request) and not each.job.is_finished]
        return next((each for each in mine if each.job.status == "running"), mine[0] if mine else None)


async def _read_pictures(given: object) -> tuple[InputImage, ...]:
    urls = given if isinstance(given, list) else [given] if given else []
    if not urls:
        raise bad_request("there is no picture to change", 'send one in "init_images"', param="init_images")
    require_few(len(urls), "init_images")
    files = [(decode_data_url(each, f"init_images.{n}"), f"picture {n + 1}") for n, each in enumerate(urls)]
    return await read_uploads(files, "init_images")


def _constant(summary: str, content: Any) -> Handler:
    """Return a handler whose answer never changes."""

    async def answer(request: Request) -> Response:
        return json_response(content)

    answer.__doc__ = summary
    return answer


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def _count(job: Job) -> int:
    """Return the number of pictures that a request asks for."""
    return int(job.turn.settings.num_images)


def _activity(current: _Generation | None) -> str | None:
    """Return the state of a request in words; None if denoising shows it, or if there is no request."""
    if current is None or current.step is not None:
        return None
    position = current.job.position
    return f"waiting: {position} in the queue" if current.job.status == "queued" else "reading the prompt"


def _timestamp(job: Job) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.localtime(job.created_at))


def _base64_png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
