"""`sensenova verify`: checks a checkpoint's files, and that it draws the pictures that it should draw."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensenova_cli.errors import FAILED, UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import COMMON_OPTIONS, FILES_ONLY, VERIFY_OPTIONS, with_options

if TYPE_CHECKING:
    from config.settings import LoadSettings
    from config.sources import Layers
    from model import Checks, FileFinding
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.turns.verify_pictures import PictureFinding


@with_options(*VERIFY_OPTIONS, *COMMON_OPTIONS, helps=FILES_ONLY)
def verify(
    flags: Flags,
    checkpoint: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Checkpoint folder or Hub id; the same as --model.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check only the files; draw no pictures.", metavar=" ")
    ] = False,
    edit_image: Annotated[
        str | None,
        typer.Option("--edit-image", help="Input picture of the published edit.", metavar="FILE", show_default=False),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            "--published",
            help="Compare with the published pictures of this model, for a copy in a folder.",
            metavar="HUB_ID",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a checkpoint's files, and compare pictures that it draws.

    Examples
      sensenova verify
      sensenova verify SenseNova/SenseNova-U1-8B-MoT --edit-image boardwalk.jpg
      sensenova verify ./SenseNova-U1-8B-MoT --published SenseNova/SenseNova-U1-8B-MoT
      sensenova verify --quick ./my-checkpoint

    Pictures are compared at a few pixels. They are those of verification.json
    beside the weights, or the published ones of the model; without either, only
    the files are checked. Each picture is saved as verify-….png, or as -o says.
    The exit code is 1 if a check fails.
    """
    from sensenova_cli.inputs.pictures import read_inputs
    from sensenova_cli.models.verified import note_verified
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.turns.model_source import find_weights, model_name

    flags = _with_checkpoint(flags, checkpoint)
    layers = flags.layers()
    if "output" in flags.settings and flags.settings["output"] == "-":
        raise UsageError("-o - and the results both write to stdout", "name a folder or a file with -o")
    view = TurnView(quiet=flags.quiet)
    supplied = None if edit_image is None else read_inputs([edit_image])[0]  # before a download and long checks
    folder = find_weights(layers.load, view)
    checks = _find_checks(model_name(layers.load), folder, published)
    settings = _load_settings(layers, checks, view)
    report = _Report(model_name(settings), folder, as_json=flags.json)
    report.files(_check_files(folder, checks, view))
    if quick:
        report.no_pictures("not drawn: --quick checks only the files")
    elif checks is None:
        report.no_pictures("none are known for this model, so only its files are checked")
    elif not report.can_draw:
        report.no_pictures("not drawn, because the files have failed")
    else:
        from sensenova_cli.turns.verify_pictures import verify_pictures

        report.pictures(checks, verify_pictures(checks, settings, layers.output, flags, supplied, view))
    report.end()
    if not report.passed:
        raise typer.Exit(FAILED)
    note_verified(folder)


def _with_checkpoint(flags: Flags, checkpoint: str | None) -> Flags:
    """Return the flags with the model that was typed as a bare word."""
    if checkpoint is None:
        return flags
    if flags.settings.get("model", checkpoint) != checkpoint:
        raise UsageError(
            f"{checkpoint} and --model {flags.settings['model']} contradict each other", "give one of them"
        )
    return replace(flags, settings={**flags.settings, "model": checkpoint})


def _find_checks(model: str, folder: Path, published: str | None) -> "Checks | None":
    from model import find_checks, published_checks, published_models

    if published is None:
        return find_checks(model, folder)
    checks = published_checks(published)
    if checks is None:
        raise UsageError(
            f"no pictures of {published} are published", f"use --published {' or '.join(published_models())}"
        )
    return checks


def _load_settings(layers: "Layers", checks: "Checks | None", view: "TurnView") -> "LoadSettings":
    """Return the settings to load the model with: the user's, without other weights, LoRAs and quantization."""
    from sensenova_cli.turns.model_source import model_name

    settings = layers.load
    ignored = [name for name in ("weights", "lora", "quantization") if getattr(settings, name) not in (None, "off")]
    for name in ignored:
        view.notice(f"`{name}` is ignored: the checkpoint itself is verified")
    changes: dict[str, object] = {"model": model_name(settings), "weights": None, "lora": None, "quantization": "off"}
    if checks is not None and checks.dtype is not None and "dtype" not in layers.values:
        changes["dtype"] = checks.dtype
    return settings.model_copy(update=changes)


def _check_files(folder: Path, checks: "Checks | None", view: "TurnView") -> "Iterator[FileFinding]":
    """Yield the findings about the files, with a progress bar for each check that reads them."""
    from model import check_files
    from sensenova_cli.turns.verify_pictures import ReadingProgress

    progress = ReadingProgress(view)
    try:
        configuration, checksums = (checks.configuration, checks.checksums) if checks else ({}, {})
        for finding in check_files(folder, configuration, checksums, progress.show):
            progress.close()
            yield finding
    finally:
        progress.close()


class _Report:
    """Prints each finding when it is known, or all of them as one JSON object."""

    def __init__(self, model: str, folder: Path, *, as_json: bool) -> None:
        self._model = model
        self._folder = folder
        self._as_json = as_json
        self._files: list[FileFinding] = []
        self._pictures: list[PictureFinding] = []
        self._source: str | None = None
        self._why_none: str | None = None

    @property
    def passed(self) -> bool:
        """Whether no check has failed so far."""
        statuses = [finding.status for finding in self._files] + [finding.status for finding in self._pictures]
        return "failed" not in statuses

    @property
    def can_draw(self) -> bool:
        """Whether the files are good enough to draw: a wrong checksum does not prevent it."""
        return all(finding.status != "failed" or finding.name == "checksums" for finding in self._files)

    def files(self, findings: "Iterator[FileFinding]") -> None:
        """Report the findings about the files."""
        from sensenova_cli.render.verify import print_file_finding

        for finding in findings:
            self._files.append(finding)
            if not self._as_json:
                print_file_finding(finding)

    def pictures(self, checks: "Checks", findings: "Iterator[PictureFinding]") -> None:
        """Report the findings about the pictures."""
        from sensenova_cli.render.verify import print_picture_finding, print_source

        self._source = checks.source
        if not self._as_json:
            print_source(checks)
        for finding in findings:
            self._pictures.append(finding)
            if not self._as_json:
                print_picture_finding(finding)

    def no_pictures(self, reason: str) -> None:
        """Report why no pictures are compared."""
        self._why_none = reason
        if not self._as_json:
            typer.echo(f"pictures: {reason}")

    def end(self) -> None:
        """Print the summary."""
        from sensenova_cli.render.json import print_json
        from sensenova_cli.render.verify import summary_line, verification_json

        if self._as_json:
            about = {"model": self._model, "folder": str(self._folder), "passed": self.passed}
            print_json(verification_json(about, self._files, self._pictures, self._source, self._why_none))
        else:
            typer.echo(summary_line(self._model, self._files, self._pictures))
