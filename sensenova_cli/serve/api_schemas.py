"""Bodies and answers of all operations, for the description of the API. Settings derive from their declarations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from config.settings import ImageSettings, PictureFormat, SettingsGroup, TextSettings
from model import WIRE_VERSION
from sensenova_cli.serve.forms import PICTURE_NAMES
from sensenova_cli.serve.images import MAX_PARTIAL_IMAGES
from sensenova_cli.serve.pictures import MAX_FILES
from sensenova_cli.serve.sd_fields import MAX_COUNT
from sensenova_cli.serve.service import MAX_TEXT

Schema = dict[str, Any]

JSON, FORM, EVENTS = "application/json", "multipart/form-data", "text/event-stream"
PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif")

ERRORS = {
    400: "A field is wrong, or asks for something impossible.",
    401: "The key is missing or wrong.",
    403: "The host name, or the web page that sent the request, is not allowed.",
    404: "There is nothing of this name.",
    408: "The body did not arrive in time.",
    409: "The request was stopped.",
    413: "The body or a picture is too large.",
    415: "The content type is wrong.",
    500: "The request failed, for example because memory was too small.",
    503: "The queue is full, the model is loading, or the server is stopping. Retry-After says when to retry.",
}
"""Statuses of errors → meaning."""
READS_JSON = (400, 408, 413, 415)
RUNS = (*READS_JSON, 404, 409, 500, 503)
"""Statuses of operations that put a request into the queue."""


@dataclass(frozen=True)
class Operation:
    """Body and answers of an operation.

    Attributes:
        answers: status → media type → schema.
        body: media type → schema of the request's body.
        query: name of a parameter → schema.
        errors: statuses of errors, besides 401 and 403, which every operation may have.
    """

    answers: Mapping[int, Mapping[str, Schema]]
    body: Mapping[str, Schema] = field(default_factory=dict)
    query: Mapping[str, Schema] = field(default_factory=dict)
    errors: tuple[int, ...] = ()


def ref(name: str) -> Schema:
    """Return a reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def text(description: str = "", **limits: Any) -> Schema:
    """Return the schema of a text."""
    return {"type": "string", **({"description": description} if description else {}), **limits}


def one_of(*values: str) -> Schema:
    """Return the schema of a text with given values."""
    return {"type": "string", "enum": list(values)}


def whole(least: int, most: int | None = None, description: str = "") -> Schema:
    """Return the schema of a whole number."""
    limits = {"minimum": least, **({"maximum": most} if most is not None else {})}
    return {"type": "integer", **limits, **({"description": description} if description else {})}


def list_of(items: Schema, **limits: Any) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items, **limits}


def record(properties: Mapping[str, Schema], required: tuple[str, ...] | None = None) -> Schema:
    """Return the schema of an object. All of its properties are required, unless `required` names them."""
    names = tuple(properties) if required is None else required
    return {"type": "object", "properties": dict(properties), **({"required": list(names)} if names else {})}


def settings(group: type[SettingsGroup]) -> dict[str, Schema]:
    """Return the properties of a group of settings, without the defaults, which depend on the model."""
    return {
        name: {key: value for key, value in schema.items() if key not in ("default", "title")}
        for name, schema in group.model_json_schema()["properties"].items()
    }


BOOLEAN: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
OBJECT: Schema = {"type": "object"}
PROMPT = text("The picture to draw, the change to make, or the question to answer.", minLength=1, maxLength=MAX_TEXT)
NOTICES = list_of(text(), description="Notices, such as the names of unknown fields.")
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PICTURE = text("A PNG, JPEG, WebP or GIF file in base64, or as a data URL.", examples=[PIXEL])
MODEL = text("Name of the model; it may be left out.")
LORA: Schema = {
    "description": "A LoRA that the operator has registered.",
    "anyOf": [text("Its name, or off."), record({"name": text(), "scale": NUMBER}, ("name",))],
}
SIDES = {name: {**whole(32), "multipleOf": 32, "description": "Needs the other side."} for name in ("width", "height")}
OTHER_NAMES = {
    "n": whole(1, description="The same as num_images."),
    "num_inference_steps": whole(1, description="The same as num_steps."),
    "negative_prompt": text("The same as negative.", maxLength=MAX_TEXT),
}
STREAM = {
    **record({"event": text(), "data": text("A JSON object, or [DONE].")}, ("data",)),
    "description": "Server-sent events. Lines that start with a colon are comments.",
}
TURN = record(
    {
        "role": one_of("user", "assistant"),
        "text": text(maxLength=MAX_TEXT),
        "images_at": list_of(whole(0), description="Places of pictures in an interleaved answer's text, ascending."),
    },
    ("role", "text"),
)
RUN_EVENTS = {
    **record({"event": text(), "data": text("A JSON object.")}),
    "description": "Server-sent events: queued, notice, prefix, think_token, think, step, picture, token, answer, "
    "interleaved, statistics and error. The last one is statistics, or error after a failure.",
}

