"""Sinks of one-shot commands: picture files, and JSON lines on stdout."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from model import Answer, AnswerRequest, Event, Picture, process_timings
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.render.json import answer_result, picture_result, print_json
from sensenova_cli.system.unicode import for_terminal
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.model_source import ModelSource, model_name
from sensenova_cli.turns.record import picture_record
from sensenova_cli.turns.run_turn import Sink
from sensenova_cli.turns.tasks import AnswerTask, PictureTask

Report = Callable[[Picture, Path | None, Turn, float], None]
"""Called with each written picture, its file (None for stdout), its turn, and the seconds since the picture before."""


class PictureFileSink(Sink):
    """Writes each finished picture to a file and reports the file.

    Args:
        source: the model; its load settings are for the pictures' records.
        count: number of pictures that all turns make together.
        first_index: number of the run's first picture in file names.
    """

    def __init__(
        self, writer: PictureWriter, source: ModelSource, count: int, first_index: int, report: Report
    ) -> None:
        self._writer = writer
        self._source = source
        self._count = count
        self._first_index = first_index
        self._report = report
        self._last_time = 0.0
        self._files: list[Path] = []

    @property
    def files(self) -> Sequence[Path]:
        """The picture files of the running turn."""
        return self._files

    def begin(self, turn: Turn) -> None:
        """Begin a turn, and start to measure the time of its first picture."""
        super().begin(turn)
        self._files = []
        self._last_time = self.started

    def take(self, event: Event) -> None:
        """Write a finished picture."""
        if not isinstance(event, Picture):
            return
        path = self._writer.write(
            event.image,
            prompt=self.turn.name,
            seed=event.settings.seed,
            index=self._first_index + self.turn.first_index + event.index,
            count=self._count,
            record=picture_record(event, self.turn, self._source.loaded),
        )
        if path is not None:
            self._files.append(path)
        now = time.perf_counter()
        seconds, self._last_time = now - self._last_time, now
        self._report(event, path, self.turn, seconds)


def print_path(picture: Picture, path: Path | None, turn: Turn, seconds: float) -> None:
    """Print the path of a picture file as a line on stdout."""
    if path is not None:
        print(for_terminal(path), flush=True)


def json_report(source: ModelSource, *, timings: bool) -> Report:
    """Return a report that prints each picture file as a JSON line on stdout.

    Args:
        timings: add the seconds of each phase of the run so far.
    """

    def report(picture: Picture, path: Path | None, turn: Turn, seconds: float) -> None:
        if path is not None:
            print_json(
                picture_result(
                    picture,
                    path=path,
                    task=turn.task.kind,
                    prompt=turn.prompt,
                    model=model_name(source.loaded),
                    seconds=seconds,
                    timings=process_timings.phases() if timings else None,
                    original_prompt=turn.task.original_prompt if isinstance(turn.task, PictureTask) else None,
                )
            )

    return report


class AnswerJsonSink(Sink):
    """Prints each answer as a JSON line on stdout."""

    def __init__(self, source: ModelSource, *, timings: bool) -> None:
        """
        Args:
            timings: add the seconds of each phase of the run.
        """
        self._source = source
        self._timings = timings

    def take(self, event: Event) -> None:
        """Print a finished answer."""
        if isinstance(event, Answer):
            task, request = self.turn.task, self.turn.request
            assert isinstance(request, AnswerRequest) and isinstance(task, AnswerTask)
            seconds = time.perf_counter() - self.started
            print_json(
                answer_result(
                    event,
                    task=task.kind,
                    request=request,
                    images=task.image_files,
                    model=model_name(self._source.loaded),
                    seconds=seconds,
                    timings=process_timings.phases() if self._timings else None,
                )
            )
