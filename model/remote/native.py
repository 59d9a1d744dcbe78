"""The engine of our own server: `sensenova serve`. It yields every event as a local engine does."""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from config.errors import SettingsError
from config.recommended import Recommended
from config.settings import RECORDED_LOAD_SETTINGS, LoadSettings
from config.sizes import parse_size
from model.checkpoint.card import Card
from model.checkpoint.named_lora import NamedLora, format_loras
from model.engine import Engine
from model.errors import PictureError, RequestError, ServerError
from model.events import Answer, Event, Notice, Picture, Statistics, ThinkText, Waiting
from model.remote.events import read_events
from model.remote.http import Connection, Refused, refusal
from model.requests import Request
from model.wire import WIRE_VERSION, Packed, pack, unpack_event

DELETE_SECONDS = 2.0
"""Time for telling a server that a request is cancelled. Closing the connection cancels it as well."""
FETCH_SECONDS = 10.0
"""Time in which a result is looked for after the connection was lost."""


class ServerEngine(Engine):
    """A model on our own server.

    Pictures have the same bytes as with the same model, settings and kind of device here. A prefix cache on the server
    serves all its clients: the last request's prefixes stay.
    """

    def __init__(self, connection: Connection, settings: LoadSettings, info: Mapping[str, Any]) -> None:
        """Use `model.remote.open_server`.

        Args:
            info: the answer to `/v1/sensenova/info`.
        """
        self._connection = connection
        self._card = card_of(settings, info, connection.address.url)
        self._description = f"{info['description']} at {connection.address.url}"
        self._uploaded: set[str] = set()
        self._known_loras = tuple(map(str, info.get("loras", ())))
        self._loras: tuple[NamedLora, ...] = ()

    def run(self, request: Request) -> Iterator[Event]:
        """See `Engine.run`. Yields `Waiting` while nothing arrives."""
        packed = pack(request)
        names = [self._upload(file) for file in packed.pictures]
        body = {**packed.content, "pictures": [{"sha256": name} for name in names]}
        if self._loras:
            body["lora"] = {"name": self._loras[0].name, "scale": self._loras[0].strength}
        while True:
            try:
                yield from self._run_once(body)
                return
            except Refused as refused:
                if refused.code == "picture_unknown":  # the server was started again, or needed the memory
                    self._uploaded.clear()
                    for file in packed.pictures:
                        self._upload(file)
                elif refused.retry_after is not None and refused.code in ("queue_full", "loading"):
                    yield Notice(f"{refused.what}; waiting")
                    yield from _wait(refused.retry_after)
                else:
                    raise

    @property
    def card(self) -> Card:
        """See `Engine.card`."""
        return self._card

    @property
    def description(self) -> str:
        """See `Engine.description`."""
        return self._description

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        """See `Engine.loras`."""
        return self._loras

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """Choose one of the LoRAs that the server offers, by name, for the following requests.

        Raises:
            RequestError: the server does not offer it, or several are given.
        """
        known = ", ".join(self._known_loras) or "none"
        if len(loras) > 1:
            raise RequestError("a server merges one LoRA for a request", f"choose one of: {known}")
        for lora in loras:
            if lora.name not in self._known_loras:
                raise RequestError(f"the server has no LoRA {lora.name}", f"its LoRAs: {known}")
        self._loras = tuple(loras)
        loaded = self._card.loaded
        if loaded is not None:
            self._card = replace(self._card, loaded=loaded.model_copy(update={"lora": format_loras(loras)}))

    def close(self) -> None:
        """Close the connections to the server, which keeps the model."""
        self._connection.close()

    def _upload(self, file: bytes) -> str:
        """Upload a picture unless the server has it, and return its checksum."""
        name = hashlib.sha256(file).hexdigest()
        if name not in self._uploaded:
            try:
                self._connection.put(f"/v1/sensenova/pictures/{name}", file)
            except Refused as refused:
                raise PictureError(f"the server refuses a picture: {refused.what}", refused.hint) from None
            self._uploaded.add(name)
        return name

    def _run_once(self, body: dict[str, Any]) -> Iterator[Event]:
        identifier = ""
        position = pictures = 0
        ended = False
        with closing(self._connection.post_in_background("/v1/sensenova/run", body)) as answer:
            try:
                for content in read_events(answer.parts()):
                    if content is None:
                        yield Waiting(position)
                        continue
                    kind = content.get("event")
                    if kind == "queued":
                        identifier, position = str(content.get("id")), int(content.get("position", 0))
                        yield Waiting(position)
                    elif kind == "error":
                        ended = True
                        raise _failure(self._connection.address.url, content)
                    else:
                        event = _unpack(content)
                        pictures += isinstance(event, Picture)
                        ended = isinstance(event, Statistics)
                        yield event
                if not ended:
                    raise ServerError("the answer ended too early", "run it again")
            except ServerError as error:
                if ended or not identifier:
                    raise
                yield from self._fetch_rest(identifier, pictures, error)
                ended = True
            finally:
                if not ended and identifier:
                    self._connection.delete(f"/v1/sensenova/requests/{identifier}", DELETE_SECONDS)

    def _fetch_rest(self, identifier: str, pictures: int, error: ServerError) -> Iterator[Event]:
        """After a lost connection, yield the results that the server had finished by then.

        Raises:
            ServerError: the server is gone, or had not finished.
        """
        end = time.monotonic() + FETCH_SECONDS
        while True:
            try:
                state = self._connection.get(f"/v1/sensenova/requests/{identifier}")
            except (ServerError, RequestError):
                raise error from None
            if state.get("status") not in ("queued", "running"):
                break
            if time.monotonic() > end:
                raise error
            yield from _wait(0.5)
        if state.get("status") != "done":
            raise error
        for content in state["events"]:
            event = _unpack(content)
            if isinstance(event, Picture | Answer | Statistics | ThinkText):
                if isinstance(event, Picture) and event.index < pictures:
                    continue
                yield event