IMAGE_FIELDS = {
    "prompt": PROMPT,
    "model": MODEL,
    **settings(ImageSettings),
    **OTHER_NAMES,
    **SIDES,
    "lora": LORA,
    "response_format": one_of("b64_json", "url"),
    "output_format": one_of(*get_args(PictureFormat)),
    "output_compression": whole(0, 100),
    "stream": BOOLEAN,
    "partial_images": whole(0, MAX_PARTIAL_IMAGES, "Previews of each picture in a stream."),
}
SD_FIELDS = {
    "prompt": text("It can name a LoRA, like <lora:NAME:0.8>.", minLength=1, maxLength=MAX_TEXT),
    "seed": whole(-1, description="-1 for a random one."),
    "steps": whole(1, MAX_COUNT),
    "cfg_scale": settings(ImageSettings)["cfg_scale"],
    **SIDES,
    "batch_size": whole(1, MAX_COUNT),
    "n_iter": whole(1, MAX_COUNT, "The request makes batch_size times n_iter pictures."),
    "sampler_name": text("Only Euler has an effect."),
    "negative_prompt": text("What the picture should not show; the same as negative.", maxLength=MAX_TEXT),
    "override_settings": {
        "type": "object",
        "properties": {"sd_model_checkpoint": MODEL, **settings(ImageSettings)},
        "description": "Settings of this server, such as think.",
    },
}
PART = {
    "anyOf": [
        record({"type": one_of("text"), "text": text()}),
        record({"type": one_of("image_url"), "image_url": record({"url": PICTURE})}),
    ]
}
MESSAGE = record(
    {
        "role": one_of("system", "user", "assistant"),
        "content": {"anyOf": [text(maxLength=MAX_TEXT), list_of(PART)]},
    }
)

