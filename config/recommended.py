"""What a checkpoint says about itself beyond `config.json`: recommended settings and the sizes it knows.

The file `recommended_settings.json` lies beside the weights and is optional; without it the facts published
for SenseNova-U1 hold.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.errors import SettingsError
from config.settings import ImageSettings, TextSettings
from config.sizes import TRAINED_SIZES
from config.validation import check_values, json_notation, near_miss

RECOMMENDED_FILE = "recommended_settings.json"

MEND = "mend the file, or remove it to use the published settings"

Side = Annotated[int, Field(gt=0, multiple_of=32)]
PixelCount = Annotated[int, Field(gt=0)]


class RecommendationError(SettingsError):
    """What a checkpoint says about itself is damaged: the checkpoint has to be mended, not the user's settings."""


class PixelRange(BaseModel):
    """Fewest and most pixels of an input picture as the network reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: PixelCount
    max: PixelCount

    @model_validator(mode="after")
    def _ordered(self) -> "PixelRange":
        if self.min > self.max:
            raise ValueError(f"min {self.min} lies above max {self.max}")
        return self


class Recommended(BaseModel):
    """The contents of `recommended_settings.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any] = {}
    """Settings of pictures and answers that suit this checkpoint: the layer above the defaults."""
    trained_sizes: Annotated[tuple[tuple[Side, Side], ...], Field(min_length=1)] = TRAINED_SIZES
    """(width, height) pairs the checkpoint was trained on; the first is its default size."""
    answer_input: PixelRange = PixelRange(min=256 * 256, max=2048 * 2048)
    """Limits of an input picture when it is described or talked about."""
    edit_input: PixelRange = PixelRange(min=512 * 512, max=2048 * 2048)
    """Limits of an input picture when it is edited; all of them together may have four times `max`."""

    def edit_limits(self, pictures: int) -> PixelRange:
        """The limits of each of `pictures` input pictures of one edit."""
        return PixelRange(
            min=min(self.edit_input.min, 4 * self.edit_input.max // pictures),
            max=min(self.edit_input.max, 4 * self.edit_input.max // pictures),
        )


def read_recommended(folder: Path) -> Recommended:
    """Read the checkpoint's own recommendations; the published facts where it carries none.

    Raises:
        RecommendationError: the file is no JSON or holds something else than it may.
    """
    path = folder / RECOMMENDED_FILE
    if not path.exists():
        return Recommended()
    try:
        recommended = Recommended.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        # The first of each key: a list that is wrong inside is reported once more as a whole.
        first = {problem["loc"][:1]: problem for problem in reversed(error.errors(include_url=False))}
        reasons = [f"{path}: {_reason(problem)}" for problem in reversed(first.values())]
        raise RecommendationError("\n".join(reasons), MEND) from None
    except (ValueError, RecursionError) as error:
        raise RecommendationError(f"{path}: is no valid JSON: {error}", MEND) from None
    except OSError as error:
        raise RecommendationError(f"{path}: cannot be read: {error.strerror}", MEND) from None
    try:
        check_recommended(recommended.settings, f"{path}: settings")
    except SettingsError as error:
        raise RecommendationError(error.what, f"{error.hint}\n{MEND}") from None
    return recommended


def check_recommended(settings: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Check the settings a checkpoint recommends, converted to their types.

    A checkpoint may say how pictures and answers are made best, but not where files go or what runs where.

    Raises:
        SettingsError: starts with `place`; names what is unknown, out of bounds or not a checkpoint's to say.
    """
    notation = json_notation(lambda name: f"{place}: ")
    return check_values(settings, notation, (*ImageSettings.model_fields, *TextSettings.model_fields))


def _reason(problem: Any) -> str:
    """Where in the file, and a problem of pydantic's in our words where they are plainer."""
    place = ".".join(map(str, problem["loc"])) or "the file"
    match problem["type"]:
        case "extra_forbidden":
            meant = near_miss(place.split(".")[-1], (*Recommended.model_fields, *PixelRange.model_fields))
            return f"unknown key {place}" + (f"; did you mean {meant}?" if meant else "")
        case "value_error":
            return f"{place}: {problem['ctx']['error']}"
        case "model_type":
            return f"{place}: must be an object in braces"
        case "missing":
            return f"{place}: is missing"
        case "too_short":
            return f"{place}: must not be empty"
        case _:
            return f"{place}: {problem['msg'].replace('Input should', 'must', 1)}"
