"""Differences between pictures' records: the settings, prompts and models that made them."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from sensenova_cli.outputs.picture_record import PictureRecord

NOT_SETTINGS = ("settings", "inputs", "answer", "think_text", "version")
"""Entries of a record that are not shown as they are: they are spread, or follow from the others."""


def recorded_values(record: PictureRecord) -> dict[str, Any]:
    """Return what made a picture, by name: its command, prompt, model and settings, and its input pictures."""
    content = record.model_dump(mode="json")
    values = {name: value for name, value in content.items() if name not in NOT_SETTINGS}
    values |= content["settings"]
    if record.inputs:
        values["inputs"] = [each.sha256 for each in record.inputs]
    if record.answer is not None:
        values["answer"] = content["answer"]
    return values


def differing_values(records: Sequence[PictureRecord]) -> dict[str, list[Any]]:
    """Return the names whose values are not the same in all records, with the value of each record; None for none."""
    values = [recorded_values(record) for record in records]
    names = dict.fromkeys(name for each in values for name in each)
    columns = {name: [each.get(name) for each in values] for name in names}
    return {name: column for name, column in columns.items() if any(value != column[0] for value in column)}


def shown_value(name: str, value: Any, record: PictureRecord) -> str:
    """Return a value for people: the names of files instead of their checksums and folders."""
    if name == "inputs":
        return ", ".join(PurePath(each.path).name for each in record.inputs) or "none"
    if name == "answer":
        return "none" if record.answer is None else f"picture {record.index + 1} of its answer"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    if name in ("model", "weights") and PurePath(str(value)).is_absolute():
        return PurePath(str(value)).name or str(value)
    return str(value)