SCHEMAS: dict[str, Schema] = {
    "ImageSettings": record(settings(ImageSettings), ()),
    "TextSettings": record(settings(TextSettings), ()),
    "Error": record(
        {
            "error": record(
                {
                    "message": text(),
                    "type": one_of("invalid_request_error", "server_error"),
                    "code": text("A word for programs, such as queue_full."),
                    "param": {"type": ["string", "null"], "description": "The field that is wrong."},
                    "hint": text("The next step; empty if the message contains it."),
                    "status": whole(400, 599),
                }
            )
        }
    ),
    "SdError": {"allOf": [ref("Error"), record({"detail": text("Message and hint.")})]},
    "Health": record(
        {
            "status": one_of("ok", "loading", "failed", "stopping"),
            "progress": record({"done": NUMBER, "total": NUMBER}),
        },
        ("status",),
    ),
    "Model": record({"id": text(), "object": one_of("model"), "created": whole(0), "owned_by": text()}),
    "GenerationRequest": record(IMAGE_FIELDS, ("prompt",)),
    "EditRequest": record(
        {**IMAGE_FIELDS, "images": list_of(PICTURE, minItems=1, maxItems=MAX_FILES)}, ("prompt", "images")
    ),
    "EditForm": record(
        {
            **IMAGE_FIELDS,
            **{
                name: list_of(text(contentMediaType="application/octet-stream", format="binary"), maxItems=MAX_FILES)
                for name in PICTURE_NAMES[:2]
            },
        },
        ("prompt",),
    ),
    "ImagesAnswer": record(
        {
            "id": text(),
            "created": whole(0),
            "data": list_of(
                record(
                    {
                        "index": whole(0),
                        "seed": whole(0),
                        "b64_json": text(),
                        "url": text(),
                        "settings": ref("ImageSettings"),
                        "record": {"type": ["object", "null"]},
                        "think_text": text(),
                    },
                    ("index", "seed", "settings"),
                )
            ),
            "size": text(),
            "output_format": one_of(*get_args(PictureFormat)),
            "usage": record({"input_tokens": whole(0), "output_tokens": whole(0), "total_tokens": whole(0)}),
            "notices": NOTICES,
            "metrics": {"type": ["object", "null"]},
        }
    ),
    "ChatRequest": record(
        {
            "messages": list_of(MESSAGE, minItems=1),
            "model": MODEL,
            "modalities": list_of(one_of("text", "image"), minItems=1),
            "stream": BOOLEAN,
            "stream_options": record({"include_usage": BOOLEAN}, ()),
            **settings(ImageSettings),
            **settings(TextSettings),
            "temperature": {"type": "number", "minimum": 0, "maximum": 10, "description": "0 turns sampling off."},
            "lora": LORA,
        },
        ("messages",),
    ),
    "ChatAnswer": record(
        {
            "id": text(),
            "object": one_of("chat.completion"),
            "created": whole(0),
            "model": text(),
            "choices": list_of(
                record({"index": whole(0), "message": OBJECT, "finish_reason": one_of("stop", "length")})
            ),
            "usage": record({"prompt_tokens": whole(0), "completion_tokens": whole(0), "total_tokens": whole(0)}),
            "notices": NOTICES,
            "metrics": OBJECT,
        }
    ),
    "RunRequest": record(
        {
            "request": one_of("generate", "edit", "answer", "interleave"),
            "version": whole(1, WIRE_VERSION),
            "prompt": PROMPT,
            "settings": {"anyOf": [ref("ImageSettings"), ref("TextSettings")]},
            "text_settings": ref("TextSettings"),
            "images": list_of(record({"png": whole(0, description="Index into pictures.")}), maxItems=MAX_FILES),
            "pictures": list_of({"anyOf": [PICTURE, record({"sha256": text()})]}, maxItems=MAX_FILES),
            "history": list_of(TURN),
            "system": {"type": ["string", "null"], "maxLength": MAX_TEXT},
            "lora": LORA,
            "preview_every": whole(0, 100_000, "A preview after every N-th step; 0 for none."),
            "preview_size": whole(0, 100_000, "Longer side of previews; 0 for the size of the picture."),
        },
        ("request", "prompt"),
    ),
    "RunState": record(
        {
            "id": text(),
            "status": one_of("queued", "running", "done", "failed", "cancelled"),
            "position": whole(0),
            "events": list_of(OBJECT),
        },
        ("id", "status", "position"),
    ),
    "Info": record(
        {
            "version": whole(1),
            "program": text(),
            "model": text(),
            "trained_sizes": list_of(text()),
            "settings": OBJECT,
            "interleave": OBJECT,
            "defaults": OBJECT,
            "loras": list_of(text()),
            "queue": record({"running": whole(0), "waiting": whole(0), "limit": whole(0)}),
            "limits": OBJECT,
        }
    ),
    "StoredPicture": record({"sha256": text()}),
    "SdTextRequest": record(SD_FIELDS, ("prompt",)),
    "SdImageRequest": record(
        {
            **SD_FIELDS,
            "init_images": list_of(PICTURE, minItems=1, maxItems=MAX_FILES),
            "image_cfg_scale": settings(ImageSettings)["img_cfg_scale"],
            "include_init_images": BOOLEAN,
        },
        ("prompt", "init_images"),
    ),
    "SdAnswer": record(
        {"images": list_of(text("PNG file in base64.")), "parameters": OBJECT, "info": text("A JSON object as text.")}
    ),
    "SdProgress": record(
        {
            "progress": {"type": "number", "minimum": 0, "maximum": 1},
            "eta_relative": NUMBER,
            "state": OBJECT,
            "current_image": {"type": ["string", "null"]},
            "textinfo": {"type": ["string", "null"]},
        }
    ),
    "SdOptions": record({"sd_model_checkpoint": text("Name of the served model.")}, ()),
}
"""Named schemas."""

