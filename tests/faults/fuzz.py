"""Damaged files for every reader: each input is read, or refused with a message of ours; nothing else happens."""

import json
import os
import random
import shutil
import struct
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from config.errors import SenseNovaError
from model.wire import Packed, unpack_event, unpack_request

INTERESTING = (
    b"\0",
    b"\xff" * 4,
    b"\x80\0\0\0",
    b"\x7f\xff\xff\xff",
    b"[" * 2000,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"null",
    b"{}",
    b"[]",
    b'""',
    b"-1",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\x1b[2J",
    b"../",
    b"true",
    b"\r\n",
)
"""Pieces that break readers."""


@dataclass(frozen=True)
class Reader:
    """A reader of files, with intact files from which damaged ones are made.

    Attributes:
        read: reads a file, whose folder may contain other files.
        seeds: intact contents.
        ending: of the file's name.
    """

    name: str
    read: Callable[[Path], object]
    seeds: tuple[bytes, ...]
    ending: str = ""
    file_name: str = ""


def mutated(content: bytes, source: random.Random) -> bytes:
    """Damage a content at one to four places."""
    data = bytearray(content)
    for _ in range(source.randint(1, 4)):
        place = source.randrange(len(data) + 1)
        match source.randrange(7):
            case 0 if data:
                data[place % len(data)] = source.randrange(256)
            case 1 if data:
                data[place % len(data)] ^= 1 << source.randrange(8)
            case 2:
                del data[place : place + source.randint(1, 20)]
            case 3:
                data[place:place] = source.choice(INTERESTING)
            case 4:
                piece = source.choice(INTERESTING)
                data[place : place + len(piece)] = piece
            case 5:
                del data[place:]
            case _:
                other = source.randrange(len(data) + 1)
                data[place:place] = data[other : other + source.randint(1, 50)]
    return bytes(data)


def run(readers: list[Reader], count: int, seed: int) -> Iterator[tuple[str, bytes, str]]:
    """Read `count` damaged files; yield (reader, content, traceback) for each that was neither read nor refused."""
    source = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="sensenova-fuzz-"))
    try:
        for number in range(count):
            reader = readers[number % len(readers)]
            content = mutated(source.choice(reader.seeds), source)
            file = folder / (reader.file_name or f"file{reader.ending}")
            file.write_bytes(_with_checksums(content, source) if reader.ending == ".png" else content)
            try:
                reader.read(file)
            except SenseNovaError:
                pass
            except Exception:
                yield reader.name, content, traceback.format_exc()
            finally:
                file.unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_checksums(content: bytes, source: random.Random) -> bytes:
    """Correct the checksums of a damaged PNG in half of the cases, so that the decoder gets beyond them."""
    if source.random() < 0.5:
        return content
    data, place = bytearray(content), 8
    while place + 12 <= len(data):
        length = struct.unpack_from(">I", data, place)[0]
        if place + 12 + length > len(data):
            break
        struct.pack_into(">I", data, place + 8 + length, zlib.crc32(data[place + 4 : place + 8 + length]))
        place += 12 + length
    return bytes(data)


