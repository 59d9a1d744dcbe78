"""Reading of the arguments of a call. A client is a stranger: it reads no files outside of the allowed folders."""

import base64
import binascii
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.settings import ImageSettings, SettingsGroup, TextSettings
from config.validation import check_values, json_notation, near_miss
from model import read_picture
from sensenova_cli.commands.describe import ONE_PICTURE, SEVERAL_PICTURES
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.mcp.tools import MAX_IMAGES, MAX_TEXT, MOST_DRAWN, SETTINGS
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.outputs.picture_record import InputFile
from sensenova_cli.system.plain_files import read_plain_file
from sensenova_cli.system.streams import STDIN
from sensenova_cli.turns.tasks import AnswerTask, PictureTask, Task

MAX_FILE_BYTES = 50_000_000
"""Most bytes of a picture file."""
FIELDS = {"generate": ("prompt",), "edit": ("prompt", "images"), "describe": ("images", "question")}
"""Tool → its arguments that are not settings."""


def read_task(tool: str, arguments: Mapping[str, Any], folders: Sequence[Path]) -> Task:
    """Return the task that a call asks for.

    Args:
        tool: `generate`, `edit` or `describe`.
        folders: the folders whose files the client may name.

    Raises:
        UsageError: an argument is missing, unknown or of a wrong type, or a file is outside of the folders.
        SettingsError: a setting has a wrong type or value.
        PictureError: a picture cannot be read.
    """
    fields, settings = FIELDS[tool], SETTINGS[tool]
    for name in arguments:
        if name not in (*fields, *settings):
            meant = near_miss(name, (*fields, *settings))
            hint = f"did you mean {meant}?" if meant else f"its arguments are {', '.join((*fields, *settings))}"
            raise UsageError(f"{tool} has no argument {name[:100]!r}", hint)
    given = {name: arguments[name] for name in settings if arguments.get(name) is not None}
    group: type[SettingsGroup] = TextSettings if tool == "describe" else ImageSettings
    checked = check_values(given, json_notation(lambda name: ""), settings, group)
    inputs = read_images(arguments.get("images"), folders) if "images" in fields else ()
    if tool == "describe":
        question = ONE_PICTURE if len(inputs) == 1 else SEVERAL_PICTURES
        if arguments.get("question") is not None:
            question = _text(arguments, "question")
        return AnswerTask("describe", question, tuple(each.image for each in inputs), settings=checked)
    if checked.get("num_images", 1) > MOST_DRAWN:
        raise UsageError(f"num_images is {checked['num_images']}; a call makes {MOST_DRAWN} pictures at most")
    # Without a seed, two calls must not give the same picture, as `sensenova generate` does.
    seed = {"seed": secrets.randbelow(2**32)}
    kind: PictureKind = "edit" if tool == "edit" else "generate"
    prompt = Prompt(_text(arguments, "prompt"), settings={**seed, **checked})
    return PictureTask(kind, prompt, inputs, replaces_seed_silently="seed" not in checked)


def read_images(given: object, folders: Sequence[Path]) -> tuple[InputImage, ...]:
    """Read the input pictures of a call; arguments and errors as for `read_task`."""
    if not isinstance(given, list) or not given:
        raise UsageError("images must be a list of pictures", 'write it like [{"path": "/folder/cat.png"}]')
    if len(given) > MAX_IMAGES:
        raise UsageError(f"{len(given)} pictures are too many", f"a call may have {MAX_IMAGES}")
    return tuple(_read(each, f"images[{number}]", folders) for number, each in enumerate(given))


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise UsageError(f"{name} must be text" if value is not None else f"{name} is missing")
    if len(value) > MAX_TEXT:
        raise UsageError(f"{name} has {len(value):,} characters; the limit is {MAX_TEXT:,}", "shorten it")
    return value


def _read(given: object, place: str, folders: Sequence[Path]) -> InputImage:
    if isinstance(given, Mapping) and len(given) == 1:
        if isinstance(given.get("path"), str):
            file = allowed_file(given["path"], place, folders)
            content = read_plain_file(file, MAX_FILE_BYTES + 1)
            if content is None:
                raise UsageError(f"{place}: there is no picture file {given['path'][:200]}", "check its name")
            return _decode(content, given["path"], str(file))
        if isinstance(given.get("data"), str):
            return _decode(_from_base64(given["data"], place), place, STDIN)
    raise UsageError(f"{place} is not a picture", 'write it like {"path": "/folder/cat.png"} or {"data": "iVBORw0…"}')


def allowed_file(name: str, place: str, folders: Sequence[Path]) -> Path:
    """Return the file of a name, with all links resolved.

    Raises:
        UsageError: it is not in one of the folders. The message is the same whether the file exists or not.
    """
    refused = UsageError(
        f"{place}: {name[:200]} is not in a folder that this server may read",
        f"the folders are {', '.join(map(str, folders))}; other pictures can be sent as data",
    )
    try:
        path = Path(name)
        if not path.is_absolute():
            raise refused
        file = path.resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL, a name that is too long, links in a circle
        raise refused from None
    if not any(file.is_relative_to(folder) for folder in folders):
        raise refused
    return file


def _from_base64(text: str, place: str) -> bytes:
    if len(text) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise UsageError(f"{place}: the picture has more than {MAX_FILE_BYTES:,} bytes", "send a smaller one")
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text.encode("ascii").translate(None, b" \t\r\n"), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(f"{place}: data is not base64", "send the content of a picture file in base64") from None


def _decode(content: bytes, shown: str, path: str) -> InputImage:
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(f"{shown}: the picture has more than {MAX_FILE_BYTES:,} bytes", "use a smaller one")
    image = read_picture(content, shown)
    try:
        record = read_record(content, shown)
    except Exception:  # a damaged record is no reason to refuse the picture
        record = None
    return InputImage(image, InputFile.of(path, content), shown, record.settings.seed if record else None)
