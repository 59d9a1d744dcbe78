"""`--from FILE`: make a picture again from the record in its file."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from config.settings import RECORDED_LOAD_SETTINGS, LoadSettings
from config.sources import Layers
from model import DEMO_MODEL, NO_LORA, format_loras, parse_loras
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.outputs.picture_files import read_parameters, read_record
from sensenova_cli.outputs.picture_record import PictureRecord, recorded_model, recorded_weights

PictureKind = Literal["generate", "edit"]

NO_WEIGHTS = "off"
"""Value of the setting `weights` for the model's own weights."""
MAX_SHOWN = 200
"""Longest name of a record in a message, in characters."""


@dataclass(frozen=True)
class Replay:
    """A picture to make again, with its record."""

    file: Path
    record: PictureRecord

    @property
    def label(self) -> str:
        """The name of this layer of settings, for messages."""
        return f"picture {self.file}"

    @property
    def warning(self) -> str | None:
        """A note for the user before the picture is made again; None without one."""
        if not self.record.made_by:
            return None
        return f"{self.file} was made by {self.record.made_by}, so it cannot be repeated byte for byte"

    def layers(self, flags: Flags) -> Layers:
        """Merge all settings, with those of the picture below the flags.

        A stranger may have written the record. So it does not choose the model, its weights or the LoRAs, whose files
        would be fetched and loaded, unless the user types `--trust-record`. The built-in demo, "no weights" and
        "no LoRA" fetch nothing, so they are used as recorded.

        Raises:
            UsageError: model or LoRAs of the record are not those of the user's settings, and no flag chooses them.
            SettingsError: as for `Flags.layers`.
        """
        loaded, answer = self.record.loaded, self.record.answer
        # An interleaved answer is repeated from its beginning, with its seed.
        recorded = {**self.record.settings.model_dump(), **(answer.settings.model_dump() if answer else {})}
        if not self.record.made_by:  # how that program loads its model is not known
            recorded |= {name: getattr(loaded, name) for name in RECORDED_LOAD_SETTINGS}
            recorded["lora"] = loaded.lora or NO_LORA
            recorded["weights"] = loaded.weights or NO_WEIGHTS
        if flags.trust_record:
            return flags.layers({**recorded, "model": loaded.model}, self.label)
        if loaded.model != DEMO_MODEL:
            recorded.pop("model", None)
        if loaded.lora is not None:
            recorded.pop("lora", None)
        if loaded.weights is not None:
            recorded.pop("weights", None)
        layers = flags.layers(recorded, self.label)
        self._require_users_model(layers, flags)
        return layers

    def _require_users_model(self, layers: Layers, flags: Flags) -> None:
        own, made = layers.load, self.record.loaded
        if own.is_remote:  # the server has loaded its model already; a notice names the differences
            return
        # The record's names are compared as text, because a path that is looked up shows whether it exists.
        own_model, made_model = recorded_model(own.model or DEMO_MODEL), made.model or DEMO_MODEL
        differences, options = [], []
        if "model" not in flags.settings and made_model not in (DEMO_MODEL, own_model):
            differences.append(f"the model {_shortened(made_model)} (yours is {own_model})")
            options.append(f"--model {shlex.quote(_shortened(made_model))}")
        own_weights = recorded_weights(own.weights_file)
        if "weights" not in flags.settings and made.weights is not None and made.weights != own_weights:
            differences.append(f"the weights {_shortened(made.weights)} (yours: {own_weights or 'those of the model'})")
            options.append(f"--weights {shlex.quote(_shortened(made.weights))}")
        if "lora" not in flags.settings and made.lora is not None and made.lora != _loras(own):
            differences.append(f"the LoRA {_shortened(made.lora)} (yours: {_loras(own) or 'none'})")
            options.append(f"--lora {shlex.quote(_shortened(made.lora))}")
        if differences:
            raise UsageError(
                f"{self.file} was made with {' and '.join(differences)}",
                f"if you trust the picture: --trust-record, or {' '.join(options)}; "
                f"to use your own: {' and '.join(option.split()[0] for option in options)} with its name",
            )


def _loras(settings: LoadSettings) -> str | None:
    return format_loras(parse_loras(settings.lora))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def read_replay(file: str, kind: PictureKind | Literal["interleave"]) -> Replay:
    """Read the record of a picture.

    Args:
        file: the file of a picture.
        kind: the command that must have made the picture.

    Raises:
        PictureError: the file is missing or not a picture, or its record is damaged.
        UsageError: the picture has no record, or another command made it.
    """
    path = Path(file).expanduser()
    record = read_record(path, file)
    if record is None and read_parameters(path, file) is not None:
        raise UsageError(
            f"{file} has no record of how it was made, only the text of another program, and cannot be repeated",
            f"see the text: sensenova info {file}",
        )
    if record is None:
        raise UsageError(
            f"{file} has no record of how it was made", "only files that sensenova wrote with metadata have one"
        )
    if record.task != kind:
        hint = f"to make it again: sensenova {record.task} --from {file}"
        if kind == "edit":
            hint += f'; to change it: sensenova edit {file} "…"'
        raise UsageError(f"{file} was made by `{record.task}`", hint)
    return Replay(Path(file), record)
