"""Read the fields of AUTOMATIC1111's API as our settings, and make notices about fields without effect."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensenova_cli.serve.errors import ApiError, bad_request
from sensenova_cli.serve.picture_fields import picture_fields, require_possible
from sensenova_cli.serve.service import require_text

SAMPLER = "Euler"
"""The only sampler."""
MAX_COUNT = 1000
"""Largest value of `batch_size` and of `n_iter`."""

READ = frozenset({"prompt", "init_images", "include_init_images", "override_settings", "batch_size", "n_iter", "seed"})
"""Fields that this module and its callers read themselves."""

WITHOUT_MEANING = frozenset(
    {
        # They say where the original stores files and which settings it restores. This server does neither.
        "do_not_save_samples",
        "do_not_save_grid",
        "save_images",
        "override_settings_restore_afterwards",
        "force_task_id",
        "url",  # SillyTavern passes on its own fields
        "auth",
        # They only matter beside a field that is refused, or that gets its own notice.
        "firstphase_width",
        "firstphase_height",
        "hr_scale",
        "hr_upscaler",
        "hr_second_pass_steps",
        "hr_resize_x",
        "hr_resize_y",
        "hr_checkpoint_name",
        "hr_sampler_name",
        "hr_scheduler",
        "hr_prompt",
        "hr_negative_prompt",
        "hr_cfg",
        "hr_additional_modules",
        "refiner_switch_at",
        "mask_blur",
        "mask_blur_x",
        "mask_blur_y",
        "mask_round",
        "inpainting_fill",
        "inpaint_full_res",
        "inpaint_full_res_padding",
        "inpainting_mask_invert",
        "initial_noise_multiplier",
        "script_args",
        "subseed",
        "seed_enable_extras",
        # Settings of samplers that add noise; Euler adds none.
        "eta",
        "s_churn",
        "s_tmin",
        "s_tmax",
        "s_noise",
        "s_min_uncond",
    }
)
"""Fields without effect that need no notice."""

SAMPLERS = ("", "euler", "k_euler", "automatic", "default")
"""Names of the sampler that the model uses, in lower case."""

NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "restore_faces": ((), "there is no face restorer"),
    "tiling": ((), "the model draws no tiles"),
    "enable_hr": ((), "ask for the final size in width and height"),
    "send_images": ((True,), "the answer always contains the pictures"),
    "subseed_strength": ((), "there are no variations of a seed"),
    "seed_resize_from_h": ((-1,), "there are no variations of a seed"),
    "seed_resize_from_w": ((-1,), "there are no variations of a seed"),
    "resize_mode": ((), "the model scales pictures itself"),
    "styles": ((), "the server has no styles"),
    "refiner_checkpoint": ((), "the server has no refiner"),
    "disable_extra_networks": ((), "only LoRAs that the prompt names are used"),
    "clip_skip": ((1,), "the model has no CLIP"),
    "CLIP_stop_at_last_layers": ((1,), "the model has no CLIP"),
    "sd_vae": (("Automatic", "None", "none"), "the model has no VAE"),
    "forge_additional_modules": ((), "the model has no other modules"),
}
"""Fields without effect → values that need no notice, besides empty ones, and the reason in the notice."""

REFUSED = {
    "script_name": "the server has no scripts",
    "alwayson_scripts": "the server has no scripts",
    "latent_mask": "the model cannot change only a part of a picture",
}
"""Fields that ask for something impossible → reason."""

_LORA = re.compile(r"<lora:([^:<>]*)(?::([^<>]*))?>\s*")


@dataclass(frozen=True)
class SdFields:
    """The checked fields of a request.

    Attributes:
        prompt: without the tags of LoRAs.
        settings: checked picture settings.
        lora: name and strength of the LoRA to use; None for those that the model was loaded with.
        notices: notices for the client about fields that have no effect.
    """

    prompt: str
    settings: Mapping[str, Any]
    lora: Mapping[str, Any] | None
    notices: tuple[str, ...]


def read_fields(fields: Mapping[str, Any], model: str, *, changes_pictures: bool) -> SdFields:
    """Read the fields of a request for pictures.

    Args:
        model: name of the served model.
        changes_pictures: the request has input pictures.

    Raises:
        ApiError: a value is wrong, or a field asks for something impossible.
    """
    prompt, lora = _split_loras(require_text(fields.get("prompt", ""), "prompt"))
    if not prompt.strip():
        raise bad_request("the prompt is empty", 'write one like "a cat"', param="prompt")
    overrides = fields.get("override_settings")
    if not isinstance(overrides, Mapping | None):
        raise bad_request('"override_settings" must be an object', param="override_settings")
    require_model((overrides or {}).get("sd_model_checkpoint"), model, "override_settings.sd_model_checkpoint")
    require_possible(fields, REFUSED)
    notices: list[str] = []
    wanted = _rest(_merge(fields, overrides or {}, notices), notices)
    if changes_pictures:
        if fields.get("denoising_strength") is not None:
            notices.append('"denoising_strength" has no effect: the model reads the picture and draws a new one')
    elif fields.get("init_images"):
        raise bad_request("txt2img takes no pictures", "send them to /sdapi/v1/img2img", param="init_images")
    count = _count(fields)
    if count is not None:
        wanted["batch_size"] = count
    if fields.get("seed") not in (None, -1):  # -1 asks for a random one
        wanted["seed"] = fields["seed"]
    given = picture_fields(wanted, frozenset())
    return SdFields(prompt, given.settings, lora or given.lora, (*notices, *given.notices))


def require_model(name: object, model: str, param: str) -> None:
    """Raise ApiError if a client asks for another model than the served one."""
    if name not in (None, "", model):
        raise ApiError(
            404, f"there is no model {str(name)[:100]!r} here", "model_not_found", param=param, hint=f"use {model}"
        )


def _merge(fields: Mapping[str, Any], overrides: Mapping[str, Any], notices: list[str]) -> dict[str, Any]:
    """Merge `override_settings` into the fields: clients with a fixed list of fields send our settings there."""
    merged = dict(fields)
    for name, value in overrides.items():
        if name in fields or name in READ:
            notices.append(f'"override_settings.{name[:100]}" has no effect: it is a field of the request itself')
        else:
            merged[name] = value
    return merged


def _rest(fields: Mapping[str, Any], notices: list[str]) -> dict[str, Any]:
    """Return the fields that `picture_fields` reads, and add notices about the others."""
    rest: dict[str, Any] = {}
    samplers: dict[str, str] = {}
    for name, value in fields.items():
        if name in READ or name in WITHOUT_MEANING or name in REFUSED:
            continue
        if name in ("sd_model_checkpoint", "denoising_strength"):
            continue
        if name in ("sampler_name", "sampler_index", "scheduler"):
            if value is not None and str(value).lower() not in SAMPLERS:
                samplers.setdefault(str(value)[:50], name)
        elif name in NEUTRAL:
            values, reason = NEUTRAL[name]
            if value and value not in values:
                notices.append(f'"{name}" has no effect: {reason}')
        else:
            rest[name] = value
    notices += [f'"{name}": {value} has no effect: the model uses {SAMPLER}' for value, name in samplers.items()]
    return rest


def _count(fields: Mapping[str, Any]) -> int | None:
    """Return the number of pictures: `batch_size` times `n_iter`; None if neither is given."""
    count: int | None = None
    for name in ("batch_size", "n_iter"):
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_COUNT:
            raise bad_request(f'"{name}" must be a whole number from 1 to {MAX_COUNT}', param=name)
        count = value * (count or 1)
    if count is not None and count > MAX_COUNT:
        raise bad_request(f"{count:,} pictures are too many", "ask for fewer", param="n_iter")
    return count


def _split_loras(prompt: str) -> tuple[str, dict[str, Any] | None]:
    """Return the prompt without tags like `<lora:pixel:0.8>`, and the LoRA that they name."""
    tags = _LORA.findall(prompt)
    if not tags:
        return prompt, None
    if len(tags) > 1:
        raise bad_request("a prompt can name one LoRA only", "leave out the others", param="prompt")
    name, strength = tags[0]
    lora: dict[str, Any] = {"name": name.strip()}
    if strength:
        try:
            lora["scale"] = float(strength)
        except ValueError:
            raise bad_request(
                f"the strength of a LoRA is {strength[:50]!r}", "write it like <lora:pixel:0.8>", param="prompt"
            ) from None
    return _LORA.sub("", prompt).strip(), lora
