"""Sinks of one-shot commands: picture files with their paths on stdout, and JSON lines."""

import time
from collections.abc import Callable
from pathlib import Path

from config.settings import LoadSettings
from model import Answer, AnswerRequest, Event, Picture
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.outputs.png_metadata import PictureRecord
from sensenova_cli.render.json import answer_result, picture_result, print_json
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.model_source import model_name
from sensenova_cli.turns.record import picture_record
from sensenova_cli.turns.run_turn import Outcome


class PictureFileSink:
    """Writes each finished picture to its place, and reports the file.

    Args:
        loaded: the settings that the model is loaded with, for the pictures' records.
        count: how many pictures all turns make.
        first_index: the number of the first one in file names.
        report: called with each picture, its file (None for stdout), its turn, and the seconds since the one before.
    """

    def __init__(
        self,
        output: PictureWriter,
        loaded: LoadSettings,
        count: int,
        first_index: int,
        report: Callable[[Picture, Path | None, Turn, float], None],
    ) -> None:
        self._output = output
        self._loaded = loaded
        self._count = count
        self._index = first_index
        self._report = report
        self._turn: Turn | None = None
        self._since = 0.0

    def begin(self, turn: Turn) -> None:
        """As `Sink.begin`."""
        self._turn = turn
        self._since = time.perf_counter()

    def take(self, event: Event) -> None:
        """Write a finished picture."""
        if isinstance(event, Picture):
            assert self._turn is not None
            self._write(event, self._turn)

    def end(self, outcome: Outcome) -> None:
        """Nothing is left to be done: each picture was written when it was finished."""

    def _write(self, picture: Picture, turn: Turn) -> None:
        path = self._output.write(
            picture.image,
            prompt=turn.prompt,
            seed=picture.settings.seed,
            index=self._index,
            count=self._count,
            record=optional_record(picture, turn, self._loaded),
        )
        self._index += 1
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self._report(picture, path, turn, seconds)


def optional_record(picture: Picture, turn: Turn, loaded: LoadSettings) -> PictureRecord | None:
    """A picture's record, or None where the setting `metadata` is off."""
    return picture_record(picture, turn, loaded) if turn.settings.metadata else None


def print_path(picture: Picture, path: Path | None, turn: Turn, seconds: float) -> None:
    """Report a picture file as a line on stdout."""
    if path is not None:
        print(path, flush=True)


def print_picture_json(loaded: LoadSettings) -> Callable[[Picture, Path | None, Turn, float], None]:
    """Reports a picture file as a JSON line on stdout."""

    def report(picture: Picture, path: Path | None, turn: Turn, seconds: float) -> None:
        if path is not None:
            print_json(
                picture_result(
                    picture,
                    path=path,
                    task=turn.task.kind,
                    prompt=turn.prompt,
                    model=model_name(loaded),
                    seconds=seconds,
                )
            )

    return report


class AnswerJsonSink:
    """Prints each answer as a JSON line on stdout."""

    def __init__(self, loaded: LoadSettings) -> None:
        self._loaded = loaded
        self._turn: Turn | None = None
        self._since = 0.0

    def begin(self, turn: Turn) -> None:
        """As `Sink.begin`."""
        self._turn = turn
        self._since = time.perf_counter()

    def take(self, event: Event) -> None:
        """Print a finished answer."""
        if isinstance(event, Answer):
            assert self._turn is not None and isinstance(self._turn.request, AnswerRequest)
            seconds = time.perf_counter() - self._since
            task, request = self._turn.task.kind, self._turn.request
            print_json(
                answer_result(event, task=task, request=request, model=model_name(self._loaded), seconds=seconds)
            )

    def end(self, outcome: Outcome) -> None:
        """Nothing is left to be done."""
