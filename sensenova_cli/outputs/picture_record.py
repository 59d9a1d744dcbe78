"""The record of how a picture was made. `picture_files` stores it in files; `info` and `--from` read it."""

import hashlib
import json
import os
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from config.errors import SettingsError
from config.later_settings import without_later_defaults
from config.settings import RECORDED_LOAD_SETTINGS, ImageSettings, LoadSettings, TextSettings
from config.task_defaults import applying
from model import DEMO_MODEL, Message, NamedLora, PictureError, count_images, parse_loras
from sensenova_cli.system.streams import CLIPBOARD, STDIN

FORMAT = 1
"""Version of the format. Increase it after a change that older programs would misread."""

ALWAYS_RECORDED = ("model", "dtype")
"""Load settings that the records of every version contain."""


class InputFile(BaseModel):
    """A picture file that an edit started from.

    Attributes:
        path: absolute, because a record outlives the current folder; `-` for standard input, `clipboard` for the
            clipboard.
        sha256: checksum of the file, in hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path, data: bytes | None = None) -> "InputFile":
        """Return the path and checksum of a file; `data` is its content if it has been read already.

        Raises:
            OSError: the file cannot be read.
        """
        file = Path(path).expanduser()
        content = file.read_bytes() if data is None else data
        return cls(path=str(path) if path in (STDIN, CLIPBOARD) else str(file.absolute()), sha256=checksum(content))


class AnswerRecord(BaseModel):
    """The interleaved answer that a picture belongs to. The picture depends on all that comes before it in the answer.

    Attributes:
        index: the picture's number in the answer, from 0.
        settings: settings of the answer's text. Their seed is the request's, which picture 0 uses, too.
        system: the system message; None for the one that the model was trained with.
        history: the earlier turns of the conversation.
    """

    model_config = ConfigDict(frozen=True)

    index: Annotated[int, Field(ge=0)]
    settings: TextSettings
    system: str | None = None
    history: tuple[Message, ...] = ()

    @property
    def earlier_images(self) -> int:
        """Number of pictures in the earlier turns. They are the first ones of the record's `inputs`."""
        return count_images(self.history)


