"""Model cards: a few kilobytes that describe a model, read before its weights are downloaded or loaded."""

from dataclasses import dataclass

from config.recommended import Recommended, read_recommended
from config.settings import LoadSettings
from model.checkpoint.builtin import DEMO_MODEL
from model.checkpoint.hub import find_card
from model.checkpoint.lora_files import recommended_with_loras
from model.checkpoint.named_lora import parse_loras


@dataclass(frozen=True)
class Card:
    """A model's description of itself.

    Attributes:
        model: the name that the user gave: a folder, a Hub id, or `demo`.
        recommended: the model's recommended settings and sizes. Settings that its LoRAs recommend override them.
        loaded: for a model on a server, the recorded settings that the server has loaded it with.
    """

    model: str
    recommended: Recommended
    loaded: LoadSettings | None = None


def read_local_card(settings: LoadSettings) -> Card:
    """Read the card of the model that the settings name, here or on the Hub; without a name, of the built-in demo.

    For a Hub id that is not in the Hub cache, only `config.json` and `recommended_settings.json` are downloaded.

    Raises:
        CheckpointError: the model does not exist or cannot be reached, or a LoRA cannot be read.
        RecommendationError: the recommended settings are damaged.
    """
    model = settings.model or DEMO_MODEL
    recommended, loras = read_recommended(find_card(model)), parse_loras(settings.lora)
    if loras:
        recommended = recommended_with_loras(recommended, loras)
    return Card(model, recommended)
