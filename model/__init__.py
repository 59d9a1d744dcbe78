"""SenseNova-U1 as a library: requests in, events out.

    from model import Engine, GenerateRequest, Picture

    engine = Engine.load("path/to/SenseNova-U1-8B-MoT")
    for event in engine.run(GenerateRequest("A cute cat")):
        if isinstance(event, Picture):
            event.image.save("cat.png")

The names below and those of `model.bench` are public; the modules that define them may move. A name's module is
imported when the name is first used, so `import model` does not import PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.settings import ImageSettings, LoadSettings, TextSettings
    from model.checkpoint.builtin import DEMO_CHECKPOINT, DEMO_MODEL
    from model.checkpoint.card import Card
    from model.checkpoint.conversion_record import require_usable_folder
    from model.checkpoint.convert import Converted, convert_checkpoint
    from model.checkpoint.facts import CheckpointFacts, read_facts
    from model.checkpoint.hub import DownloadPlan, find_checkpoint, is_hub_id, local_checkpoint
    from model.checkpoint.hub_errors import OFFICIAL_MODEL
    from model.checkpoint.inventory import CachedModel, cached_model, cached_models, remove_cached_model
    from model.checkpoint.named_lora import NO_LORA, NamedLora, format_loras, parse_loras
    from model.checkpoint.random_weights import write_tiny_checkpoint
    from model.checkpoint.weights_file import (
        WeightsFacts,
        describe_weights,
        find_weights_file,
        local_weights_file,
    )
    from model.conversation import Conversation
    from model.devices import require_device
    from model.engine import Engine
    from model.errors import (
        CheckpointError,
        DeviceError,
        DeviceMemoryError,
        NumericsError,
        PictureError,
        RankError,
        RequestError,
        ServerError,
        WireError,
    )
    from model.events import (
        Answer,
        BranchCaching,
        CacheSummary,
        DenoisingStep,
        Event,
        InterleavedAnswer,
        LoadProgress,
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
    from model.image_files import open_picture, read_picture
    from model.opening import has_room, open_engine, read_card
    from model.parallel.connections import release_rank_processes
    from model.parallel.launch import launched
    from model.rank_main import run_rank
    from model.remote.address import Address, is_loopback, is_usable_key, remove_note, write_note
    from model.remote.http import Connection
    from model.remote.servers import read_server_facts
    from model.requests import (
        AnswerRequest,
        EditRequest,
        GenerateRequest,
        InterleaveRequest,
        Message,
        Request,
        count_images,
    )
    from model.step_cache_library import require_cache_library
    from model.timings import CARD, CONNECT, PHASES, PROGRAM, Timings, process_timings
    from model.trace import Trace
    from model.verification.checks import (
        Checks,
        PictureCheck,
        find_checks,
        published_checks,
        published_models,
    )
    from model.verification.files import FileFinding, check_files
    from model.verification.pictures import PictureComparison, compare_picture
    from model.wire import WIRE_VERSION, Packed, pack, unpack_event, unpack_request

_HOMES = {
    "config.settings": ["ImageSettings", "LoadSettings", "TextSettings"],
    "model.checkpoint.card": ["Card"],
    "model.conversation": ["Conversation"],
    "model.engine": ["Engine"],
    "model.opening": ["has_room", "open_engine", "read_card"],
    "model.errors": [
        "CheckpointError",
        "DeviceError",
        "DeviceMemoryError",
        "NumericsError",
        "PictureError",
        "RankError",
        "RequestError",
        "ServerError",
        "WireError",
    ],
    "model.events": [
        "Answer",
        "BranchCaching",
        "CacheSummary",
        "DenoisingStep",
        "Event",
        "InterleavedAnswer",
        "LoadProgress",
        "Notice",
        "Picture",
        "PicturePart",
        "PrefixRead",
        "Statistics",
        "TextPart",
        "TextToken",
        "ThinkText",
        "ThinkToken",
        "Waiting",
    ],
    "model.image_files": ["open_picture", "read_picture"],
    "model.devices": ["require_device"],
    "model.parallel.launch": ["launched"],
    "model.parallel.connections": ["release_rank_processes"],
    "model.rank_main": ["run_rank"],
    "model.remote.servers": ["read_server_facts"],
    "model.remote.address": ["Address", "is_loopback", "is_usable_key", "remove_note", "write_note"],
    "model.remote.http": ["Connection"],
    "model.requests": [
        "AnswerRequest",
        "EditRequest",
        "GenerateRequest",
        "InterleaveRequest",
        "Message",
        "Request",
        "count_images",
    ],
    "model.step_cache_library": ["require_cache_library"],
    "model.timings": ["CARD", "CONNECT", "PHASES", "PROGRAM", "Timings", "process_timings"],
    "model.trace": ["Trace"],
    "model.wire": ["WIRE_VERSION", "Packed", "pack", "unpack_event", "unpack_request"],
    "model.verification.checks": ["Checks", "PictureCheck", "find_checks", "published_checks", "published_models"],
    "model.verification.files": ["FileFinding", "check_files"],
    "model.verification.pictures": ["PictureComparison", "compare_picture"],
    "model.checkpoint.builtin": ["DEMO_CHECKPOINT", "DEMO_MODEL"],
    "model.checkpoint.conversion_record": ["require_usable_folder"],
    "model.checkpoint.convert": ["Converted", "convert_checkpoint"],
    "model.checkpoint.facts": ["CheckpointFacts", "read_facts"],
    "model.checkpoint.hub": ["DownloadPlan", "find_checkpoint", "is_hub_id", "local_checkpoint"],
    "model.checkpoint.hub_errors": ["OFFICIAL_MODEL"],
    "model.checkpoint.inventory": ["CachedModel", "cached_model", "cached_models", "remove_cached_model"],
    "model.checkpoint.named_lora": ["NO_LORA", "NamedLora", "format_loras", "parse_loras"],
    "model.checkpoint.random_weights": ["write_tiny_checkpoint"],
    "model.checkpoint.weights_file": [
        "WeightsFacts",
        "describe_weights",
        "find_weights_file",
        "local_weights_file",
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CARD",
    "CONNECT",
    "DEMO_CHECKPOINT",
    "DEMO_MODEL",
    "NO_LORA",
    "OFFICIAL_MODEL",
    "PHASES",
    "PROGRAM",
    "WIRE_VERSION",
    "Address",
    "Answer",
    "AnswerRequest",
    "BranchCaching",
    "CacheSummary",
    "CachedModel",
    "Card",
    "CheckpointError",
    "CheckpointFacts",
    "Checks",
    "Connection",
    "Conversation",
    "Converted",
    "DenoisingStep",
    "DeviceError",
    "DeviceMemoryError",
    "DownloadPlan",
    "EditRequest",
    "Engine",
    "Event",
    "FileFinding",
    "GenerateRequest",
    "ImageSettings",
    "InterleaveRequest",
    "InterleavedAnswer",
    "LoadProgress",
    "LoadSettings",
    "Message",
    "NamedLora",
    "Notice",
    "NumericsError",
    "Packed",
    "Picture",
    "PictureCheck",
    "PictureComparison",
    "PictureError",
    "PicturePart",
    "PrefixRead",
    "RankError",
    "Request",
    "RequestError",
    "ServerError",
    "Statistics",
    "TextPart",
    "TextSettings",
    "TextToken",
    "ThinkText",
    "ThinkToken",
    "Timings",
    "Trace",
    "Waiting",
    "WeightsFacts",
    "WireError",
    "cached_model",
    "cached_models",
    "check_files",
    "compare_picture",
    "convert_checkpoint",
    "count_images",
    "describe_weights",
    "find_checkpoint",
    "find_checks",
    "find_weights_file",
    "format_loras",
    "has_room",
    "is_hub_id",
    "is_loopback",
    "is_usable_key",
    "launched",
    "local_checkpoint",
    "local_weights_file",
    "open_engine",
    "open_picture",
    "pack",
    "parse_loras",
    "process_timings",
    "published_checks",
    "published_models",
    "read_card",
    "read_facts",
    "read_picture",
    "read_server_facts",
    "release_rank_processes",
    "remove_cached_model",
    "remove_note",
    "require_cache_library",
    "require_device",
    "require_usable_folder",
    "run_rank",
    "unpack_event",
    "unpack_request",
    "write_note",
    "write_tiny_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
