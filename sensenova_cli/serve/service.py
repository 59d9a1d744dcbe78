"""The state that all APIs share: settings, model, queue, uploads and finished results."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from config.errors import SenseNovaError, SettingsError
from config.settings import ServeSettings, SettingsGroup
from config.sizes import resolve_interleave_size, resolve_size
from config.sources import Layers
from config.validation import check_values, json_notation
from model import Card, NamedLora, parse_loras
from sensenova_cli.serve.errors import ApiError, api_error, bad_request
from sensenova_cli.serve.jobs import Job
from sensenova_cli.serve.pictures import PictureStore
from sensenova_cli.serve.scheduler import Scheduler
from sensenova_cli.turns.build_request import Previews, Turn, build_turn
from sensenova_cli.turns.tasks import AnswerTask, InterleaveTask, PictureTask, Task

RESULT_SECONDS = 600
"""Time for which the result of a finished job can be fetched."""
MAX_RESULTS = 1000
"""Maximum number of finished jobs whose results are kept."""
MAX_TEXT = 65_536
"""Maximum number of characters of a prompt, a message of a conversation, or another text field."""
MAX_CONVERSATION = 500_000
"""Maximum number of characters of all messages of a conversation."""
DRAW_SUFFIX = "-draw"
"""The model's name with this suffix draws pictures in chats."""
NO_PREVIEWS = Previews()
HOSTED_MODELS = ("gpt-image-", "dall-e-", "chatgpt-image-")
"""Starts of model names that image clients hard-wire. They mean the served model."""


class Service:
    """Everything that the APIs share. All methods belong to the event loop's thread.

    Attributes:
        settings: the server's own settings.
        layers: all other settings, in their layers; requests override those of pictures and answers.
        scheduler: the queue of jobs.
        name: the model's name for clients.
        pictures: uploaded pictures, and finished ones whose address a client has.
        loras: the LoRAs that clients may choose, by name.
        started_at: value of `time.time` at the start.
    """

    def __init__(self, settings: ServeSettings, layers: Layers, scheduler: Scheduler, name: str) -> None:
        self.settings = settings
        self.layers = layers
        self.scheduler = scheduler
        self.name = name
        self.pictures = PictureStore(settings.keep_bytes)
        self.loras = parse_named_loras(settings.loras)
        self.started_at = time.time()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        scheduler.on_finished = lambda job: self._forget_old()

    @property
    def card(self) -> Card:
        """The card of the model as it was loaded. A LoRA that a client has chosen does not change the others' defaults.

        Defaults of interleaved answers are lowered to this server's limits, so that a limit refuses only values that a
        client has chosen.

        Raises:
            ApiError: the model is not loaded yet.
        """
        self.scheduler.require_ready()
        card, limits = self.scheduler.card, self.settings
        assert card is not None
        most = {"max_images": limits.max_images, "max_tokens": limits.max_new_tokens}
        return replace(card, recommended=card.recommended.limited(most))

    def build(self, task: Task, previews: Previews = NO_PREVIEWS, names: Mapping[str, str] = {}) -> Turn:
        """Merge the settings of a task and build its request, within the limits of this server.

        Args:
            names: setting → name of the client's field, where it differs, for errors about limits.

        Raises:
            ApiError: the task is not valid, or exceeds a limit.
        """
        recommended = self.card.recommended
        try:
            turn = build_turn(task, self.layers, recommended, previews)
            self._require_limits(task, turn, names)
        except SenseNovaError as error:
            raise api_error(error) from None
        return turn

    def submit(self, turn: Turn, lora: Any = None, notices: tuple[str, ...] = ()) -> Job:
        """Put a turn into the queue.

        Args:
            lora: the value of a request's field `lora`.
            notices: notices for the client, which the job publishes first.

        Raises:
            ApiError: the LoRA is unknown, the queue is full, or the model is not ready.
        """
        job = Job(turn, self._find_loras(lora), notices)
        self.scheduler.submit(job)
        self._jobs[job.id] = job
        return job

    def job(self, name: str) -> Job:
        """Return a job that waits, runs, or ended less than ten minutes ago.

        Raises:
            ApiError: the job no longer exists.
        """
        self._forget_old()
        if name not in self._jobs:
            raise ApiError(404, "there is no such request", "not_found", hint="results are kept for ten minutes")
        return self._jobs[name]

    def require_model(self, name: object) -> bool:
        """Check the model's name in a request, and return whether it is the name that draws pictures in chats.

        Raises:
            ApiError: the request names another model.
        """
        if name is None or name == "":
            return False
        if isinstance(name, str) and name.endswith(DRAW_SUFFIX):
            if name.removesuffix(DRAW_SUFFIX) == self.name:
                return True
        elif name == self.name or (isinstance(name, str) and name.startswith(HOSTED_MODELS)):
            return False
        raise ApiError(
            404,
            f"there is no model {str(name)[:100]!r} here",
            "model_not_found",
            param="model",
            hint=f"use {self.name} or {self.name}{DRAW_SUFFIX}",
        )

    def _find_loras(self, lora: Any) -> tuple[NamedLora, ...] | None:
        """Return the LoRAs to merge for a request.

        Without one, these are the LoRAs that the model was loaded with, if clients can change them at all.
        """
        if lora is None:
            return parse_loras(self.layers.load.lora) if self.loras else None
        name, strength = lora, None
        if isinstance(lora, Mapping):
            if "path" in lora or "local_path" in lora:
                raise bad_request("clients cannot name files of the server", "use a name", param="lora")
            name, strength = lora.get("name"), lora.get("scale", lora.get("strength"))
        if name in ("", "off", "none"):
            return ()
        if not isinstance(name, str) or name not in self.loras:
            known = ", ".join(self.loras) or "none"
            raise bad_request(f"there is no LoRA {str(name)[:100]!r}", f"known LoRAs: {known}", param="lora")
        found = self.loras[name]
        if strength is None:
            return (found,)
        if not isinstance(strength, int | float) or isinstance(strength, bool) or not abs(strength) <= 10:
            raise bad_request("the strength of a LoRA must be a number from -10 to 10", "try 1", param="lora")
        return (NamedLora(found.name, float(strength)),)

    def _require_limits(self, task: Task, turn: Turn, names: Mapping[str, str]) -> None:
        limits, settings = self.settings, turn.settings
        if not isinstance(task, PictureTask):
            self._require(names.get("max_tokens", "max_tokens"), settings.max_tokens, limits.max_new_tokens)
        if isinstance(task, AnswerTask):
            return
        first = task.inputs[0].image.size if task.inputs else None
        recommended = self.card.recommended
        if isinstance(task, InterleaveTask):
            width, height = resolve_interleave_size(settings.size, recommended.interleave.trained_sizes, first)
            self._require("max_images", settings.max_images, limits.max_images)
        else:
            width, height = resolve_size(settings.size, recommended.trained_sizes, first)
            self._require(names.get("num_images", "num_images"), settings.num_images, limits.max_images)
        require_text(settings.negative, names.get("negative", "negative"))
        self._require("size", width * height, limits.max_pixels, "pixels")
        self._require(names.get("num_steps", "num_steps"), settings.num_steps, limits.max_steps)
        if settings.think and isinstance(task, PictureTask):
            self._require("max_think_tokens", settings.max_think_tokens, limits.max_new_tokens)

    @staticmethod
    def _require(param: str, value: int, most: int, unit: str = "") -> None:
        if value > most:
            shown = f"{value:,} {unit}".strip()
            raise bad_request(f'"{param}": {shown}; this server allows {most:,} at most', param=param, code="limit")

    def _forget_old(self) -> None:
        """Forget results that are too old, and the oldest ones if there are too many or they take too much memory."""
        finished = [job for job in self._jobs.values() if job.is_finished]
        total = sum(job.size_in_memory for job in finished)
        for index, job in enumerate(finished):
            is_old = time.monotonic() - job.finished_at > RESULT_SECONDS
            if is_old or len(finished) - index > MAX_RESULTS or total > self.settings.keep_bytes:
                total -= job.size_in_memory
                del self._jobs[job.id]


