"""`sensenova tiny-checkpoint`: a checkpoint of random numbers, to try the program without 35 GB of weights."""

from pathlib import Path
from typing import Annotated

import typer

from sensenova_cli.errors import UsageError


def tiny_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Folder to create; it must not exist yet.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.", min=0)] = 0,
) -> None:
    """Write a tiny checkpoint of random numbers (4 MB) in the official layout.

    It draws noise and writes gibberish, but through exactly the code that the real weights run through: for a
    first try on any machine, and for tests.

    Examples:

        sensenova tiny-checkpoint ./tiny

        sensenova generate "A cute cat" --model ./tiny -o cat.png
    """
    if folder.exists():
        raise UsageError(f"{folder} exists already", "name a folder that does not exist yet")
    from model.weights.synthetic import write_tiny_checkpoint

    write_tiny_checkpoint(folder, seed)
    typer.echo(folder)
