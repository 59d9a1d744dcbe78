"""`--from FILE`: make a picture again from what it says about itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from config.settings import RECORDED_LOAD_SETTINGS
from model import NO_LORA
from sensenova_cli.errors import UsageError
from sensenova_cli.outputs.png_metadata import PictureRecord, read_record

PictureKind = Literal["generate", "edit"]


@dataclass(frozen=True)
class Replay:
    """A picture that is made again."""

    file: Path
    record: PictureRecord

    @property
    def label(self) -> str:
        """How settings name the picture as the layer they come from."""
        return f"picture {self.file}"

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings as a layer."""
        loaded = self.record.loaded
        recorded = {name: getattr(loaded, name) for name in RECORDED_LOAD_SETTINGS}
        return {**self.record.settings.model_dump(), **recorded, "lora": loaded.lora or NO_LORA}


def read_replay(file: str, kind: PictureKind) -> Replay:
    """Read how a picture was made.

    Raises:
        PictureError: it is missing, no picture, or its record is damaged.
        UsageError: it says nothing about how it was made, or another command made it.
    """
    path = Path(file).expanduser()
    record = read_record(path, file)
    if record is None:
        raise UsageError(f"{file} does not say how it was made", "only PNG files made by sensenova with metadata do")
    if record.task != kind:
        hint = f"to make it again: sensenova {record.task} --from {file}"
        if kind == "edit":
            hint += f'; to change it: sensenova edit --image {file} "…"'
        raise UsageError(f"{file} was made by `{record.task}`", hint)
    return Replay(Path(file), record)
