"""Read the fields of a request for pictures, under all names that clients use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from config.settings import ImageSettings
from sensenova_cli.serve.bodies import parse_json
from sensenova_cli.serve.errors import ApiError, bad_request
from sensenova_cli.serve.service import check_settings

OTHER_NAMES = {
    "n": "num_images",
    "num_outputs_per_prompt": "num_images",
    "batch_size": "num_images",
    "num_inference_steps": "num_steps",
    "steps": "num_steps",
    "flow_shift": "timestep_shift",
    "image_cfg_scale": "img_cfg_scale",
    "negative_prompt": "negative",
}
"""Names that other servers use → our settings."""

NESTED = ("extra_body", "extra_args", "extra_params")
"""Objects in which clients of vLLM-Omni send further fields. They may be nested in each other."""

WITHOUT_MEANING = frozenset(
    {
        "quality",
        "style",
        "user",
        "moderation",
        "safety_identifier",
        "generator_device",
        "layers",
        "return_stage_metrics",
        "metadata",
        "store",
    }
)
"""Fields of other services that have no meaning here. They need no notice."""

NOT_USED = {
    "guidance_scale": "use cfg_scale",
    "true_cfg_scale": "use cfg_scale",
    "max_tokens": "use max_think_tokens to limit the think text",
}
"""Fields that a client may expect to work → reason in the notice."""

REFUSED = {
    "mask": "the model cannot change only a part of a picture",
    "mask_image": "the model cannot change only a part of a picture",
    "input_fidelity": "the model has no such setting",
    "markup": "the model has no such setting",
    "svg": "pictures are made of pixels",
}
"""Fields that ask for something impossible → reason."""


@dataclass
class PictureFields:
    """The fields of a request for pictures.

    Attributes:
        settings: checked picture settings.
        lora: value of the field `lora`.
        notices: notices for the client about fields that have no effect.
    """

    settings: dict[str, Any]
    lora: Any = None
    notices: list[str] = field(default_factory=list)


def merge_nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields, together with those nested in the objects of NESTED.

    Raises:
        ApiError: a field is given twice with different values.
    """
    merged = {name: value for name, value in fields.items() if name not in NESTED}
    for nested in NESTED:
        inner = fields.get(nested)
        if inner is None:
            continue
        if not isinstance(inner, Mapping):
            raise bad_request(f'"{nested}" must be an object', param=nested)
        for name, value in merge_nested(inner).items():
            if name in merged and merged[name] != value:
                raise bad_request(f'"{name}" is given twice, with different values', "give it once", param=name)
            merged[name] = value
    return merged


def picture_fields(fields: Mapping[str, Any], known: frozenset[str]) -> PictureFields:
    """Read the picture settings of a request whose nested fields are merged.

    Args:
        known: fields that the caller reads itself.

    Raises:
        ApiError: a value is wrong, two fields contradict each other, or a field asks for something impossible.
    """
    require_possible(fields, REFUSED)
    if fields.get("background") == "transparent":
        raise bad_request(
            '"background": pictures have no transparent parts', "use opaque", param="background", code="not_supported"
        )
    given: dict[str, Any] = {}
    names: dict[str, str] = {}
    notices: list[str] = []
    for name, value in fields.items():
        setting = OTHER_NAMES.get(name, name)
        if name in known or name in REFUSED or name in WITHOUT_MEANING or value is None:
            continue
        if setting in ImageSettings.model_fields:
            if setting in given and given[setting] != value:
                raise bad_request(f'"{names[setting]}" and "{name}" contradict each other', "give one", param=name)
            given[setting], names[setting] = value, name
        elif name in NOT_USED:
            if value not in ("", [], False):
                notices.append(f'"{name}" has no effect: {NOT_USED[name]}')
        elif name not in ("width", "height", "lora", "background"):
            notices.append(f'"{name[:100]}" is unknown and has no effect')
    _merge_sides(fields, given, names)
    settings = check_settings(_whole_numbers(given), ImageSettings, names)
    return PictureFields(settings, fields.get("lora"), notices[:50])


def require_possible(fields: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Raise ApiError if a field asks for something impossible.

    Args:
        refused: field → reason.
    """
    for name, reason in refused.items():
        if fields.get(name) not in (None, "", False, [], {}):
            raise bad_request(f'"{name}": {reason}', f'leave out "{name}"', param=name, code="not_supported")


def _merge_sides(fields: Mapping[str, Any], given: dict[str, Any], names: dict[str, str]) -> None:
    """Merge `width` and `height` into the size."""
    width, height = fields.get("width"), fields.get("height")
    if width is None and height is None:
        return
    for side, value in (("width", width), ("height", height)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise bad_request(f'"{side}" must be a whole number', "give width and height, or size", param=side)
    size = f"{width}x{height}"
    if given.get("size", size) != size:
        raise bad_request(f'"size" {given["size"]} and {size} contradict each other', "give one", param="size")
    given["size"], names["size"] = size, "width"


def _whole_numbers(given: dict[str, Any]) -> dict[str, Any]:
    """Accept numbers like 20.0 for whole numbers: clients in JavaScript and form fields write them."""
    return {
        name: int(value)
        if isinstance(value, float) and value.is_integer() and ImageSettings.model_fields[name].annotation is int
        else value
        for name, value in given.items()
    }


def from_form(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return form fields with the types that JSON would have.

    Raises:
        ApiError: a field that should be an object is not JSON.
    """
    typed: dict[str, Any] = {}
    for name, text in fields.items():
        setting = OTHER_NAMES.get(name, name)
        known = setting in ImageSettings.model_fields or name in ("width", "height", "output_compression", "stream")
        is_object = name in (*NESTED, "lora")
        if not (known or is_object or name == "partial_images") or setting in ("size", "negative"):
            typed[name] = text
            continue
        try:
            typed[name] = parse_json(text)
        except ValueError:
            if is_object:
                raise ApiError(400, f'"{name}" is not JSON', "invalid_json", param=name) from None
            typed[name] = {"True": True, "False": False}.get(text, text)
    return typed
