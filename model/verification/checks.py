"""Pictures to compare: the format of `verification.json`, and the published pictures that are built in.

Such a file may come from a stranger. It can only ask for a few pictures of bounded size and length; see the constants.
docs/checkpoints.md describes the format.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.errors import SettingsError
from config.settings import ImageSettings
from config.sizes import parse_size
from config.validation import check_values, json_notation, near_miss
from model.errors import CheckpointError, RequestError
from model.requests import EditRequest, GenerateRequest

VERIFICATION_FILE = "verification.json"
PUBLISHED = Path(__file__).parent / "published"
"""One file for each model with published pictures, in the same format. Two dashes in its name stand for a slash of
the Hub id."""

MAX_FILE_BYTES = 1_000_000
MAX_PICTURES = 8
MAX_POINTS = 100
"""Most pixels to compare in one picture."""
MAX_CONFIGURATION = 50
"""Most values of `config.json` to compare."""
MAX_CHECKSUMS = 1000
MAX_STEPS = 100
MAX_PICTURE_PIXELS = 4096 * 2048
MAX_THINK_TOKENS = 4096
MAX_PROMPT = 10_000
"""Most characters of a prompt."""

ALLOWED_SETTINGS = (
    "size",
    "seed",
    "num_steps",
    "cfg_scale",
    "img_cfg_scale",
    "cfg_norm",
    "cfg_interval",
    "timestep_shift",
    "t_eps",
    "think",
    "max_think_tokens",
    "input_pixels",
    "noise",
)
"""Settings that a check may have. The others make several pictures, or approximate ones."""

Channel = Annotated[int, Field(ge=0, le=255)]
Coordinate = Annotated[int, Field(ge=0)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=255)]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")]
"""Text that is printed in one line, so that a file cannot imitate lines of the report."""
ConfigurationValue = bool | int | Annotated[float, Field(allow_inf_nan=False)] | str
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Tolerance = Annotated[int, Field(ge=0, le=64)]


class VerificationError(CheckpointError):
    """Damaged pictures to compare: `verification.json` needs a fix."""


class ExpectedPixel(BaseModel):
    """The color that a pixel of a picture should have.

    Attributes:
        at: (x, y), from the top left corner.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: tuple[Coordinate, Coordinate]
    rgb: tuple[Channel, Channel, Channel]


class PictureCheck(BaseModel):
    """A picture to draw, and some pixels that it should have.

    Attributes:
        settings: picture settings by name, with a `size` in pixels. Settings that are left out have their defaults,
            not the checkpoint's recommendations or the user's settings.
        tolerance: largest difference of a channel from its expected value.
        tolerance_in_dtype: the same, if the model runs in the file's `dtype`; `tolerance` without it.
        edits: name of an earlier check whose picture is the input; makes the check an edit.
        edits_file: name of the picture file that is the input, which the user has to supply; makes the check an edit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[Line, Field(max_length=100)]
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
    settings: dict[str, Any]
    tolerance: Tolerance = 10
    tolerance_in_dtype: Tolerance | None = None
    pixels: Annotated[tuple[ExpectedPixel, ...], Field(min_length=1, max_length=MAX_POINTS)]
    edits: str | None = None
    edits_file: Annotated[Line, Field(max_length=200)] | None = None

    @property
    def image_settings(self) -> ImageSettings:
        """The settings of the request."""
        return ImageSettings.model_validate(self.settings)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        size = parse_size(self.settings["size"])
        assert size is not None
        return size

    @property
    def is_edit(self) -> bool:
        """Whether the check changes an input picture."""
        return self.edits is not None or self.edits_file is not None

    def tolerance_for(self, dtype: str, own_dtype: str | None) -> int:
        """Return the tolerance for a model that runs in `dtype`, if `own_dtype` is the file's."""
        if self.tolerance_in_dtype is not None and dtype == own_dtype:
            return self.tolerance_in_dtype
        return self.tolerance

    def request(self, input_image: Image.Image | None = None) -> GenerateRequest | EditRequest:
        """Return the request for the picture; an edit needs its input picture."""
        if not self.is_edit:
            return GenerateRequest(self.prompt, self.image_settings)
        assert input_image is not None
        return EditRequest(self.prompt, (input_image,), self.image_settings)

    @model_validator(mode="after")
    def _consistent(self) -> "PictureCheck":
        if self.edits is not None and self.edits_file is not None:
            raise ValueError("give edits or edits_file, not both")
        notation = json_notation(lambda name: f"settings of {self.name!r}: ")
        checked = check_values(self.settings, notation, ALLOWED_SETTINGS)
        size = parse_size(str(checked.get("size", "")))
        if size is None:
            raise ValueError(f"settings of {self.name!r}: size must be in pixels, like 256x256")
        self._require_at_most("size in pixels", size[0] * size[1], MAX_PICTURE_PIXELS)
        self._require_at_most("num_steps", self.image_settings.num_steps, MAX_STEPS)
        self._require_at_most("max_think_tokens", self.image_settings.max_think_tokens, MAX_THINK_TOKENS)
        for pixel in self.pixels:
            if pixel.at[0] >= size[0] or pixel.at[1] >= size[1]:
                raise ValueError(f"pixels of {self.name!r}: {list(pixel.at)} is outside of {self.settings['size']}")
        try:
            self.request(Image.new("RGB", (32, 32)))
        except RequestError as error:
            raise ValueError(f"{self.name!r}: {error.what}") from None
        return self

    def _require_at_most(self, what: str, value: int, most: int) -> None:
        if value > most:
            raise ValueError(f"settings of {self.name!r}: {what} is {value:,}; a check may have {most:,} at most")


