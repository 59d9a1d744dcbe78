"""Draws the pictures of a verification, saves them, and compares them. The turns are those of every other command."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from config.settings import LoadSettings, OutputSettings, Settings
from model import Checks, Picture, PictureCheck, PictureComparison, compare_picture
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.pictures import InputImage, read_inputs
from sensenova_cli.inputs.prompts import Prompt
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.render.progress import ProgressView
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.system.interrupts import SignalStop
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.model_source import ModelOnDemand
from sensenova_cli.turns.one_shot_sinks import PictureFileSink
from sensenova_cli.turns.run_turn import run_turn
from sensenova_cli.turns.tasks import PictureTask

NAMES = "verify-{slug}-{seed}.png"


@dataclass(frozen=True)
class PictureFinding:
    """The result of one picture.

    Attributes:
        detail: why it was skipped; empty otherwise.
        path: the file that the picture was saved in.
        comparison: None if it was skipped.
    """

    check: PictureCheck
    status: Literal["passed", "failed", "skipped"]
    tolerance: int
    detail: str = ""
    path: Path | None = None
    comparison: PictureComparison | None = None


def verify_pictures(
    checks: Checks,
    settings: LoadSettings,
    output: OutputSettings,
    flags: Flags,
    supplied: InputImage | None,
    view: TurnView,
) -> Iterator[PictureFinding]:
    """Draw the pictures of all checks with one loaded model, and yield a finding for each.

    Args:
        settings: the settings to load the model with.
        supplied: the user's picture for checks that need one; without it these checks are skipped.

    Raises:
        SenseNovaError: of any kind, as for `run_turns`.
        KeyboardInterrupt: a stop was requested.
    """
    skipped = _skipped(checks, supplied)
    drawn = [check for check in checks.pictures if check.name not in skipped]
    template = output.output if "output" in flags.settings else None
    writer = PictureWriter.prepare(
        _in_folder(template) if template is not None else NAMES,
        force=flags.force,
        stdout_is_terminal=sys.stdout.isatty(),
        count=len(drawn),
    )
    # Memory is reserved for these sizes. Inputs that are not drawn yet are blank here.
    requests = [check.request(supplied.image if supplied else Image.new("RGB", check.size)) for check in drawn]
    source = ModelOnDemand(settings)
    engine = source.open(requests, view) if drawn else None
    results: dict[str, tuple[Picture, Path]] = {}
    for check in checks.pictures:
        tolerance = check.tolerance_for(source.loaded.dtype, checks.dtype)
        if check.name in skipped:
            yield PictureFinding(check, "skipped", tolerance, skipped[check.name])
            continue
        turn = _turn(check, _inputs(check, supplied, results), settings, output)

        def keep(picture: Picture, path: Path | None, turn: Turn, seconds: float, name: str = check.name) -> None:
            assert path is not None  # a file template never means stdout
            results[name] = picture, path

        assert engine is not None
        sink = PictureFileSink(writer, source, len(drawn), len(results), keep)
        run_turn(engine, turn, view, [sink], SignalStop())
        picture, path = results[check.name]
        comparison = compare_picture(check, picture.image, tolerance)
        yield PictureFinding(
            check, "passed" if comparison.passed else "failed", tolerance, path=path, comparison=comparison
        )


def _in_folder(template: str) -> str:
    """Return the template of file names for an -o value: a folder gets the usual names."""
    if template.endswith("/") or Path(template).expanduser().is_dir():
        return str(Path(template.replace("{", "{{").replace("}", "}}")) / NAMES)
    return template


def _skipped(checks: Checks, supplied: InputImage | None) -> dict[str, str]:
    """Return the checks that cannot be drawn, by name, with the reason."""
    skipped: dict[str, str] = {}
    for check in checks.pictures:
        if check.edits_file is not None and supplied is None:
            skipped[check.name] = f"needs the picture {check.edits_file}: add --edit-image FILE"
        elif check.edits in skipped:
            skipped[check.name] = f"edits the picture {check.edits!r}, which is skipped"
    return skipped


def _inputs(
    check: PictureCheck, supplied: InputImage | None, results: dict[str, tuple[Picture, Path]]
) -> tuple[InputImage, ...]:
    if check.edits is not None:
        return read_inputs([str(results[check.edits][1])])
    if check.edits_file is not None:
        assert supplied is not None
        return (supplied,)
    return ()


def _turn(check: PictureCheck, inputs: tuple[InputImage, ...], settings: LoadSettings, output: OutputSettings) -> Turn:
    """Return the turn of a check. Its settings are the check's own; no layer of the user's settings changes them."""
    task = PictureTask("edit" if check.is_edit else "generate", Prompt(check.prompt), inputs)
    request = check.request(inputs[0].image if inputs else None)
    merged = Settings.model_validate(
        {**request.settings.model_dump(), **settings.model_dump(), "metadata": output.metadata}
    )
    return Turn(task, merged, dict.fromkeys(Settings.model_fields, "verification"), request)


class ReadingProgress:
    """Progress bars of work on files, one at a time."""

    def __init__(self, view: TurnView, verb: str = "checking ") -> None:
        self._view = view
        self._verb = verb
        self._name = ""
        self._shown = ExitStack()
        self._bar: ProgressView | None = None

    def show(self, name: str, done: int, total: int) -> None:
        """Advance the bar of a check; another check begins a new bar."""
        if name != self._name:
            self.close()
            self._name = name
            self._bar = self._shown.enter_context(self._view.bytes_progress(f"{self._verb}{name}"))
        if total and self._bar is not None:
            self._bar.update(done, total)

    def close(self) -> None:
        """Remove the bar."""
        self._name = ""
        self._bar = None
        self._shown.close()
