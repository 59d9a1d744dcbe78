"""The engine of our own server: `sensenova serve`. It yields every event as a local engine does."""

import base64
import hashlib
import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from config.errors import SenseNovaError, SettingsError
from config.recommended import InterleaveRecommended, Recommended
from config.settings import RECORDED_LOAD_SETTINGS, ImageSettings, LoadSettings
from config.sizes import parse_size
from config.world import World
from model.checkpoint.card import Card
from model.checkpoint.named_lora import NO_LORA, NamedLora, format_loras
from model.engine import Engine
from model.errors import PictureError, RequestError, ServerError, WireError
from model.events import (
    Answer,
    Event,
    InterleavedAnswer,
    Notice,
    Picture,
    PicturePart,
    PrefixRead,
    Statistics,
    ThinkText,
    Waiting,
)
from model.image_files import open_picture
from model.remote.events import ERROR, read_events
from model.remote.failures import (
    DamagedAnswerError,
    LostConnectionError,
    Refused,
    Unavailable,
    UnreachableError,
    refusal,
)
from model.remote.http import FETCH_SECONDS, MAX_ANSWER, Connection
from model.remote.http import Answer as HTTPAnswer
from model.requests import EditRequest, GenerateRequest, Request
from model.wire import WIRE_VERSION, Packed, pack, unpack_event

RUN = "/v1/sensenova/run"
INFO = "/v1/sensenova/info"
SILENCE_SECONDS = 60.0
"""Time without a byte after which a connection is lost. The server sends something every 15 s."""
DELETE_SECONDS = 2.0
"""Time for the request DELETE, which cancels another one. Closing the connection cancels it as well."""
FETCH_TRIES = 4
"""Attempts to fetch a result after the connection was lost."""
PAUSE_SECONDS = 0.5
"""Time between two of these attempts, and between two checks whether the request has ended."""
BUSY = ("queue_full", "loading")
"""Reasons of a server that pass by themselves, so that the request is sent again."""
RESULTS = (Notice, PrefixRead, ThinkText, Picture, Answer, InterleavedAnswer, Statistics)
"""Events that the server keeps for clients that lost their connection."""

Result = TypeVar("Result")


@dataclass
class _Received:
    """The part of the answer to a request that has arrived.

    Attributes:
        id: the server's name of the request; empty before the first event.
        position: its place in the queue.
        results: number of the events that the server keeps.
        pictures: number of the pictures among them.
        is_answered: whether the whole answer has arrived.
        is_complete: whether all events have arrived.
    """

    request: Request
    id: str = ""
    position: int = 0
    results: int = 0
    pictures: int = 0
    is_answered: bool = False
    is_complete: bool = False

    def take(self, event: Event) -> None:
        """Count an event.

        Raises:
            DamagedAnswerError: an event before it is missing.
        """
        self.results += isinstance(event, RESULTS)
        if isinstance(event, Picture):
            self._require_expected(event)
            self.pictures += 1
        self.is_answered |= isinstance(event, Answer)
        if isinstance(event, InterleavedAnswer):
            self.is_answered = self.pictures == sum(isinstance(part, PicturePart) for part in event.parts)
        if isinstance(event, Statistics):
            if not self._has_result:
                raise DamagedAnswerError("a result is missing in the server's answer", "run it again")
            self.is_complete = True

    @property
    def _has_result(self) -> bool:
        if isinstance(self.request, GenerateRequest | EditRequest):
            return self.pictures == self.request.settings.num_images
        return self.is_answered

    def _require_expected(self, picture: Picture) -> None:
        """Raise DamagedAnswerError unless this is the next picture, made with the settings of the request."""
        made, asked = picture.settings, self.request.settings
        if isinstance(asked, ImageSettings) and picture.index == self.pictures:
            changes = {"size": made.size, "seed": asked.seed + picture.index, "num_images": 1}
            if made == asked.model_copy(update=changes) and parse_size(made.size) == picture.image.size:
                return
        raise DamagedAnswerError("the server sent another picture than the next one", "run it again")