class Checks(BaseModel):
    """The contents of a `verification.json`.

    Attributes:
        source: where the expected colors are from.
        dtype: the number format that made them; used unless the user chooses one.
        configuration: values that `config.json` should have, by dotted name. Some of them change pictures only at
            sizes that take long to draw, such as the greatest noise amplitude.
        checksums: sha256 of files of the folder, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[Line, Field(max_length=1000)]
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    configuration: Annotated[dict[str, ConfigurationValue], Field(max_length=MAX_CONFIGURATION)] = {}
    checksums: Annotated[dict[FileName, Sha256], Field(max_length=MAX_CHECKSUMS)] = {}
    pictures: Annotated[tuple[PictureCheck, ...], Field(min_length=1, max_length=MAX_PICTURES)]

    @model_validator(mode="after")
    def _named(self) -> "Checks":
        names: list[str] = []
        for check in self.pictures:
            if check.name in names:
                raise ValueError(f"two pictures have the name {check.name!r}")
            if check.edits is not None and check.edits not in names:
                raise ValueError(f"{check.name!r} edits {check.edits!r}, which is not an earlier picture")
            if check.tolerance_in_dtype is not None and self.dtype is None:
                raise ValueError(f"{check.name!r} has a tolerance_in_dtype, but the file has no dtype")
            names.append(check.name)
        return self


def find_checks(model: str, folder: Path) -> Checks | None:
    """Return the pictures of a checkpoint: those beside its weights, or else the published ones of the model.

    Args:
        model: the name that the user gave: a folder, a Hub id, or `demo`.
        folder: the checkpoint's folder. In the Hub cache its path contains the Hub id.

    Raises:
        VerificationError: the file beside the weights is damaged.
    """
    if (folder / VERIFICATION_FILE).exists():
        return read_checks(folder / VERIFICATION_FILE)
    in_cache = [part for part in folder.absolute().parts if part.startswith("models--")]
    names = [model.partition("@")[0], *(part.removeprefix("models--").replace("--", "/") for part in in_cache)]
    return next((checks for name in names if (checks := published_checks(name)) is not None), None)


def published_checks(model: str) -> Checks | None:
    """Return the published pictures of a model on the Hub, `owner/name`; None if there are none."""
    return read_checks(PUBLISHED / f"{model.replace('/', '--')}.json") if model in published_models() else None


def published_models() -> list[str]:
    """Return the Hub ids of the models with published pictures."""
    return sorted(file.stem.replace("--", "/") for file in PUBLISHED.glob("*.json"))


def read_checks(file: Path) -> Checks:
    """Read pictures to compare.

    Raises:
        VerificationError: the file cannot be read, is not JSON, or has an unknown key, a wrong value or one out of
            bounds.
    """
    hint = "correct the file, or remove it; docs/checkpoints.md describes its format"
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise VerificationError(f"{file}: has more than {MAX_FILE_BYTES:,} bytes", hint)
        fields = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise VerificationError(f"{file}: must be a JSON object", hint)
        return Checks.model_validate(fields)
    except ValidationError as error:
        problems = _causes(error.errors(include_url=False))
        reasons = dict.fromkeys(f"{file}: {_reason(problem)}" for problem in problems)
        raise VerificationError("\n".join(list(reasons)[:5]), hint) from None
    except SettingsError as error:  # a setting of a picture, which is checked like those of the user
        raise VerificationError(f"{file}: {error.what}", f"{error.hint}\n{hint}".strip()) from None
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{file}: is not valid JSON: {error}", hint) from None
    except OSError as error:
        raise VerificationError(f"{file}: cannot be read: {error.strerror}", "check its permissions") from None


def _causes(problems: Sequence[Any]) -> list[Any]:
    """Return the problems without those that only follow from others: a list with a wrong item counts as too short."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(
            len(place) > len(problem["loc"]) and place[: len(problem["loc"])] == problem["loc"] for place in places
        )
    ]


def _reason(problem: Any) -> str:
    """Describe a problem that pydantic found."""
    loc = problem["loc"]
    if loc[:1] == ("configuration",) and len(loc) > 1:  # pydantic names each type that the value does not have
        return f"configuration.{loc[1]}: must be true, false, a finite number or a text"
    place = ".".join(str(part) for part in loc if part != "[key]") or "the file"
    match problem["type"]:
        case "value_error":
            return str(problem["ctx"]["error"])
        case "missing":
            return f"{place}: is missing"
        case "extra_forbidden":
            known = (*Checks.model_fields, *PictureCheck.model_fields, *ExpectedPixel.model_fields)
            meant = near_miss(place.split(".")[-1], known)
            return f"unknown key {place}" + (f"; did you mean {meant}?" if meant else "")
        case "too_short" | "too_long":
            allowed = problem["ctx"].get("min_length", problem["ctx"].get("max_length"))
            return f"{place}: must have {allowed} items at {'least' if problem['type'] == 'too_short' else 'most'}"
        case "tuple_type":
            return f"{place}: must be a list"
        case "dict_type" | "model_type":
            return f"{place}: must be a JSON object"
        case "string_pattern_mismatch" if loc[0] == "checksums":
            return f"{place}: must be the name of a file in the folder, with its sha256 in lower case"
        case "string_pattern_mismatch":
            return f"{place}: must be one line of text"
        case _:
            return f"{place}: {re.sub('^(Input|String) should', 'must', problem['msg'])}"
