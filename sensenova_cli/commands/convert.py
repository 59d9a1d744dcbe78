"""`sensenova convert`: writes a copy of a checkpoint with eight-bit weights."""

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.errors import SenseNovaError
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import COMMON_OPTIONS, with_options
from sensenova_cli.system.interrupts import unwinding
from sensenova_cli.system.unicode import for_terminal

if TYPE_CHECKING:
    from model import Converted
    from sensenova_cli.render.turn_view import TurnView

FORMATS = "int8, int8-all, fp8 or fp8-all"


@with_options("quantization", "yes", *COMMON_OPTIONS)
def convert(
    flags: Flags,
    checkpoint: Annotated[
        str, typer.Argument(metavar="MODEL", help="Checkpoint folder or Hub id to convert.", show_default=False)
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to create; it must not exist yet.", show_default=False)
    ],
) -> None:
    """Write a copy of a checkpoint with eight-bit weights, up to half as large.

    Examples
      sensenova convert demo ./demo-int8 --quantization int8
      sensenova generate "a red circle" --model ./demo-int8 --quantization int8

    The copy gives the same pictures, to the pixel, as the original with the same
    --quantization. int8-all and fp8-all halve all of the weights, int8 and fp8
    only those that draw. A conversion that was interrupted continues where it
    stopped, if the same command runs again.
    """
    from model import convert_checkpoint, require_usable_folder
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.turns.model_source import find_weights
    from sensenova_cli.turns.verify_pictures import ReadingProgress

    here = {**flags.settings, "model": checkpoint, "weights": "off", "server": "off"}
    settings = replace(flags, settings=here).layers().load
    if settings.quantization == "off":
        raise UsageError("a conversion needs the format of the new weights", f"use --quantization {FORMATS}")
    require_usable_folder(folder)
    view = TurnView(quiet=flags.quiet)
    start = time.perf_counter()
    source = find_weights(settings, view)
    missing = [parent for parent in folder.parents if not os.path.exists(parent)]  # noqa: PTH110  # pathlib raises at long names
    progress = ReadingProgress(view, verb="")
    try:
        with contextlib.closing(progress), unwinding():
            made = convert_checkpoint(
                source, folder, settings.quantization, model=checkpoint, on_progress=progress.show
            )
    except KeyboardInterrupt:
        view.notice("the same command continues this conversion")
        raise
    except SenseNovaError:
        for parent in missing:
            with contextlib.suppress(OSError):  # it was not created, or has unfinished work
                parent.rmdir()
        raise
    _report(made, settings.quantization, flags, view, time.perf_counter() - start)


def _report(made: "Converted", quantization: str, flags: Flags, view: "TurnView", seconds: float) -> None:
    if flags.json:
        from sensenova_cli.render.json import print_json

        print_json(
            {
                "folder": str(made.folder),
                "quantization": quantization,
                "bytes": made.nbytes,
                "source_bytes": made.source_bytes,
                "files": made.files,
                "kept_files": made.kept_files,
                "seconds": round(seconds, 3),
            }
        )
        return
    from config.units import format_bytes

    sizes = f"{format_bytes(made.source_bytes)} became {format_bytes(made.nbytes)} in {seconds:.1f} s"
    kept = f"; {made.kept_files} of {made.files} files were done before" if made.kept_files else ""
    view.muted(f"{sizes}{kept}; use the copy with --quantization {quantization}")
    typer.echo(for_terminal(made.folder))
