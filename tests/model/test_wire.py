"""Wire form: requests and events are equal after writing and reading, and errors have clear messages."""

import dataclasses
import io
import json
import subprocess
import sys
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from PIL import Image
from pydantic import BaseModel

from config.errors import SettingsError
from config.settings import ImageSettings, TextSettings
from model import wire
from model.errors import RequestError, WireError
from model.events import (
    Answer,
    BranchCaching,
    CacheSummary,
    DenoisingStep,
    Event,
    InterleavedAnswer,
    Notice,
    Picture,
    PicturePart,
    PrefixRead,
    Statistics,
    TextPart,
    TextToken,
    ThinkText,
    ThinkToken,
    Waiting,
)
from model.requests import AnswerRequest, EditRequest, GenerateRequest, InterleaveRequest, Message, Request
from model.wire import Packed, pack, unpack_event, unpack_request

NOISE = Image.effect_noise((48, 32), 90).convert("RGB")
RED = Image.new("RGB", (32, 32), "red")
SETTINGS = ImageSettings(
    size="64x96", seed=2**63 - 1, cfg_interval=(0.1, 0.75), input_pixels=4096, cache_threshold=0.5, timestep_shift=1
)
CACHING = CacheSummary(
    (BranchCaching("condition", 3, 5, (0.1, 0.25)), BranchCaching("unconditional", 8, 0, ())), 60, 120, 3.5, 2.25
)
REQUESTS: list[Request] = [
    GenerateRequest("A cute cat"),
    GenerateRequest('线条 🐈 "quoted"\n', SETTINGS, preview_every=5, preview_size=256),
    EditRequest("put <image> on <image>", (NOISE, RED), SETTINGS, preview_every=1),
    AnswerRequest("What is this?"),
    AnswerRequest(
        "And this?",
        (RED, NOISE),
        (Message("user", "What is <image>?"), Message("assistant", "A square.")),
        "Be brief.",
        TextSettings(do_sample=True, top_p=0.9, seed=3),
    ),
    InterleaveRequest("A picture book"),
    InterleaveRequest(
        "And <image>?",
        (RED, NOISE),
        SETTINGS.model_copy(update={"seed": 3}),
        TextSettings(max_images=3),
        "",
        (Message("user", "A kite"), Message("assistant", "Here it flies.", (5,))),
        preview_every=2,
    ),
]
EVENTS: list[Event] = [
    Notice("reloaded"),
    PrefixRead("unconditional", 1034, 1024, 0.25, 12),
    ThinkToken(151643, ""),
    ThinkText("A cat.", (1, 2, 3), "length", 1.5),
    DenoisingStep(0, 2, 1, 50, 0.02),
    DenoisingStep(1, 2, 50, 50, 1.0, NOISE),
    Picture(0, 1, RED, SETTINGS, None),
    Picture(1, 2, NOISE, SETTINGS, "A cat.", CACHING),
    TextToken(5, " 猫"),
    Answer("A cat.", (1, 2), "end"),
    InterleavedAnswer(
        (TextPart("<think>a", (9, 1), True), PicturePart(0, 42, "64x32"), TextPart("b", (2,), False)), "images"
    ),
    Statistics(14, 4, 50, 0.5, 2.0, 3.0, 1_500_000_000, "cpu", 10**12, 10**18, "flash"),
    Waiting(2),
]


def sent(packed: Packed) -> Packed:
    """Return a value as its receiver gets it."""
    return Packed(json.loads(json.dumps(packed.content, allow_nan=False)), packed.pictures)


def changed(value: Request | Event, **fields: Any) -> Packed:
    packed = pack(value)
    return dataclasses.replace(packed, content={**packed.content, **fields})


def without(value: Request | Event, name: str) -> Packed:
    packed = pack(value)
    return dataclasses.replace(packed, content={key: each for key, each in packed.content.items() if key != name})


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: type(each).__name__)
def test_every_request_is_equal_after_reading(request_: Request) -> None:
    unpacked = unpack_request(sent(pack(request_)))
    assert unpacked.request == request_
    assert type(unpacked.request) is type(request_)
    assert unpacked.ignored == ()


@pytest.mark.parametrize("event", EVENTS, ids=lambda each: type(each).__name__)
def test_every_event_is_equal_after_reading(event: Event) -> None:
    unpacked = unpack_event(sent(pack(event)))
    assert unpacked == event
    assert type(unpacked) is type(event)