def card_of(settings: LoadSettings, info: Mapping[str, Any], url: str) -> Card:
    """Return the card of a server's model.

    Raises:
        RequestError: the server has another model than the settings ask for.
        ServerError: the server speaks another version of the protocol, or its answer is not complete.
    """
    version = info.get("version")
    if version != WIRE_VERSION:
        newer = isinstance(version, int) and version > WIRE_VERSION
        raise ServerError(
            f"the server at {url} speaks version {version} of the protocol, and this program version {WIRE_VERSION}",
            "update this program" if newer else "update the server",
        )
    try:
        name = str(info["model"])
        sizes = tuple(size for text in info["trained_sizes"] if (size := parse_size(text)) is not None)
        loaded = {key: value for key, value in info["loaded"].items() if key in RECORDED_LOAD_SETTINGS}
        server = LoadSettings.model_validate(loaded).model_copy(
            update={"server": settings.server, "server_key_file": settings.server_key_file}
        )
        card = Card(name, Recommended(trained_sizes=sizes, settings=dict(info["settings"])), server)
    except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
        raise ServerError(f"the server at {url} does not describe its model: {error!r}", "update the server") from None
    if settings.model is not None and settings.model not in (name, server.model):
        raise RequestError(f"the server at {url} has the model {name}, not {settings.model}", "leave `model` out")
    return card


def _unpack(content: dict[str, Any]) -> Event:
    pictures = content.pop("pictures", [])
    try:
        return unpack_event(Packed(content, tuple(base64.b64decode(each, validate=True) for each in pictures)))
    except (binascii.Error, TypeError) as error:
        raise ServerError(f"the server sent a damaged picture: {error}", "run it again") from None


def _failure(url: str, content: Mapping[str, Any]) -> Exception:
    error = content.get("error")
    status = error.get("status", 500) if isinstance(error, dict) else 500
    return refusal(url, int(status), "5" if status == 503 else None, json.dumps({"error": error}).encode())


def _wait(seconds: float) -> Iterator[Event]:
    """Wait, and yield often enough that the user can stop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)
        yield Waiting(0)