def check_settings(given: Mapping[str, Any], group: type[SettingsGroup], param: Mapping[str, str]) -> dict[str, Any]:
    """Check the settings of a request. A missing seed becomes a random one.

    Args:
        given: setting → value from JSON.
        param: setting → name of the client's field, where it differs.

    Raises:
        ApiError: a value has a wrong type or is out of bounds; it names the field.
    """
    checked: dict[str, Any] = {}
    for name, value in given.items():
        notation = json_notation(lambda name: "")
        try:
            checked |= check_values({name: value}, notation, group.model_fields)
        except SettingsError as error:
            raise api_error(error, param.get(name, name)) from None
    return {"seed": secrets.randbelow(2**32), **checked}


def require_text(value: object, param: str) -> str:
    """Return a text field.

    Raises:
        ApiError: it is not text, or too long.
    """
    if not isinstance(value, str):
        raise bad_request(f"{param} must be text", "write it in quotes", param=param)
    if len(value) > MAX_TEXT:
        raise bad_request(
            f"{param} has {len(value):,} characters; the limit is {MAX_TEXT:,}", "shorten it", param=param
        )
    return value


def parse_named_loras(text: str | None) -> dict[str, NamedLora]:
    """Parse the setting `loras`: `pixel=./pixel.safetensors:0.8, fast=./fast.safetensors`.

    Raises:
        SettingsError: a part has no name or no file, or a name appears twice.
    """
    found: dict[str, NamedLora] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, equals, file = (each.strip() for each in part.partition("="))
        loras = parse_loras(file)
        if not equals or not name or len(loras) != 1 or name in found:
            raise SettingsError(
                f"loras {part.strip()!r} is not understood", "write it like pixel=./pixel.safetensors:0.8"
            )
        found[name] = loras[0]
    return found


def served_name(settings: ServeSettings, model: str) -> str:
    """Return the model's name for clients: the setting `served_name`, or the last part of its folder or Hub id."""
    if settings.served_name is not None:
        return settings.served_name
    return model.replace("\\", "/").rstrip("/").rpartition("/")[2].partition("@")[0] or "model"