def test_every_kind_has_a_wire_form() -> None:
    assert set(wire.REQUESTS.values()) == set(get_args(Request)) == {type(each) for each in REQUESTS}
    assert set(wire.EVENTS.values()) == set(get_args(Event)) == {type(each) for each in EVENTS}


def test_the_form() -> None:
    """Other programs read it, too: a change here needs a new version."""
    packed = pack(EVENTS[5])
    assert packed.content == {
        "event": "step",
        "version": 1,
        "index": 1,
        "count": 2,
        "step": 50,
        "steps": 50,
        "time": 1.0,
        "preview": {"png": 0},
    }
    with Image.open(io.BytesIO(packed.pictures[0])) as image:
        assert image.format == "PNG" and image.convert("RGB").tobytes() == NOISE.tobytes()
    edit = pack(REQUESTS[2])
    assert (edit.content["request"], edit.content["images"]) == ("edit", [{"png": 0}, {"png": 1}])
    assert len(edit.pictures) == 2
    assert list(wire.EVENTS) == [
        "notice",
        "waiting",
        "prefix",
        "think_token",
        "think",
        "step",
        "picture",
        "token",
        "answer",
        "interleaved",
        "statistics",
    ]


def test_events_contain_only_plain_data() -> None:
    """Events have no tensors and no functions."""

    def require_data(kind: Any) -> None:
        if kind in (str, int, float, bool, NoneType, Image.Image):
            return
        if get_origin(kind) in (Union, UnionType, tuple):
            for each in get_args(kind):
                if each is not ...:
                    require_data(each)
        elif isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel)):
            hints = get_type_hints(kind).values()
            for each in (each for each in hints if get_origin(each) is not ClassVar):
                if get_origin(each) is not None or isinstance(each, type):
                    require_data(each)
        else:
            assert get_origin(kind) is Literal, kind

    for kind in get_args(Event):
        require_data(kind)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "I;16"])
def test_pictures_of_other_modes_are_converted_to_rgb(mode: str) -> None:
    image = Image.new(mode, (32, 32), {"RGBA": (9, 9, 9, 0), "LA": (9, 0), "L": 255, "P": 0, "I;16": 65535}[mode])
    if mode == "P":
        image.putpalette([255, 255, 255])
    image.info["icc_profile"] = b"a profile"
    unpacked = unpack_request(sent(pack(EditRequest("red", (image,))))).request
    assert isinstance(unpacked, EditRequest)
    assert unpacked.images == (Image.new("RGB", (32, 32), "white"),)


def test_a_file_with_two_references_is_decoded_once() -> None:
    packed = changed(EditRequest("red", (RED,)), images=[{"png": 0}, {"png": 0}])
    request = unpack_request(packed).request
    assert isinstance(request, EditRequest)
    assert request.images[0] is request.images[1]


def test_unknown_fields_of_a_request_are_ignored_and_named() -> None:
    packed = changed(REQUESTS[4], mood="gay", history=[{"role": "user", "text": "hello", "time": 12}])
    packed.content["settings"] = {"seed": 7, "colour": "red"}
    unpacked = unpack_request(sent(packed))
    assert sorted(unpacked.ignored) == ["history.0.time", "mood", "settings.colour"]
    expected = dataclasses.replace(REQUESTS[4], history=(Message("user", "hello"),), settings=TextSettings(seed=7))
    assert unpacked.request == expected


def test_unknown_fields_of_an_event_are_ignored() -> None:
    packed = changed(EVENTS[7], mood="gay")
    packed.content["settings"]["colour"] = "red"  # type: ignore[index, call-overload]
    packed.content["caching"]["branches"][0]["depth"] = 3  # type: ignore[index, call-overload]
    assert unpack_event(sent(packed)) == EVENTS[7]


