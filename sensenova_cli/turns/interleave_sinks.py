"""Sinks of the command `interleave`: picture files, and the answer as a document, as JSON or as a page."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model import Event, InterleaveRequest, Picture, TextPart, TextToken, ThinkToken, process_timings
from sensenova_cli.outputs.answer_page import write_page
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.render.json import interleaved_result, print_json
from sensenova_cli.render.markdown_document import MarkdownDocument
from sensenova_cli.system.unicode import for_terminal
from sensenova_cli.turns.answer_parts import AnswerParts
from sensenova_cli.turns.model_source import ModelSource, model_name
from sensenova_cli.turns.record import picture_record
from sensenova_cli.turns.run_turn import Outcome, Sink


@dataclass(frozen=True)
class WrittenPicture:
    """A picture of an answer in its file.

    Attributes:
        index: number in the answer, from 0.
        size: such as `2048x1152`.
    """

    path: Path
    index: int
    seed: int
    size: str


class InterleaveSink(Sink):
    """Writes each picture to a file, and collects the answer for the sinks below.

    Args:
        source: the model; its load settings are for the pictures' records.
        answer: collects the answer.
    """

    def __init__(self, writer: PictureWriter, source: ModelSource, answer: AnswerParts[WrittenPicture]) -> None:
        self._writer = writer
        self._source = source
        self._answer = answer

    @property
    def files(self) -> Sequence[Path]:
        """The picture files of the answer."""
        return [picture.path for picture in self._answer.pictures]

    def take(self, event: Event) -> None:
        """Write a picture, or collect text."""
        if not isinstance(event, Picture):
            self._answer.take(event)
            return
        path = self._writer.write(
            event.image,
            prompt=self.turn.prompt,
            seed=event.settings.seed,
            index=event.index,
            count=event.count,
            record=picture_record(event, self.turn, self._source.loaded),
        )
        assert path is not None  # the pictures never go to stdout
        self._answer.add_picture(WrittenPicture(path, event.index, event.settings.seed, event.settings.size))


class _AnswerSink(Sink):
    """A sink that shows the answer which an `InterleaveSink` collects. It comes after that one."""

    def __init__(self, answer: AnswerParts[WrittenPicture]) -> None:
        self._answer = answer


class PathSink(_AnswerSink):
    """Prints the path of each picture on a screen, below the text that the view shows."""

    def take(self, event: Event) -> None:
        """Print the path of a picture."""
        if isinstance(event, Picture):
            print(for_terminal(self._answer.pictures[-1].path), flush=True)


class MarkdownSink(_AnswerSink):
    """Prints the answer as a Markdown document: text, and links to the pictures.

    Args:
        with_thinking: include the thinking.
    """

    def __init__(self, answer: AnswerParts[WrittenPicture], *, with_thinking: bool) -> None:
        super().__init__(answer)
        self._with_thinking = with_thinking
        self._document = MarkdownDocument()
        self._was_thinking = False

    def take(self, event: Event) -> None:
        """Print text and links."""
        match event:
            case ThinkToken() if self._with_thinking:
                self._add(event.text, thinking=True)
            case TextToken():
                self._add(event.text, thinking=False)
            case Picture():
                self._document.add_picture(event.index + 1, self._answer.pictures[-1].path)

    def end(self, outcome: Outcome) -> None:
        """Print the rest of the text."""
        self._document.end_text()

    def _add(self, text: str, *, thinking: bool) -> None:
        if thinking != self._was_thinking:
            self._document.end_text()
        self._was_thinking = thinking
        self._document.add(text)


class InterleaveJsonSink(_AnswerSink):
    """Prints the answer as one JSON object, also an interrupted one that has begun.

    Args:
        source: the model.
        timings: add the seconds of each phase of the run.
    """

    def __init__(self, answer: AnswerParts[WrittenPicture], source: ModelSource, *, timings: bool) -> None:
        super().__init__(answer)
        self._source = source
        self._timings = timings

    def end(self, outcome: Outcome) -> None:
        """Print the object."""
        request = self.turn.request
        assert isinstance(request, InterleaveRequest)
        if self._answer.parts or outcome.status == "done":
            print_json(
                interleaved_result(
                    [_part_json(part) for part in self._answer.parts],
                    self._answer.finish,
                    request=request,
                    model=model_name(self._source.loaded),
                    seconds=time.perf_counter() - self.started,
                    timings=process_timings.phases() if self._timings else None,
                )
            )


class PageSink(_AnswerSink):
    """Writes the answer as an HTML page when it ends, also an interrupted one that has begun.

    Args:
        target: the file.
        force: replace an existing file.
    """

    def __init__(self, answer: AnswerParts[WrittenPicture], target: Path, *, force: bool) -> None:
        super().__init__(answer)
        self._target = target
        self._force = force

    def end(self, outcome: Outcome) -> None:
        """Write the page."""
        if self._answer.parts or outcome.status == "done":
            write_page(
                self._target,
                self.turn.prompt,
                [part if isinstance(part, TextPart) else part.path for part in self._answer.parts],
                problem="" if outcome.status == "done" else f"{outcome.status}: {outcome.reason}",
                force=self._force,
            )


def _part_json(part: TextPart | WrittenPicture) -> dict[str, object]:
    if isinstance(part, TextPart):
        return {"text": part.text, "token_ids": list(part.token_ids), "thinking": part.thinking}
    return {"path": str(part.path), "seed": part.seed, "size": part.size}
