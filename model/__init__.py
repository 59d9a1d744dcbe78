"""SenseNova-U1: the network and how to run it.

    from model import Engine, GenerateRequest, Picture

    engine = Engine.load("path/to/SenseNova-U1-8B-MoT")
    for event in engine.run(GenerateRequest("A cute cat")):
        if isinstance(event, Picture):
            event.image.save("cat.png")

Everything here is resolved on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.schema import ImageSettings, TextSettings
    from model.conversation import Conversation
    from model.engine import Engine
    from model.errors import (
        CheckpointError,
        DeviceError,
        DeviceMemoryError,
        NumericsError,
        PictureError,
        RankError,
        RequestError,
        WireError,
    )
    from model.events import (
        Answer,
        BranchCaching,
        CacheSummary,
        DenoisingStep,
        Event,
        LoadProgress,
        Notice,
        Picture,
        PrefixRead,
        Statistics,
        TextToken,
        ThinkText,
        ThinkToken,
    )
    from model.requests import AnswerRequest, EditRequest, GenerateRequest, Message, Request
    from model.trace import Trace

_HOMES = {
    "model.conversation": ["Conversation"],
    "model.engine": ["Engine"],
    "config.schema": ["ImageSettings", "TextSettings"],
    "model.errors": [
        "CheckpointError",
        "DeviceError",
        "DeviceMemoryError",
        "NumericsError",
        "PictureError",
        "RankError",
        "RequestError",
        "WireError",
    ],
    "model.events": [
        "Answer",
        "BranchCaching",
        "CacheSummary",
        "DenoisingStep",
        "Event",
        "LoadProgress",
        "Notice",
        "Picture",
        "PrefixRead",
        "Statistics",
        "TextToken",
        "ThinkText",
        "ThinkToken",
    ],
    "model.requests": ["AnswerRequest", "EditRequest", "GenerateRequest", "Message", "Request"],
    "model.trace": ["Trace"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "AnswerRequest",
    "BranchCaching",
    "CacheSummary",
    "CheckpointError",
    "Conversation",
    "DenoisingStep",
    "DeviceError",
    "DeviceMemoryError",
    "EditRequest",
    "Engine",
    "Event",
    "GenerateRequest",
    "ImageSettings",
    "LoadProgress",
    "Message",
    "Notice",
    "NumericsError",
    "Picture",
    "PictureError",
    "PrefixRead",
    "RankError",
    "Request",
    "RequestError",
    "Statistics",
    "TextSettings",
    "TextToken",
    "ThinkText",
    "ThinkToken",
    "Trace",
    "WireError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
