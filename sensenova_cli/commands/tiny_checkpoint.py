"""`sensenova tiny-checkpoint`: writes a checkpoint of random numbers, for trials without 35 GB of weights."""

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from config.errors import SenseNovaError
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import with_options
from sensenova_cli.system.interrupts import unwinding
from sensenova_cli.system.unicode import for_terminal


@with_options("debug", "no_color")
def tiny_checkpoint(
    flags: Flags,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder to create; it must not exist yet.", show_default=False)
    ],
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.", min=0, metavar="N")] = 0,
) -> None:
    """Write a tiny checkpoint of random numbers (4 MB) in the official layout.

    Examples
      sensenova tiny-checkpoint ./tiny
      sensenova generate "A cute cat" --model ./tiny -o cat.png

    It draws noise and writes gibberish, but it runs the same code as the real
    weights. Use it for a first try on any machine, and for tests.
    """
    if os.path.lexists(folder):
        raise UsageError(f"{folder} exists already", "name a folder that does not exist yet")
    from safetensors import SafetensorError

    from model import write_tiny_checkpoint

    missing = [parent for parent in folder.parents if not os.path.exists(parent)]  # noqa: PTH110  # pathlib raises at long names
    try:
        with unwinding():
            write_tiny_checkpoint(folder, seed)
    except (OSError, SafetensorError) as error:
        for parent in missing:
            with contextlib.suppress(OSError):  # it was not created, or another program uses it
                parent.rmdir()
        reason = getattr(error, "strerror", None) or error
        raise SenseNovaError(
            f"{folder} cannot be written: {reason}", "free some disk space, or name another folder"
        ) from error
    typer.echo(for_terminal(folder))