class ServerEngine(Engine):
    """A model on our own server.

    Pictures have the same bytes as with the same model, settings and kind of device here. The server has one prefix
    cache for all clients, which holds the prefixes of the last request.
    """

    def __init__(self, connection: Connection, settings: LoadSettings, info: Mapping[str, Any]) -> None:
        """Use `model.remote.open_server`.

        Args:
            info: the answer to `/v1/sensenova/info`.

        Raises:
            RequestError, ServerError: as for `card_of`.
        """
        self._connection = connection
        self._card = card_of(settings, info, connection.address.url)
        self._description = f"{info.get('description')} at {connection.address.url}"
        self._served = _served(info)
        self._uploaded: set[str] = set()
        self._queue_limit = _queue_limit(info)
        self._known_loras = tuple(map(str, info.get("loras") or ()))
        self._loras: tuple[NamedLora, ...] | None = None
        self._is_lost = self._has_run = False

    def run(self, request: Request) -> Iterator[Event]:
        """See `Engine.run`. Yields `Waiting` while nothing arrives."""
        packed = pack(request)
        try:
            while True:
                try:
                    if self._has_run:
                        yield from self._require_same_model()
                    self._has_run = True
                    yield from self._run_with_uploads(request, packed)
                    return
                except Unavailable as busy:
                    if busy.code not in BUSY:
                        raise
                    reason = "is loading its model" if busy.code == "loading" else "has a full queue"
                    yield Notice(f"the server {reason}; trying again every {busy.retry_after:g} s")
                    yield from _wait(busy.retry_after, self._queue_limit + 1 if busy.code == "queue_full" else 0)
        except (UnreachableError, LostConnectionError):
            self._is_lost = True
            raise

    @property
    def is_lost(self) -> bool:
        """Whether the connection was lost. The server may have another model when it is back."""
        return self._is_lost

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
        return self._loras or ()

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """Choose one of the LoRAs that the server offers, by name, or none, for the following requests.

        Raises:
            RequestError: the server does not offer it, or several are given.
        """
        known = ", ".join(self._known_loras) or "none"
        if len(loras) > 1:
            raise RequestError("a server merges only one LoRA for a request", f"choose one of: {known}")
        for lora in loras:
            if lora.name not in self._known_loras:
                raise RequestError(
                    f"the server at {self._connection.address.url} has no LoRA {lora.name}", f"its LoRAs: {known}"
                )
        self._loras = tuple(loras)
        loaded = self._card.loaded
        if loaded is not None:
            self._card = replace(self._card, loaded=loaded.model_copy(update={"lora": format_loras(loras)}))

    def close(self) -> None:
        """Close the connections to the server, which keeps the model."""
        self._connection.close()

    def _require_same_model(self) -> Iterator[Event]:
        """Raise ServerError if the server was started again with another model since the card was read.

        The requests' settings and the pictures' records are those of the card.
        """
        info = yield from _waiting(self._connection.ask_json(INFO), 0)
        if not isinstance(info, dict) or _served(info) != self._served:
            self._is_lost = True
            raise ServerError(
                f"the server at {self._connection.address.url} has loaded another model meanwhile", "run it again"
            )

    def _run_with_uploads(self, request: Request, packed: Packed) -> Iterator[Event]:
        """Run a request whose pictures are uploaded first. If the server has no room for them, send them with it."""
        for _ in range(2):
            names = []
            for file in packed.pictures:
                names.append((yield from self._upload(file)))
            try:
                yield from self._run_once(request, packed, [{"sha256": name} for name in names])
                return
            except Refused as refused:
                if refused.code != "picture_unknown":
                    raise
                self._uploaded.clear()  # the server was started again, or needed the memory
        yield from self._run_once(request, packed, [base64.b64encode(file).decode() for file in packed.pictures])

    def _upload(self, file: bytes) -> Generator[Event, None, str]:
        """Upload a picture unless the server has it, and return its checksum."""
        name = hashlib.sha256(file).hexdigest()
        if name not in self._uploaded:
            put = self._connection.ask("PUT", f"/v1/sensenova/pictures/{name}", file, seconds=FETCH_SECONDS)
            try:
                yield from _waiting(put, 0)
            except Refused as refused:
                hint = refused.hint or "make it smaller first"
                raise PictureError(f"the server refuses a picture: {refused.what}", hint) from None
            self._uploaded.add(name)
        return name

    def _run_once(self, request: Request, packed: Packed, pictures: Sequence[Any]) -> Iterator[Event]:
        body = {**packed.content, "pictures": pictures}
        if self._loras is not None:
            lora = self._loras[0] if self._loras else None
            body["lora"] = {"name": lora.name, "scale": lora.strength} if lora else NO_LORA
        received = _Received(request)
        has_ended = False
        with closing(self._connection.post_in_background(RUN, body, SILENCE_SECONDS)) as answer:
            try:
                yield from self._read_answer(answer.parts(), received)
                has_ended = True
            except (LostConnectionError, DamagedAnswerError, UnreachableError) as error:
                received.id = received.id or answer.header("x-request-id")
                if not received.id:
                    raise
                if not received.is_complete:
                    yield from _drain(answer, received.position)
                    yield Notice("the connection was lost; fetching the finished results from the server")
                    yield from self._fetch_rest(received, error)
                has_ended = True
            except SenseNovaError:
                has_ended = True
                raise
            finally:
                if not has_ended and received.id:
                    self._connection.delete(_path(received), DELETE_SECONDS)

    def _read_answer(self, parts: Iterator[bytes | None], received: _Received) -> Iterator[Event]:
        for content in read_events(parts):
            if content is None:
                yield Waiting(received.position)
                continue
            kind = content["event"]
            if kind == "queued":
                received.id, received.position = _identifier(content), _position(content)
                yield Waiting(received.position)
            elif kind == ERROR:
                raise _failure(self._connection.address.url, content)
            else:
                yield _taken(content, received)
        if not received.is_complete:
            raise LostConnectionError("the server's answer ended too early", "run it again")

    def _fetch_rest(self, received: _Received, error: ServerError) -> Iterator[Event]:
        """After a lost connection, yield the results that the server had finished by then.

        Raises:
            ServerError: `error`, if the server is gone or stopped the request.
            SenseNovaError: the failure of the request.
        """
        tries = 0
        while True:
            try:
                state = yield from _waiting(
                    self._connection.ask_json(_path(received), seconds=FETCH_SECONDS, most=MAX_ANSWER), 0
                )
            except (LostConnectionError, DamagedAnswerError, UnreachableError):
                tries += 1
            except (Refused, Unavailable):  # the server was started again, and knows nothing of the request
                raise error from None
            else:
                try:
                    if _is_over(state):
                        yield from self._rest_of(state["events"], received)
                        break
                except DamagedAnswerError:
                    tries += 1
            if tries == FETCH_TRIES:
                raise error
            yield from _wait(PAUSE_SECONDS)
        if not received.is_complete:
            raise error

    def _rest_of(self, results: Sequence[Any], received: _Received) -> Iterator[Event]:
        """Yield the results that have not arrived yet; raise the failure of the request if there is one."""
        for content in results[received.results :]:
            if isinstance(content, dict) and content.get("event") == ERROR:
                raise _failure(self._connection.address.url, content)
            yield _taken(content, received)


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
        loaded = {key: value for key, value in info["loaded"].items() if key in RECORDED_LOAD_SETTINGS}
        server = LoadSettings.model_validate(loaded).model_copy(
            update={"server": settings.server, "server_key_file": settings.server_key_file}
        )
        card = Card(name, _recommended(info), server)
    except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
        raise ServerError(f"the server at {url} does not describe its model: {error!r}", "update the server") from None
    if settings.model is not None and settings.model not in (name, server.model):
        raise RequestError(f"the server at {url} has the model {name}, not {settings.model}", "leave `model` out")
    return card


