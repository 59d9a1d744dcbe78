"""Wire form of requests and events: JSON, with images as PNG files beside it.

`pack` writes a value, `unpack_request` and `unpack_event` read it. The value of an image field is `{"png": 0}`, the
index of a PNG file. The files are RGB without metadata: `pack` converts other images as an engine does
(`model.image_files.as_rgb`), so a request has the same result on both sides.
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from config.later_settings import without_later_defaults
from model.errors import WireError
from model.events import (
    Answer,
    DenoisingStep,
    Event,
    InterleavedAnswer,
    Notice,
    Picture,
    PrefixRead,
    Statistics,
    TextToken,
    ThinkText,
    ThinkToken,
    Waiting,
)
from model.png import PNGFiles
from model.requests import AnswerRequest, EditRequest, GenerateRequest, InterleaveRequest, Request

WIRE_VERSION = 1
"""Version of the wire form. It increases if older readers would misunderstand a value; new fields do not count."""

REQUESTS: dict[str, type[Request]] = {
    "generate": GenerateRequest,
    "edit": EditRequest,
    "answer": AnswerRequest,
    "interleave": InterleaveRequest,
}
"""Request classes by tag, the value of the field `request`."""

EVENTS: dict[str, type[Event]] = {
    "notice": Notice,
    "waiting": Waiting,
    "prefix": PrefixRead,
    "think_token": ThinkToken,
    "think": ThinkText,
    "step": DenoisingStep,
    "picture": Picture,
    "token": TextToken,
    "answer": Answer,
    "interleaved": InterleavedAnswer,
    "statistics": Statistics,
}
"""Event classes by tag, the value of the field `event`."""

_KINDS: dict[str, dict[str, Any]] = {"request": REQUESTS, "event": EVENTS}
_TAGS: dict[type, tuple[str, str]] = {
    kind: (field, tag) for field, kinds in _KINDS.items() for tag, kind in kinds.items()
}
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
"""Pydantic's error types for a field that a dataclass or a settings group does not have."""


@dataclass(frozen=True)
class Packed:
    """A request or an event, ready to be sent.

    Attributes:
        content: a JSON object with the tag (`request` or `event`), `version` and the fields.
        pictures: PNG files, which `content` refers to by index.
    """

    content: dict[str, JsonValue]
    pictures: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class UnpackedRequest:
    """A request that has been read.

    Attributes:
        ignored: names of fields that this version does not know, such as `settings.colour`.
    """

    request: Request
    ignored: tuple[str, ...]


def pack(value: Request | Event) -> Packed:
    """Write a request or an event.

    Raises:
        PictureError: an image cannot be converted to RGB; see `model.image_files.as_rgb`.
    """
    field, tag = _TAGS[type(value)]
    pictures = PNGFiles()
    fields = _adapter(field, tag).dump_python(value, mode="json", context=pictures)
    if isinstance(fields.get("settings"), dict):
        # Servers of earlier versions would report that they ignore these settings.
        fields["settings"] = without_later_defaults(fields["settings"])
    return Packed({field: tag, "version": WIRE_VERSION, **fields}, tuple(pictures.files))


def unpack_request(packed: Packed) -> UnpackedRequest:
    """Read a request. Fields that this version does not know are ignored; the result names them.

    Raises:
        WireError: the content is not a request, a newer version wrote it, a field is missing or has a wrong type or
            value, or a picture cannot be read.
        RequestError, SettingsError: the request is complete but not valid; see `model.requests`.
    """
    tag, text = _open(packed, "request")
    adapter, pictures = _adapter("request", tag), PNGFiles(packed.pictures)
    ignored: tuple[str, ...] = ()
    try:
        return UnpackedRequest(_read(adapter, text, pictures, "forbid"), ignored)
    except ValidationError as error:
        ignored = tuple(_name(each) for each in error.errors() if each["type"] in _UNKNOWN)
    try:
        return UnpackedRequest(_read(adapter, text, pictures, "ignore"), ignored)
    except ValidationError as error:
        raise _unreadable(error, f"{tag} request") from None


def unpack_event(packed: Packed) -> Event:
    """Read an event. Fields that this version does not know are ignored.

    Raises:
        WireError: as for `unpack_request`.
    """
    tag, text = _open(packed, "event")
    try:
        return _read(_adapter("event", tag), text, PNGFiles(packed.pictures), "ignore")
    except ValidationError as error:
        raise _unreadable(error, f"{tag} event") from None


@cache
def _adapter(field: str, tag: str) -> TypeAdapter[Any]:
    """Return the reader and writer of a class. It is built on first use, so that importing this module is fast."""
    return TypeAdapter(_KINDS[field][tag])


def _open(packed: Packed, field: Literal["request", "event"]) -> tuple[str, str]:
    """Check tag and version, and return the tag and the fields as JSON text. Pydantic's strict mode accepts a list for
    a tuple in text only."""
    if not isinstance(packed.content, dict):
        raise WireError(f"this {field} is not a JSON object", 'write it like {"version": 1, …}')
    fields = dict(packed.content)
    version, tag = fields.pop("version", None), fields.pop(field, None)
    if type(version) is not int or version < 1:
        raise WireError(f"this {field} has no version", f'add "version": {WIRE_VERSION}')
    if version > WIRE_VERSION:
        raise WireError(
            f"this {field} has version {version}, and this program knows version {WIRE_VERSION}",
            "a newer sensenova wrote it: install that version here, too",
        )
    if not isinstance(tag, str) or tag not in _KINDS[field]:
        known = ", ".join(_KINDS[field])
        raise WireError(f"there is no {field} {tag!r}" if tag else f"{field} is missing", f"it is one of {known}")
    try:
        return tag, json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"this {tag} {field} is not JSON: {error}") from None


def _read(adapter: TypeAdapter[Any], text: str, pictures: PNGFiles, extra: Literal["forbid", "ignore"]) -> Any:
    return adapter.validate_json(text, strict=True, extra=extra, context=pictures)


def _unreadable(error: ValidationError, what: str) -> WireError:
    return WireError(f"this {what} cannot be read: {'; '.join(map(_problem, error.errors(include_url=False)))}")


def _problem(problem: ErrorDetails) -> str:
    """Describe a problem, like `settings.num_steps: input should be a valid integer`."""
    name = _name(problem)
    if problem["type"] == "missing":
        return f"{name} is missing"
    if problem["type"] == "value_error":
        return f"{name}: {problem['ctx']['error']}"
    return f"{name}: {problem['msg'][:1].lower()}{problem['msg'][1:]}" if name else problem["msg"]


def _name(problem: ErrorDetails) -> str:
    """Return a field's name with dots."""
    return ".".join(map(str, problem["loc"]))
