"""The frontend of one-shot commands: progress on stderr, results on stdout."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from config.settings import OutputSettings
from config.sources import Layers
from model import PROGRAM, Card, Picture, process_timings
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.outputs.answer_page import check_page
from sensenova_cli.outputs.picture_names import ANSWER_NAME, PictureForm
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.render.dry_run import PlannedRun
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.system.interrupts import SignalStop, finish
from sensenova_cli.system.process_start import seconds_since_start
from sensenova_cli.turns.answer_parts import AnswerParts
from sensenova_cli.turns.batch import Batch
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.desktop_actions import CopyAnswerSink, DesktopActions
from sensenova_cli.turns.drawn_seed import tell_drawn_seed
from sensenova_cli.turns.dry_run import DryRun, plan_answer, plan_interleaved, plan_pictures
from sensenova_cli.turns.event_sink import EventSink
from sensenova_cli.turns.interleave_sinks import (
    InterleaveJsonSink,
    InterleaveSink,
    MarkdownSink,
    PageSink,
    PathSink,
    WrittenPicture,
)
from sensenova_cli.turns.log_sink import logged
from sensenova_cli.turns.measurements import MeasuringSink
from sensenova_cli.turns.model_source import ModelOnDemand
from sensenova_cli.turns.one_shot_sinks import AnswerJsonSink, PictureFileSink, json_report, print_path
from sensenova_cli.turns.run_turn import Course, Frontend, Sink, run_turns
from sensenova_cli.turns.tasks import AnswerTask, InterleaveTask, PictureTask

if TYPE_CHECKING:
    from sensenova_cli.turns.run_sheets import RunSheet


@dataclass(frozen=True)
class NameTemplate:
    """Names for picture files, used instead of the setting `output`.

    Attributes:
        template: a file name with the field `{index}`.
        first_index: number of the first picture.
    """

    template: str
    first_index: int


def make_pictures(
    tasks: Sequence[PictureTask],
    layers: Layers,
    flags: Flags,
    names: NameTemplate | None = None,
    sheet: "RunSheet | None" = None,
) -> None:
    """Make the pictures of all tasks, and print the path of each on stdout, or JSON; errors as for `run_turns`.

    Args:
        names: names of the files, if the setting `output` does not name them.
        sheet: a sheet of all pictures of the run.
    """
    process_timings.add(PROGRAM, seconds_since_start())
    output = layers.output
    _require_one_use_of_stdout(output, flags, names)
    prints_json = flags.json or flags.events
    is_sheet = sheet is not None and sheet.is_result
    view = TurnView(
        quiet=flags.quiet,
        show_think=not (output.hide_think or output.print_think),
        print_think=output.print_think and not prints_json,
        preview="off" if prints_json else output.preview,
        cache_summary=output.enable_cache_dit_summary,
        notify=output.notify,
        with_pictures=not is_sheet,
    )
    if sheet is not None:
        sheet.prepare(view.notice, writes=not flags.dry_run)
    tell_drawn_seed(view, flags)
    source = ModelOnDemand(layers.load)
    desktop = DesktopActions(flags, output.output if names is None else None)
    batch = Batch(flags, output, source, view)

    first_index = names.first_index if names else 0

    def open_writer(*, writes: bool) -> PictureWriter:
        return PictureWriter.prepare(
            names.template if names else output.output,
            force=flags.force,
            stdout_is_terminal=sys.stdout.isatty(),
            count=batch.count,
            existing=batch.existing,
            form=PictureForm.of(output, flags.settings),
            note=view.notice,
            writes=writes,
        )

    def plan(turns: Sequence[Turn], card: Card) -> PlannedRun:
        counts = {"count": batch.count, "existing": len(batch.existing)}
        planned = plan_pictures(
            tasks[0].kind, turns, card, source, open_writer(writes=False), first_index=first_index, **counts
        )
        return planned if sheet is None else replace(planned, sheet=sheet.path)

    def open_sinks(turns: Sequence[Turn]) -> list[Sink]:
        desktop.require_possible(1 if is_sheet else batch.count)
        writer = open_writer(writes=True)
        report = json_report(source, timings=flags.timings) if flags.json else print_path

        def count_and_report(picture: Picture, path: Path | None, turn: Turn, seconds: float) -> None:
            batch.done += 1
            if path is not None and not is_sheet:
                desktop.files.append(path)
            if sheet is not None:
                sheet.add(turn.first_index + picture.index, picture.image, path)
            if not flags.events:
                report(picture, path, turn, seconds)

        pictures = PictureFileSink(writer, source, batch.count, first_index, count_and_report)
        sinks: list[Sink] = [pictures, EventSink(pictures, turns)] if flags.events else [pictures]
        return [*sinks, MeasuringSink(source)] if output.log else sinks

    course = _course(batch, plan, view, flags)
    frontend = Frontend(view, logged(open_sinks, layers, source, view), SignalStop(), course)
    try:
        run_turns(tasks, layers, source, frontend)
    except KeyboardInterrupt:
        batch.show_way_on()
        raise
    finally:
        batch.close()
    if flags.dry_run:
        return
    if sheet is not None:
        written = sheet.finish(batch.counts, batch.existing)
        desktop.files += [written] if is_sheet else []
    finish()
    desktop.run(view)
    _show_timings(view, flags)


def answer(task: AnswerTask, layers: Layers, flags: Flags) -> None:
    """Answer one question in text on stdout, or JSON; errors as for `run_turns`."""
    process_timings.add(PROGRAM, seconds_since_start())
    view = TurnView(quiet=flags.quiet, stream_answers=not (flags.json or flags.events), notify=layers.output.notify)
    tell_drawn_seed(view, flags)
    source = ModelOnDemand(layers.load)
    sinks: list[Sink] = [AnswerJsonSink(source, timings=flags.timings)] if flags.json else []
    if flags.events:
        sinks = [EventSink(None)]
    if flags.copy:
        sinks.append(CopyAnswerSink(view))
    open_sinks = logged(lambda turns: sinks, layers, source, view)
    course = _course(Course(), lambda turns, card: plan_answer(turns[0], source), view, flags)
    run_turns([task], layers, source, Frontend(view, open_sinks, SignalStop(), course))
    finish()
    _show_timings(view, flags)


def interleave(task: InterleaveTask, layers: Layers, flags: Flags, page: Path | None) -> None:
    """Answer in text and pictures: as a Markdown document on stdout, or JSON. On a screen, show the text as it comes,
    and the paths of the pictures; errors as for `run_turns`.

    Args:
        page: file to write the answer to as an HTML page, too. `--open` shows it instead of the pictures.
    """
    process_timings.add(PROGRAM, seconds_since_start())
    output = layers.output
    if output.output == "-":
        raise UsageError("-o - would mix the pictures with the text on stdout", "name a folder: -o pictures/")
    if page is not None:
        check_page(page, force=flags.force)
    prints_json = flags.json or flags.events
    on_screen = sys.stdout.isatty() and not prints_json
    view = TurnView(
        quiet=flags.quiet,
        stream_answers=on_screen,
        show_think=not (output.hide_think or output.print_think),
        print_think=output.print_think and on_screen,
        preview="off" if prints_json else output.preview,
        cache_summary=output.enable_cache_dit_summary,
        notify=output.notify,
    )
    tell_drawn_seed(view, flags)
    desktop = DesktopActions(replace(flags, copy=False), output.output)  # --copy is for the text of the answer
    copying = [CopyAnswerSink(view)] if flags.copy else []
    source = ModelOnDemand(layers.load)
    answer: AnswerParts[WrittenPicture] = AnswerParts()

    def open_writer(turn: Turn, *, writes: bool) -> PictureWriter:
        return PictureWriter.prepare(
            output.output,
            force=flags.force,
            stdout_is_terminal=sys.stdout.isatty(),
            count=turn.settings.max_images,
            default=ANSWER_NAME,
            form=PictureForm.of(output, flags.settings),
            note=view.notice,
            writes=writes,
        )

    def plan(turns: Sequence[Turn], card: Card) -> PlannedRun:
        return plan_interleaved(turns[0], card, source, open_writer(turns[0], writes=False))

    def open_sinks(turns: Sequence[Turn]) -> list[Sink]:
        writer = open_writer(turns[0], writes=True)
        pictures = InterleaveSink(writer, source, answer)
        result: Sink = PathSink(answer)
        if flags.events:
            result = EventSink(pictures)
        elif flags.json:
            result = InterleaveJsonSink(answer, source, timings=flags.timings)
        elif not on_screen:
            result = MarkdownSink(answer, with_thinking=output.print_think)
        pages = [PageSink(answer, page, force=flags.force)] if page is not None else []
        return [pictures, result, *pages, *copying]

    course = _course(Course(), plan, view, flags)
    run_turns([task], layers, source, Frontend(view, logged(open_sinks, layers, source, view), SignalStop(), course))
    if flags.dry_run:
        return
    if task.replay is not None and task.replay.record.index >= len(answer.pictures):
        view.notice(
            f"the answer ended before picture {task.replay.record.index + 1}, so {task.replay.file} is not in it"
        )
    desktop.files += [page] if page is not None else [picture.path for picture in answer.pictures]
    desktop.run(view)
    _show_timings(view, flags)


def _course(course: Course, plan: Callable[[Sequence[Turn], Card], PlannedRun], view: TurnView, flags: Flags) -> Course:
    """Return a course; with `--dry-run` one that prints the plan instead of running it."""
    return DryRun(course, plan, view, as_json=flags.json) if flags.dry_run else course


def _show_timings(view: TurnView, flags: Flags) -> None:
    """Print the phases of the run, unless its results contain them."""
    if flags.timings and not flags.json:
        view.timings(process_timings.phases())


def _require_one_use_of_stdout(output: OutputSettings, flags: Flags, names: NameTemplate | None) -> None:
    if names is None and output.output == "-":
        if flags.json or flags.events:
            option = "--json" if flags.json else "--events"
            raise UsageError(f"-o - and {option} both write to stdout", "write the picture to a file")
        if output.print_think:
            raise UsageError("-o - and --print-think both write to stdout", "write the picture to a file")
