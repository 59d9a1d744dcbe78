"""`--from FILE`: make a picture again from the record in its file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from config.settings import RECORDED_LOAD_SETTINGS
from model import NO_LORA
from sensenova_cli.errors import UsageError
from sensenova_cli.outputs.png_metadata import PictureRecord, read_parameters, read_record

PictureKind = Literal["generate", "edit"]


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

    @property
    def settings(self) -> dict[str, Any]:
        """The recorded settings, as a layer. An interleaved answer is repeated from its beginning, with its seed."""
        loaded, answer = self.record.loaded, self.record.answer
        settings = {**self.record.settings.model_dump(), **(answer.settings.model_dump() if answer else {})}
        if self.record.made_by:  # how that program loads its model is not known
            return {**settings, "model": loaded.model}
        recorded = {name: getattr(loaded, name) for name in RECORDED_LOAD_SETTINGS}
        return {**settings, **recorded, "lora": loaded.lora or NO_LORA}


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
            f"{file} has no record of how it was made", "only PNG files that sensenova wrote with metadata have one"
        )
    if record.task != kind:
        hint = f"to make it again: sensenova {record.task} --from {file}"
        if kind == "edit":
            hint += f'; to change it: sensenova edit {file} "…"'
        raise UsageError(f"{file} was made by `{record.task}`", hint)
    return Replay(Path(file), record)