class PictureRecord(BaseModel):
    """All values that are needed to make a picture again.

    In the JSON, each recorded load setting is a top-level entry. Missing entries have their default values. Settings
    that have no effect on the task are left out.

    Attributes:
        settings: the picture's settings, with an explicit size, its own seed and `num_images` 1.
        loaded: the load settings that are declared as recorded. `model` is an absolute folder or a Hub id.
        inputs: the pictures that an edit or an answer started from, in order; those of earlier turns are first.
        answer: the answer that the picture belongs to; None unless `task` is `interleave`.
        think_text: the think text that precedes the picture, or None.
        made_by: the program on a server that computed the picture, if it is not this one. Only the model is recorded of
            its load settings, because the others are not known. The picture cannot be repeated byte for byte.
        original_prompt: the user's prompt, if enhancement was asked for; None without it.
        enhanced_by: the model that rewrote it as `prompt`; None if `prompt` is the user's.
        version: version of this program, which wrote the record.
    """

    model_config = ConfigDict(frozen=True)

    task: Literal["generate", "edit", "interleave"]
    prompt: str
    settings: ImageSettings
    loaded: LoadSettings
    inputs: tuple[InputFile, ...] = ()
    answer: AnswerRecord | None = None
    think_text: str | None = None
    made_by: str | None = None
    original_prompt: str | None = None
    enhanced_by: str | None = None
    version: str

    @model_validator(mode="before")
    @classmethod
    def _gather_loaded(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "loaded" in content:
            return content
        always = ALWAYS_RECORDED[:1] if content.get("made_by") else ALWAYS_RECORDED
        missing = [name for name in always if name not in content]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        loaded = {name: content[name] for name in RECORDED_LOAD_SETTINGS if name in content}
        return {**content, "loaded": loaded}

    @model_validator(mode="after")
    def _answer_of_its_task(self) -> Self:
        if self.task == "interleave" and self.answer is None:
            raise ValueError("answer is missing")
        if self.task != "interleave" and self.answer is not None:
            raise ValueError(f"the task {self.task} has no answer")
        return self

    @property
    def index(self) -> int:
        """The picture's number in an interleaved answer, from 0; 0 for other tasks."""
        return self.answer.index if self.answer else 0

    @field_validator("loaded")
    @classmethod
    def _only_recorded(cls, loaded: LoadSettings) -> LoadSettings:
        """Reset the settings that are not recorded, so that they do not make two records differ."""
        return LoadSettings.model_validate({name: getattr(loaded, name) for name in RECORDED_LOAD_SETTINGS})

    @model_serializer(mode="wrap")
    def _spread_loaded(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = {}
        recorded = ("model",) if self.made_by else RECORDED_LOAD_SETTINGS
        for name, value in standard(self).items():
            if name not in ("made_by", "answer", "original_prompt", "enhanced_by") or value is not None:
                content |= {key: value[key] for key in recorded} if name == "loaded" else {name: value}
        if content.get("weights") is None:
            content.pop("weights", None)
        content["settings"] = without_later_defaults(applying(content["settings"], self.task))
        return content


def recorded_model(name: str) -> str:
    """Return a model's name as records have it: an absolute path for a folder, because a record outlives the current
    folder; Hub ids and the demo stay as they are."""
    if name != DEMO_MODEL and os.path.isdir(os.path.expanduser(name)):  # noqa: PTH111, PTH112  # for any name
        return str(Path(name).expanduser().absolute())
    return name


def recorded_weights(name: str | None) -> str | None:
    """Return the value of `weights` as records have it: an absolute path for a file; Hub ids stay as they are."""
    if name is not None and os.path.isfile(os.path.expanduser(name)):  # noqa: PTH111, PTH113  # for any name
        return str(Path(name).expanduser().absolute())
    return name


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def record_text(record: PictureRecord) -> str:
    """Return a record as JSON in ASCII, because some programs save a picture's texts again in another encoding."""
    return json.dumps({"format": FORMAT, **record.model_dump(mode="json")})


def parse_record(text: str, shown_name: str) -> PictureRecord:
    """Return the record in a text of a picture. Unknown settings are an error, because the picture could not be made
    again. Other unknown entries are ignored.

    Args:
        shown_name: the picture's name in messages.

    Raises:
        PictureError: the text is not a record, or a newer version of the program wrote it.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise ValueError("it is not a record of sensenova")
        if content["format"] > FORMAT:
            raise PictureError(
                f"{shown_name} was made by a newer version of sensenova ({content.get('version', 'unknown')})",
                "update sensenova to read how it was made",
            )
        return PictureRecord.model_validate(content)
    except (ValueError, RecursionError, SettingsError) as error:
        raise damaged_record(shown_name, _reason(error)) from error


def damaged_record(shown_name: str, reason: str) -> PictureError:
    """Return the error about a record that cannot be read."""
    return PictureError(
        f"the record in {shown_name} cannot be read ({reason})", "the picture itself may still be intact"
    )


def without_folder_names(record: PictureRecord) -> PictureRecord:
    """Return a record that names model, LoRAs and input pictures without their folders."""
    loaded = record.loaded
    loras = [NamedLora(_last_part(lora.name), lora.strength) for lora in parse_loras(loaded.lora)]
    return record.model_copy(
        update={
            "loaded": loaded.model_copy(
                update={
                    "model": loaded.model and _last_part(loaded.model),
                    "weights": loaded.weights and _last_part(loaded.weights),
                    "lora": ", ".join(str(lora).replace(",", "\\,") for lora in loras) or None,
                }
            ),
            "inputs": tuple(each.model_copy(update={"path": _last_part(each.path)}) for each in record.inputs),
        }
    )


def _last_part(name: str) -> str:
    """Return the last part of an absolute path; a Hub id stays."""
    return PurePath(name).name or name if PurePath(name).is_absolute() else name


def _reason(error: Exception) -> str:
    if isinstance(error, SettingsError):
        return error.what
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        return f"{place}: {what}" if place else what
    return str(error)


def parameters_text(record: PictureRecord) -> str:
    """Return the prompt, the negative words and a line of `Key: value` pairs, in the form of A1111's web UI."""
    settings = record.settings
    model = (record.loaded.model or DEMO_MODEL).replace("\\", "/").rstrip("/").rpartition("/")[2]
    pairs = {
        "Steps": settings.num_steps,
        "Sampler": "Euler",
        "CFG scale": f"{settings.cfg_scale:g}",
        "Seed": settings.seed,
        "Size": settings.size,
        "Model": model.replace(",", " "),
        "Shift": f"{settings.timestep_shift:g}",
        "Version": f"sensenova {record.version}" + (f" with {record.made_by}" if record.made_by else ""),
    }
    negative = f"Negative prompt: {settings.negative}\n" if settings.negative else ""
    return f"{record.prompt}\n{negative}" + ", ".join(f"{key}: {value}" for key, value in pairs.items())
