"""Everything that reads files of strangers, with valid files to damage. A new reader is one more entry of `readers`."""

import io
import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from config.errors import SenseNovaError
from sensenova_cli.outputs.exif import exif_with_comment
from sensenova_cli.outputs.xmp import xmp_packet
from tests.faults.mutations import damaged

WHEN = "2026-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Reader:
    """A function that reads one kind of file.

    Attributes:
        file: the name of the file in its folder.
        read: reads the file; it may raise errors of ours and nothing else.
        valid: contents that it reads without an error.
    """

    kind: str
    file: str
    read: Callable[[Path], object]
    valid: Sequence[bytes]


def readers(checkpoint: Path) -> list[Reader]:
    """Return all readers.

    Args:
        checkpoint: a folder with `config.json`, `recommended_settings.json` and the tokenizer's files.
    """
    from config.recommended import RECOMMENDED_FILE, read_recommended
    from config.settings import ImageSettings
    from config.toml_file import read_settings_file
    from model.checkpoint.file_names import INDEX_FILE, SINGLE_FILE
    from model.checkpoint.lora_files import read_lora_settings
    from model.checkpoint.lora_scaling import ADAPTER_CONFIG, read_scaling
    from model.checkpoint.tensor_files import stored_tensors
    from model.events import DenoisingStep
    from model.image_files import read_picture
    from model.inputs.tokenizer import Tokenizer
    from model.network.configuration import read_config
    from model.requests import EditRequest
    from model.wire import Packed, pack, unpack_event, unpack_request
    from sensenova_cli.inputs.prompts import read_prompt_file
    from sensenova_cli.outputs.picture_files import read_parameters, read_record
    from sensenova_cli.sessions.saved import read_session

    def of_folder(read: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda file: read(file.parent)

    def packed(file: Path) -> Packed:
        try:
            content = json.loads(file.read_bytes())
        except (ValueError, RecursionError):  # the server refuses such a body before it looks for a request
            content = {}
        return Packed(content if isinstance(content, dict) else {}, (_picture("PNG"),))

    def read_index(file: Path) -> object:
        weights = file.with_name(SINGLE_FILE)
        weights.write_bytes(_safetensors())
        try:
            return stored_tensors(file.parent)
        finally:
            weights.unlink()

    def stored(name: str) -> bytes:
        return (checkpoint / name).read_bytes()

    request = pack(EditRequest("a cat", (Image.new("RGB", (8, 8)),), ImageSettings(seed=1, size="64x64"))).content
    event = pack(DenoisingStep(0, 1, 1, 2, 0.5, None)).content
    toml = b'# mine\nseed = 7\nsize = "64x64"\ncfg_interval = [0.1, 0.6]\nthink = true\n[serve]\nport = 8000\n'
    prompts = b'{"prompt": "a cat", "seed": 7}\n{"prompt": "a dog", "size": "64x64"}\n'
    pictures = [_picture(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")]
    index = json.dumps({"weight_map": {"a": SINGLE_FILE, "b": SINGLE_FILE}}).encode()
    peft = json.dumps({"lora_alpha": 8, "alpha_pattern": {"layers.1.mlp": 2.5}, "use_rslora": True}).encode()
    return [
        Reader("picture", "picture.png", read_picture, pictures),
        Reader("record", "picture.png", read_record, _recorded()),
        Reader("record of other programs", "picture.png", read_parameters, _recorded()),
        Reader("settings", "mine.toml", read_settings_file, [toml]),
        Reader("prompts", "prompts.jsonl", lambda file: read_prompt_file(str(file)), [prompts]),
        Reader("prompts", "prompts.txt", lambda file: read_prompt_file(str(file)), [b"a cat\n# no\na dog\n"]),
        Reader("session", "session.jsonl", of_folder(read_session), [_log()]),
        Reader("config", "config.json", of_folder(read_config), [stored("config.json")]),
        Reader("recommendations", RECOMMENDED_FILE, of_folder(read_recommended), [stored(RECOMMENDED_FILE)]),
        Reader("weights", SINGLE_FILE, of_folder(stored_tensors), [_safetensors()]),
        Reader("index", INDEX_FILE, read_index, [index]),
        Reader("LoRA", "style.safetensors", read_lora_settings, [_safetensors({"steps": "8"})]),
        Reader("PEFT", ADAPTER_CONFIG, lambda file: read_scaling(file, {}), [peft]),
        Reader("tokenizer", "tokenizer.json", of_folder(Tokenizer), [_short_tokenizer(stored("tokenizer.json"))]),
        Reader("request", "request.json", lambda file: unpack_request(packed(file)), [json.dumps(request).encode()]),
        Reader("event", "event.json", lambda file: unpack_event(packed(file)), [json.dumps(event).encode()]),
    ]


def read_damaged(
    every: Sequence[Reader], count: int, seed: int, folder: Path
) -> Iterator[tuple[str, str, BaseException | None]]:
    """Read damaged files in an empty folder.

    Yields:
        The kind of the file, its first bytes, and the error that is not ours, or None.
    """
    chance = random.Random(seed)
    for number in range(count):
        reader = every[number % len(every)]
        content = damaged(chance.choice(reader.valid), chance)
        file = folder / reader.file
        file.write_bytes(content)
        error: BaseException | None = None
        try:
            reader.read(file)
        except SenseNovaError:
            pass
        except BaseException as problem:  # a panic of a library in Rust is not an Exception
            error = problem
        file.unlink()
        yield reader.kind, repr(content[:300]), error


def _picture(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    gradient = Image.linear_gradient("L").resize((16, 12)).convert("RGB")
    gradient.save(buffer, kind, **options)
    return buffer.getvalue()


def _recorded() -> list[bytes]:
    """Return picture files with a record, one of each format that can have one."""
    record = {
        "format": 1,
        "task": "edit",
        "prompt": "a cät",
        "settings": {"size": "64x64", "seed": 3, "cfg_interval": [0.1, 0.6]},
        "inputs": [{"path": "a.png", "sha256": "0" * 64}],
        "version": "0.1.0",
        "model": "demo",
        "dtype": "bfloat16",
    }
    texts = PngInfo()
    texts.add_itxt("sensenova", json.dumps(record))
    description = "a cat\nSteps: 4, Seed: 3, Size: 64x64"
    texts.add_text("parameters", description, zip=True)
    compressed = {"xmp": xmp_packet(json.dumps(record)), "exif": exif_with_comment(description)}
    return [_picture("PNG", pnginfo=texts), *(_picture(kind, **compressed) for kind in ("JPEG", "WEBP"))]


def _log() -> bytes:
    picture = {"number": 1, "file": "001.png", "width": 64, "height": 64, "seed": 1}
    turn = {"turn": 1, "prompt": "a cat", "model": "demo", "when": WHEN}
    lines = (
        {"kind": "opened", "model": "demo", "version": "0", "when": WHEN, "format": 1},
        {"kind": "generate", **turn, "pictures": [picture]},
        {"kind": "set", "settings": {"num_steps": 3}, "when": WHEN},
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _safetensors(metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(32)


def _short_tokenizer(content: bytes) -> bytes:
    """Return a tokenizer with few merges, so that damage hits its settings."""
    fields = json.loads(content)
    fields["model"]["merges"] = fields["model"]["merges"][:20]
    return json.dumps(fields).encode()