def _recommended(info: Mapping[str, Any]) -> Recommended:
    """Read the recommendations of a server's model. An older server has neither `interleave` nor `world`."""

    def fields(section: Mapping[str, Any]) -> dict[str, Any]:
        sizes = tuple(size for text in section["trained_sizes"] if (size := parse_size(text)) is not None)
        return {"trained_sizes": sizes, "settings": dict(section["settings"])}

    interleave = info.get("interleave")
    own = InterleaveRecommended() if interleave is None else InterleaveRecommended(**fields(interleave))
    world = info.get("world")
    known = World.model_validate(world) if world is not None else None
    return Recommended(**fields(info), interleave=own, world=known)


def _served(info: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the facts that must not change while an engine is open: version, model and load settings."""
    return info.get("version"), info.get("model"), info.get("loaded")


def _queue_limit(info: Mapping[str, Any]) -> int:
    queue = info.get("queue")
    limit = queue.get("limit") if isinstance(queue, dict) else None
    return limit if isinstance(limit, int) else 0


def _taken(content: Any, received: _Received) -> Event:
    """Return an event that arrived, and count it.

    Raises:
        DamagedAnswerError: it cannot be read, or one before it is missing.
    """
    if not isinstance(content, dict):
        raise DamagedAnswerError("the server sent an event that is not a JSON object", "run it again")
    fields = {name: value for name, value in content.items() if name != "pictures"}
    try:
        files = tuple(base64.b64decode(each, validate=True) for each in content.get("pictures", ()))
        for file in files:
            with open_picture(file, "a picture") as image:
                image.verify()  # compares the checksums in the file, which reading alone does not
        event = unpack_event(Packed(fields, files))
    except (WireError, PictureError, ValueError, TypeError) as error:
        raise DamagedAnswerError(f"the server sent an event that is damaged: {error}", "run it again") from None
    received.take(event)
    return event


def _failure(url: str, content: Mapping[str, Any]) -> SenseNovaError:
    error = content.get("error")
    status = error.get("status") if isinstance(error, dict) else None
    return refusal(url, status if isinstance(status, int) else 500, None, json.dumps({"error": error}).encode())


def _identifier(content: Mapping[str, Any]) -> str:
    identifier = content.get("id")
    if not isinstance(identifier, str) or not identifier.replace("-", "").isalnum():
        raise DamagedAnswerError("the server sent a request without a name", "run it again")
    return identifier


def _position(content: Mapping[str, Any]) -> int:
    position = content.get("position")
    return position if isinstance(position, int) else 0


def _path(received: _Received) -> str:
    return f"/v1/sensenova/requests/{received.id}"


def _is_over(state: Any) -> bool:
    """Return whether a request has ended, so that no more results will follow.

    Raises:
        DamagedAnswerError: this is not the state of a request.
    """
    if not isinstance(state, dict) or not isinstance(state.get("events"), list) or "status" not in state:
        raise DamagedAnswerError("the server sent a result that is damaged", "run it again")
    return state["status"] not in ("queued", "running")


def _waiting(asked: Generator[None, None, Result], position: int) -> Generator[Event, None, Result]:
    """Yield `Waiting` while an answer is awaited, and return it."""
    while True:
        try:
            next(asked)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield Waiting(position)


def _drain(answer: HTTPAnswer, position: int) -> Iterator[Event]:
    """Read the rest of a damaged answer: the server would stop the request if its client went away."""
    length = 0
    with suppress(SenseNovaError):
        for part in answer.parts():
            length += len(part or b"")
            if length > MAX_ANSWER:
                return
            yield Waiting(position)


def _wait(seconds: float, position: int = 0) -> Iterator[Event]:
    """Wait, and yield ten times a second, so that the user can stop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)
        yield Waiting(position)