def all_readers(checkpoint: Path) -> list[Reader]:
    """Return the readers of every kind of file.

    Args:
        checkpoint: a folder with an intact checkpoint.
    """
    from config.recommended import RECOMMENDED_FILE, read_recommended
    from config.toml_file import read_settings_file
    from model import read_picture
    from model.checkpoint.file_names import INDEX_FILE
    from model.checkpoint.safetensors_files import stored_tensors
    from model.network.configuration import read_config
    from sensenova_cli.inputs.prompts import read_prompt_file
    from sensenova_cli.outputs.png_metadata import read_record
    from sensenova_cli.sessions.saved import SESSION_FILE, read_session
    from tests.hostile.attacks import recorded

    def pictures(*kinds: str) -> tuple[bytes, ...]:
        return tuple(_encoded(kind) for kind in kinds)

    record = {
        "format": 1,
        "task": "edit",
        "prompt": "a cat",
        "settings": {"size": "64x64", "seed": 3, "cfg_interval": [0.1, 0.6]},
        "inputs": [{"path": "a.png", "sha256": "0"}],
        "version": "0.1.0",
        "model": "demo",
        "dtype": "bfloat16",
    }
    lines = [
        {"kind": "opened", "model": "demo", "version": "0", "when": "2026-01-01T00:00:00+00:00", "format": 1},
        {
            "kind": "generate",
            "turn": 1,
            "prompt": "a cat",
            "model": "demo",
            "when": "2026-01-01T00:00:00+00:00",
            "pictures": [{"number": 1, "file": "001.png", "width": 64, "height": 64, "seed": 1}],
        },
        {"kind": "set", "settings": {"num_steps": 3}, "when": "2026-01-01T00:00:00+00:00"},
    ]
    log = "".join(json.dumps(line) + "\n" for line in lines).encode()
    event = {"event": "step", "index": 0, "count": 1, "step": 1, "steps": 2, "time": 0.5}
    request = {"request": "generate", "prompt": "a cat", "settings": {"seed": 1}}
    toml = b'seed = 7\nsize = "64x64"\ncfg_interval = [0.1, 0.6]\nthink = true\n[serve]\nport = 8000\n'
    prompts = b'{"prompt": "a cat", "seed": 7, "image": ["a.png"]}\n{"prompt": "a dog", "size": "64x64"}\n'
    config = (checkpoint / "config.json").read_bytes()
    shard = _short_safetensors(next(checkpoint.glob("*.safetensors")).read_bytes())
    recommended = checkpoint / RECOMMENDED_FILE

    return [
        Reader("picture", read_picture, pictures("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"), ".png"),
        Reader("record", read_record, (recorded(json.dumps(record)),), ".png"),
        Reader("settings file", read_settings_file, (toml,), ".toml"),
        Reader("prompt file", lambda file: read_prompt_file(str(file)), (prompts,), ".jsonl"),
        Reader("prompt list", lambda file: read_prompt_file(str(file)), (b'[{"prompt": "a cat"}]',), ".json"),
        Reader("session", lambda file: read_session(file.parent), (log,), file_name=SESSION_FILE),
        Reader("config.json", lambda file: read_config(file.parent), (config,), file_name="config.json"),
        Reader(
            "recommended settings",
            lambda file: read_recommended(file.parent),
            (recommended.read_bytes() if recommended.exists() else b'{"settings": {"num_steps": 4}}',),
            file_name=RECOMMENDED_FILE,
        ),
        Reader("weights", lambda file: stored_tensors(file.parent), (shard,), file_name="model.safetensors"),
        Reader(
            "index",
            lambda file: stored_tensors(file.parent),
            (b'{"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors"}}',),
            file_name=INDEX_FILE,
        ),
        Reader("event", lambda file: unpack_event(_packed(file)), (json.dumps(event).encode(),), ".json"),
        Reader("request", lambda file: unpack_request(_packed(file)), (json.dumps(request).encode(),), ".json"),
    ]


def _packed(file: Path) -> Packed:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        content = {}  # the caller of `unpack_event` has read the JSON
    return Packed(content, ())


def _encoded(kind: str) -> bytes:
    buffer = BytesIO()
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def _short_safetensors(content: bytes) -> bytes:
    """Return the first tensors of a weight file, so that damage is likely to be in the header."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    named = sorted((value["data_offsets"], name) for name, value in header.items() if name != "__metadata__")
    kept = {name: header[name] for _, name in named[:3]}
    end = max(value["data_offsets"][1] for value in kept.values())
    text = json.dumps(kept).encode()
    return struct.pack("<Q", len(text)) + text + bytes(min(end, 4096)) + bytes(max(0, end - 4096))


def in_child(work: Callable[[], list[str]], seconds: float) -> list[str]:
    """Run work in a forked process, and return its lines; a line about a hang or a crash if it does not end."""
    import select
    import signal

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            text = "\n".join(work())
        except BaseException:
            text = traceback.format_exc()
        with os.fdopen(writer, "w") as stream:
            stream.write(text)
        os._exit(0)
    os.close(writer)
    received = b""
    with os.fdopen(reader, "rb", buffering=0) as stream:
        while True:
            ready, _, _ = select.select([stream], [], [], seconds)
            if not ready:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return ["it hangs"]
            part = stream.read(2**16)
            if not part:
                break
            received += part
    _, status = os.waitpid(child, 0)
    if status:
        return [f"the reader ended with {os.waitstatus_to_exitcode(status)}"]
    return received.decode().splitlines()
