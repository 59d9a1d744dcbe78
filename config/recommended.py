"""Recommendations of a checkpoint: settings, trained sizes and limits of input pictures.

They are in the optional file `recommended_settings.json` beside the weights. Without it, the published values of
SenseNova-U1 apply. A small model also has the file `world.json`, which lists the things that it can draw.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from config.errors import SettingsError
from config.json_files import read_json
from config.profiles import RECOMMENDED_FILE as RECOMMENDED_FILE
from config.settings import ImageSettings, TextSettings
from config.sizes import INTERLEAVE_SIZES, TRAINED_SIZES
from config.task_defaults import INTERLEAVE_DEFAULTS
from config.validation import check_values, json_notation, near_miss
from config.world import WORLD_FILE, World

MAX_FILE_BYTES = 2**20

REPAIR_HINT = "correct the file, or remove it to use the published settings"

Side = Annotated[int, Field(gt=0, multiple_of=32)]
PixelCount = Annotated[int, Field(gt=0)]
Content = TypeVar("Content", bound=BaseModel)


class RecommendationError(SettingsError):
    """Damaged recommendations: the checkpoint needs a fix, not the user's settings."""


class PixelRange(BaseModel):
    """Minimum and maximum number of pixels of an input picture, after it has been resized for the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: PixelCount
    max: PixelCount

    @model_validator(mode="after")
    def _ordered(self) -> "PixelRange":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class InterleaveRecommended(BaseModel):
    """Recommendations for interleaved answers alone: the object `interleave` in `recommended_settings.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any] = {}
    """Recommended settings of interleaved answers: the layer above those of other tasks."""
    trained_sizes: Annotated[tuple[tuple[Side, Side], ...], Field(min_length=1)] = INTERLEAVE_SIZES
    """(width, height) pairs that the checkpoint was trained on for this task; the first one is its default size."""


class Recommended(BaseModel):
    """The contents of `recommended_settings.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any] = {}
    """Recommended settings of pictures and answers: the layer above the defaults."""
    trained_sizes: Annotated[tuple[tuple[Side, Side], ...], Field(min_length=1)] = TRAINED_SIZES
    """(width, height) pairs that the checkpoint was trained on; the first one is its default size."""
    answer_input: PixelRange = PixelRange(min=256 * 256, max=2048 * 2048)
    """Limits of an input picture of a question."""
    edit_input: PixelRange = PixelRange(min=512 * 512, max=2048 * 2048)
    """Limits of an input picture of an edit or an interleaved answer. All of them together may have four times `max`.
    """
    interleave: InterleaveRecommended = InterleaveRecommended()
    """Recommendations for interleaved answers alone."""
    world: World | None = None
    """The only things that the checkpoint can draw, from `world.json`; None if there is no such list."""

    @property
    def answers_with_pictures(self) -> bool:
        """Whether the checkpoint has learned interleaved answers. A small model has if it recommends settings for them;
        all others have."""
        return self.world is None or bool(self.interleave.settings)

    def for_interleaving(self) -> "Recommended":
        """Return the recommendations of an interleaved answer, with its settings and trained sizes in place of those of
        other tasks. They include the defaults of this task."""
        settings = {**self.settings, **INTERLEAVE_DEFAULTS, **self.interleave.settings}
        return self.model_copy(update={"settings": settings, "trained_sizes": self.interleave.trained_sizes})

    def overridden_by(self, settings: Mapping[str, Any]) -> "Recommended":
        """Return these recommendations with other settings above them, for all tasks."""
        interleave = self.interleave.model_copy(update={"settings": {**self.interleave.settings, **settings}})
        return self.model_copy(update={"settings": {**self.settings, **settings}, "interleave": interleave})

    def limited(self, limits: Mapping[str, int]) -> "Recommended":
        """Return these recommendations, in which no default of an interleaved answer exceeds its limit.

        Args:
            limits: setting of an answer's text → its largest value.
        """
        defaults = {name: field.default for name, field in TextSettings.model_fields.items()}
        defaults |= self.for_interleaving().settings
        lowered = {name: most for name, most in limits.items() if defaults[name] > most}
        interleave = self.interleave.model_copy(update={"settings": {**self.interleave.settings, **lowered}})
        return self.model_copy(update={"interleave": interleave})

    def edit_limits(self, images: int) -> PixelRange:
        """Return the limits of each input picture of an edit with `images` input pictures."""
        return PixelRange(
            min=min(self.edit_input.min, 4 * self.edit_input.max // images),
            max=min(self.edit_input.max, 4 * self.edit_input.max // images),
        )


def read_recommended(folder: Path) -> Recommended:
    """Read the recommendations of a checkpoint folder; without the file, return the published values.

    Raises:
        RecommendationError: the file is not JSON or has an unknown key or a wrong value.
    """
    path = folder / RECOMMENDED_FILE
    recommended = _read(path, Recommended) or Recommended()
    recommended = recommended.model_copy(update={"world": _read(folder / WORLD_FILE, World)})
    try:
        check_recommended(recommended.settings, f"{path}: settings")
        check_recommended(recommended.interleave.settings, f"{path}: interleave.settings")
    except SettingsError as error:
        raise RecommendationError(error.what, f"{error.hint}\n{REPAIR_HINT}") from None
    return recommended


def _read(path: Path, kind: type[Content]) -> Content | None:
    """Read a file of recommendations; return None if it does not exist. Errors as for `read_recommended`."""
    if not path.exists():
        return None
    try:
        return kind.model_validate(read_json(path, MAX_FILE_BYTES))
    except ValidationError as error:
        # Only the first problem of each key: pydantic reports a list with a wrong item again as a whole.
        first = {problem["loc"][:1]: problem for problem in reversed(error.errors(include_url=False))}
        reasons = [f"{path}: {_reason(problem)}" for problem in reversed(first.values())]
        raise RecommendationError("\n".join(reasons), REPAIR_HINT) from None
    except ValueError as error:
        raise RecommendationError(f"{path}: is not valid JSON: {error}", REPAIR_HINT) from None
    except OSError as error:
        raise RecommendationError(f"{path}: cannot be read: {error.strerror}", REPAIR_HINT) from None


def check_recommended(settings: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Check the settings that a checkpoint recommends and convert them to their types.

    A checkpoint may recommend settings of pictures and answers, but not of devices and files.

    Args:
        place: the start of error messages.

    Raises:
        SettingsError: a setting is unknown, has a wrong value, or may not be recommended.
    """
    notation = json_notation(lambda name: f"{place}: ")
    return check_values(settings, notation, (*ImageSettings.model_fields, *TextSettings.model_fields))


def _reason(problem: Any) -> str:
    """Describe a problem that pydantic found: the key, and plainer words if we have some."""
    place = ".".join(map(str, problem["loc"])) or "the file"
    match problem["type"]:
        case "extra_forbidden":
            fields = (Recommended, PixelRange, InterleaveRecommended, World)
            meant = near_miss(place.split(".")[-1], [name for each in fields for name in each.model_fields])
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
