"""The tools that the MCP server offers, with the schemas of their arguments."""

from collections.abc import Mapping
from typing import Any

from config.settings import ImageSettings, SettingsGroup, TextSettings

DRAWING = ("negative", "size", "seed", "num_images", "num_steps", "cfg_scale", "think")
"""Settings that a client can choose for pictures. All others come from the user."""
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "generate": DRAWING,
    "edit": (*DRAWING, "img_cfg_scale"),
    "describe": ("max_tokens",),
}
"""Tool → the settings among its arguments."""
MAX_IMAGES = 16
"""Most input pictures of a call."""
MOST_DRAWN = 10
"""Most pictures that a call makes."""
MAX_TEXT = 65_536
"""Most characters of a prompt or a question."""

Schema = dict[str, Any]


def tool_schemas() -> dict[str, tuple[str, Schema]]:
    """Return for each tool its description, and the JSON schema of its arguments."""
    return {
        "generate": (
            "Draw pictures from a prompt. Describe what is to be seen in full sentences: things, places, light, style. "
            "Returns the pictures, and the files that they are written to.",
            _schema("generate", {"prompt": _text("What to draw.")}, ("prompt",)),
        ),
        "edit": (
            "Change one or several pictures as a prompt says. Say what changes, and what stays as it is. "
            "Returns the new pictures, and the files that they are written to.",
            _schema(
                "edit",
                {"prompt": _text("What to change."), "images": _images("The pictures to change.")},
                ("prompt", "images"),
            ),
        ),
        "describe": (
            "Describe pictures, or answer a question about them. Returns text.",
            _schema(
                "describe",
                {
                    "images": _images("The pictures that the question is about."),
                    "question": _text("The question; without one, the pictures are described in detail."),
                },
                ("images",),
            ),
        ),
    }


def _schema(tool: str, own: Mapping[str, Schema], required: tuple[str, ...]) -> Schema:
    group: type[SettingsGroup] = TextSettings if tool == "describe" else ImageSettings
    properties = {**own, **{name: _setting(name, group) for name in SETTINGS[tool]}}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _setting(name: str, group: type[SettingsGroup]) -> Schema:
    """Return the schema of a setting, without its default: the user's settings decide that."""
    declared = dict(group.model_json_schema()["properties"][name])
    kept = {key: value for key, value in declared.items() if key not in ("default", "title", "examples")}
    if name == "num_images":
        kept["maximum"] = MOST_DRAWN
    if name == "seed":
        kept["description"] = "Random seed: the same seed and arguments make the same picture. Random if left out."
    return kept


def _text(description: str) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "description": description}


def _images(description: str) -> Schema:
    path = {"type": "string", "description": "Absolute path of a file in one of the folders that the server may read."}
    data = {"type": "string", "description": "The file's content in base64: PNG, JPEG, WebP or GIF."}
    kinds = [
        {"type": "object", "properties": {name: each}, "required": [name], "additionalProperties": False}
        for name, each in (("path", path), ("data", data))
    ]
    return {
        "type": "array",
        "items": {"anyOf": kinds},
        "minItems": 1,
        "maxItems": MAX_IMAGES,
        "description": description,
    }
