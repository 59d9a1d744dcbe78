"""Short names of the published models, which can be used wherever a model is named."""

HUB_IDS = {
    "u1-8b": "SenseNova/SenseNova-U1-8B-MoT",
    "u1.5-8b": "SenseNova/SenseNova-U1.5-8B-MoT",
    "a3b": "SenseNova/SenseNova-U1-A3B-MoT",
}
"""Short name → id on the Hugging Face Hub. A folder of that name is `./u1-8b`."""
DEFAULT_SHAPE = "u1-8b"
"""The model that `doctor` speaks about if no model is configured."""


def full_name(model: str) -> str:
    """Return the Hub id of a short name, and any other name as it is."""
    return HUB_IDS.get(model, model)


def short_name(model: str) -> str | None:
    """Return the short name of a published model, given by its Hub id or its short name; None for other models."""
    return next((name for name, hub_id in HUB_IDS.items() if model in (name, hub_id)), None)