def test_fields_with_a_default_may_be_missing() -> None:
    request = unpack_request(Packed({"version": 1, "request": "generate", "prompt": "a cat"})).request
    assert request == GenerateRequest("a cat")


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (Packed([]), "this request is not a JSON object"),  # type: ignore[arg-type]
        (Packed({}), "this request has no version"),
        (changed(REQUESTS[0], version="1"), "this request has no version"),
        (changed(REQUESTS[0], version=True), "this request has no version"),
        (changed(REQUESTS[0], version=0), "this request has no version"),
        (changed(REQUESTS[0], version=2), "this request has version 2, and this program knows version 1"),
        (without(REQUESTS[0], "request"), "request is missing"),
        (changed(REQUESTS[0], request="dream"), "there is no request 'dream'"),
        (changed(REQUESTS[0], request=["generate"]), "there is no request"),
        (pack(EVENTS[0]), "request is missing"),
        (without(REQUESTS[0], "prompt"), "generate request cannot be read: prompt is missing"),
        (without(REQUESTS[2], "images"), "edit request cannot be read: images is missing"),
        (changed(REQUESTS[4], history=[{"role": "user"}]), "history.0.text is missing"),
        (changed(REQUESTS[4], history=[{"role": "cook", "text": ""}]), "history.0.role: input should be 'user' or"),
        (changed(REQUESTS[0], prompt=7), "prompt: input should be a valid string"),
        (changed(REQUESTS[0], preview_every="5"), "preview_every: input should be a valid integer"),
        (changed(REQUESTS[0], preview_every=True), "preview_every: input should be a valid integer"),
        (changed(REQUESTS[0], preview_every=1.5), "preview_every: input should be a valid integer"),
        (changed(REQUESTS[0], settings=None), "settings: input should be an object"),
        (changed(REQUESTS[0], settings={"num_steps": 0}), "settings.num_steps: input should be greater than or equal"),
        (changed(REQUESTS[0], settings={"num_steps": "5", "mood": 1}), "settings.num_steps: input should be a valid"),
        (changed(REQUESTS[0], settings={"cfg_interval": [0.5, 0.1]}), "settings.cfg_interval: the low end 0.5 is"),
        (changed(REQUESTS[0], settings={"cfg_scale": float("nan")}), "is not JSON"),
        (changed(REQUESTS[0], settings={"cfg_scale": b"1"}), "is not JSON"),
        (changed(REQUESTS[2], images=[{"png": 2}]), "images.0: there is no picture 2: the number of pictures is 2"),
        (changed(REQUESTS[2], images=[{"png": -1}]), "images.0: there is no picture -1"),
        (changed(REQUESTS[2], images=[{"png": "0"}]), "images.0: must name a picture like"),
        (changed(REQUESTS[2], images=["0"]), "images.0: must name a picture like"),
        (changed(REQUESTS[2], images={"png": 0}), "images: input should be a valid"),
    ],
)
def test_requests_that_cannot_be_read(packed: Packed, message: str) -> None:
    with pytest.raises(WireError) as raised:
        unpack_request(packed)
    assert message in raised.value.what


def test_several_problems_are_all_named() -> None:
    with pytest.raises(WireError, match=r"prompt is missing; settings\.seed: input"):
        unpack_request(Packed({"version": 1, "request": "generate", "settings": {"seed": -1}}))


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (without(EVENTS[5], "time"), "step event cannot be read: time is missing"),
        (changed(EVENTS[5], event="dream"), "there is no event 'dream'"),
        (changed(EVENTS[5], version=7), "this event has version 7"),
        (changed(EVENTS[5], time="late"), "time: input should be a valid number"),
        (pack(REQUESTS[0]), "event is missing"),
    ],
)
def test_events_that_cannot_be_read(packed: Packed, message: str) -> None:
    with pytest.raises(WireError) as raised:
        unpack_event(packed)
    assert message in raised.value.what


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "images.0: picture 0 is not a PNG file"),
        (encoded(RED, "JPEG"), "images.0: picture 0 is not a PNG file"),
        (encoded(NOISE, "PNG")[:200], "images.0: picture 0 is a damaged or incomplete picture"),
        (encoded(Image.new("RGB", (3000, 2)), "PNG"), "images.0: picture 0 is 3000x2 pixels"),
        (encoded(Image.new("1", (14_000, 14_000)), "PNG"), "images.0: picture 0 has more than 178,956,970 pixels"),
    ],
)
def test_pictures_that_cannot_be_read(file: bytes, message: str) -> None:
    packed = dataclasses.replace(pack(EditRequest("red", (RED,))), pictures=(file,))
    with pytest.raises(WireError) as raised:
        unpack_request(packed)
    assert message in raised.value.what


def test_a_complete_but_invalid_request_raises_its_own_error() -> None:
    with pytest.raises(RequestError, match="the prompt is empty") as raised:
        unpack_request(changed(REQUESTS[0], prompt=" "))
    assert not isinstance(raised.value, WireError)
    with pytest.raises(RequestError, match="preview_every is -1"):
        unpack_request(changed(REQUESTS[0], preview_every=-1))
    with pytest.raises(SettingsError, match="size '1x' is not understood"):
        unpack_request(changed(REQUESTS[0], settings={"size": "1x"}))


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from model import wire, trace; from model.events import Notice; "
        "wire.unpack_event(wire.pack(Notice('x'))); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
