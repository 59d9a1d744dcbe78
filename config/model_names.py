"""Short names of the published models and LoRAs, and the user's aliases: usable wherever a model is named."""

from config.aliases import read_aliases

HUB_IDS = {
    "u1-8b": "SenseNova/SenseNova-U1-8B-MoT",
    "u1.5-8b": "SenseNova/SenseNova-U1.5-8B-MoT",
    "a3b": "SenseNova/SenseNova-U1-A3B-MoT",
}
"""Short name → id on the Hugging Face Hub. A folder of that name is `./u1-8b`."""
LORAS = {
    "u1-8b-8step": "SenseNova/SenseNova-U1-8B-MoT-LoRAs/SenseNova-U1-8B-MoT-LoRA-8step-V1.0.safetensors",
    "u1.5-8b-8step": "SenseNova/SenseNova-U1.5-8B-MoT-LoRAs/SenseNova-U1.5-8B-MoT-LoRA-8step.safetensors",
}
"""Short name → file on the Hub of a published LoRA, each for the model whose name it begins with."""
ABOUT_GIGABYTES = {"u1-8b": 35, "u1.5-8b": 35, "a3b": 77, "u1-8b-8step": 0.8, "u1.5-8b-8step": 0.8}
"""Short name → size of the download in gigabytes, rounded. The Hub has the exact size."""
DEFAULT_SHAPE = "u1-8b"
"""The model that `doctor` speaks about if no model is configured."""


def full_name(model: str) -> str:
    """Return the Hub id of a short name, the target of an alias, and any other name as it is.

    Raises:
        SettingsError: the file of aliases is damaged.
    """
    return HUB_IDS.get(model) or LORAS.get(model) or read_aliases().get(model, model)


def short_name(model: str) -> str | None:
    """Return the short name of a published model, given by its Hub id, its short name or an alias; None for others."""
    full = full_name(model)
    return next((name for name, hub_id in HUB_IDS.items() if full == hub_id), None)