PARAMETERS: dict[str, Schema] = {
    "id": text("Id of a request, from the header X-Request-Id or from the first event."),
    "sha256": text("Checksum of the file.", pattern="^[0-9a-fA-F]{64}$"),
    "name": text("Name of a model.", minLength=1),
}
"""Parameters in paths."""

_SD_LIST = Operation({200: {JSON: {"type": ["array", "object"]}}})
_SD_LISTS = (
    "sd-models",
    "samplers",
    "schedulers",
    "loras",
    "upscalers",
    "scripts",
    "embeddings",
    "latent-upscale-modes",
    "sd-vae",
    "hypernetworks",
    "face-restorers",
    "prompt-styles",
)
_BINARY = {kind: text(format="binary") for kind in PICTURES}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/"): Operation({200: {"text/html": text()}}),
    ("GET", "/health"): Operation({200: {JSON: ref("Health")}, 503: {JSON: ref("Health")}}),
    ("GET", "/metrics"): Operation({200: {"text/plain": text("Prometheus' text format.")}}),
    ("GET", "/openapi.json"): Operation({200: {JSON: OBJECT}}),
    ("GET", "/v1/models"): Operation({200: {JSON: record({"object": one_of("list"), "data": list_of(ref("Model"))})}}),
    ("GET", "/v1/models/{name}"): Operation({200: {JSON: ref("Model")}}, errors=(404,)),
    ("POST", "/v1/chat/completions"): Operation(
        {200: {JSON: ref("ChatAnswer"), EVENTS: STREAM}}, {JSON: ref("ChatRequest")}, errors=RUNS
    ),
    ("POST", "/v1/images/generations"): Operation(
        {200: {JSON: ref("ImagesAnswer"), EVENTS: STREAM}}, {JSON: ref("GenerationRequest")}, errors=RUNS
    ),
    ("POST", "/v1/images/edits"): Operation(
        {200: {JSON: ref("ImagesAnswer"), EVENTS: STREAM}},
        {FORM: ref("EditForm"), JSON: ref("EditRequest")},
        errors=RUNS,
    ),
    ("POST", "/v1/sensenova/run"): Operation({200: {EVENTS: RUN_EVENTS}}, {JSON: ref("RunRequest")}, errors=RUNS),
    ("GET", "/v1/sensenova/info"): Operation({200: {JSON: ref("Info")}}, errors=(503,)),
    ("GET", "/v1/sensenova/requests/{id}"): Operation({200: {JSON: ref("RunState")}}, errors=(404,)),
    ("DELETE", "/v1/sensenova/requests/{id}"): Operation({200: {JSON: ref("RunState")}}, errors=(404,)),
    ("GET", "/v1/sensenova/pictures/{sha256}"): Operation({200: _BINARY}, errors=(404,)),
    ("PUT", "/v1/sensenova/pictures/{sha256}"): Operation(
        {200: {JSON: ref("StoredPicture")}, 201: {JSON: ref("StoredPicture")}}, _BINARY, errors=(400, 408, 413)
    ),
    ("POST", "/sdapi/v1/txt2img"): Operation({200: {JSON: ref("SdAnswer")}}, {JSON: ref("SdTextRequest")}, errors=RUNS),
    ("POST", "/sdapi/v1/img2img"): Operation(
        {200: {JSON: ref("SdAnswer")}}, {JSON: ref("SdImageRequest")}, errors=RUNS
    ),
    ("GET", "/sdapi/v1/progress"): Operation({200: {JSON: ref("SdProgress")}}, query={"skip_current_image": BOOLEAN}),
    ("POST", "/sdapi/v1/interrupt"): Operation({200: {JSON: OBJECT}}),
    ("POST", "/sdapi/v1/skip"): Operation({200: {JSON: OBJECT}}),
    ("GET", "/sdapi/v1/options"): Operation({200: {JSON: ref("SdOptions")}}),
    ("POST", "/sdapi/v1/options"): Operation(
        {200: {JSON: OBJECT}}, {JSON: ref("SdOptions")}, errors=(404, *READS_JSON)
    ),
    **{("GET", f"/sdapi/v1/{name}"): _SD_LIST for name in _SD_LISTS},
}
"""(method, path) → body and answers of the operation, which the routes do not describe."""
