"""A model's card: what it says about itself in a few kilobytes, read before its weights are fetched or loaded."""

from dataclasses import dataclass

from config.recommended import Recommended, read_recommended
from config.settings import LoadSettings
from model.checkpoint.builtin import DEMO_MODEL
from model.checkpoint.hub import find_card
from model.checkpoint.lora_files import recommended_with
from model.checkpoint.named_lora import parse_loras


@dataclass(frozen=True)
class Card:
    """A model's description of itself.

    Attributes:
        model: its name as it was asked for: a folder, a Hub id, or `demo`.
        recommended: the settings and sizes that suit it, with those of its LoRAs above them.
    """

    model: str
    recommended: Recommended


def read_card(settings: LoadSettings) -> Card:
    """Read the card of the model that these settings name, the built-in demo where they name none.

    Of a Hub id that is not in the cache, only `config.json` and `recommended_settings.json` are downloaded.

    Raises:
        CheckpointError: there is no such model, it cannot be reached, or a LoRA cannot be read.
        RecommendationError: its recommended settings are damaged.
    """
    model = settings.model or DEMO_MODEL
    recommended, loras = read_recommended(find_card(model)), parse_loras(settings.lora)
    if loras:
        recommended = recommended_with(recommended, loras)
    return Card(model, recommended)
