"""`sensenova bench`: how fast a model runs on this machine."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from config.errors import SettingsError
from config.sizes import Size, check_size, parse_size
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import COMMON_OPTIONS, with_options

if TYPE_CHECKING:
    from model.bench import BenchPart, BenchPlan
    from sensenova_cli.render.turn_view import TurnView

WORKS = ("denoise", "decode", "load")
LOAD_FORMATS = ("auto", "dummy")
DUMMY_MODELS = ("u1-8b", "u1.5-8b")


@with_options("model", "device", "dtype", "quantization", "enforce_eager", *COMMON_OPTIONS)
def bench(
    flags: Flags,
    works: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[denoise|decode|load]...",
            help="What to measure; everything if nothing is named.",
            show_default=False,
        ),
    ] = None,
    load_format: Annotated[
        str,
        typer.Option(
            help="auto reads the model's weights; dummy takes random ones for --model u1-8b or u1.5-8b, without files.",
            metavar="NAME",
        ),
    ] = "auto",
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Picture size; repeat it for several. \\[the model's first; dummy: 1024x1024 and 2048x2048]",
            metavar="WxH",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps that are timed.", min=1, max=999, metavar="N")] = 10,
    tokens: Annotated[int, typer.Option(help="Written tokens that are timed.", min=1, metavar="N")] = 64,
) -> None:
    """Measure how fast a model runs here, and what the device could do.

    [bold]Examples[/bold]
      sensenova bench
      sensenova bench --model u1-8b --load-format dummy --json > u1-8b.json
      sensenova bench denoise --size 2048x2048 --steps 50 --model ./SenseNova-U1-8B-MoT

    Two ceilings are measured in the same run, a large matrix product and a
    large copy: a step's arithmetic and a token's memory traffic are given as
    shares of them. Seconds are medians.
    """
    for work in works or ():
        if work not in WORKS:
            raise UsageError(f"there is no measurement {work!r}", f"name some of {', '.join(WORKS)}, or none for all")
    if load_format not in LOAD_FORMATS:
        raise UsageError(f"there is no load format {load_format!r}", f"use {' or '.join(LOAD_FORMATS)}")
    sizes = parse_sizes(size)
    settings = flags.layers().load
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.turns.model_source import find_weights, model_name

    renderer = TurnView(quiet=flags.quiet)
    name = model_name(settings)
    model: Path | str
    if load_format == "dummy":
        if name not in DUMMY_MODELS:
            named = f"for {settings.model}" if settings.model else "without a model"
            raise UsageError(
                f"there are no random weights {named}",
                f"with --load-format dummy, use --model {' or '.join(DUMMY_MODELS)}",
            )
        model = name
    else:
        model = find_weights(settings, renderer)
    from model.bench import BenchPlan  # imports PyTorch: nothing that was typed can be wrong any more

    wanted = [cast("BenchPart", work) for work in WORKS if work in (works or WORKS)]
    _measure(BenchPlan(model, wanted, sizes, steps, tokens, settings), name, renderer, as_json=flags.json)


def _measure(plan: "BenchPlan", name: str, renderer: "TurnView", *, as_json: bool) -> None:
    """Print each figure when it is there, or all of them as one JSON object."""
    from model.bench import Figure, describe_bench, measure
    from sensenova_cli.render.bench import ceilings_line, figure_row, measurements_json
    from sensenova_cli.render.json import print_json
    from sensenova_cli.render.table import print_table

    about = {"command": shlex.join(["sensenova", *sys.argv[1:]]), "model": name, **describe_bench(plan)}
    renderer.muted(
        f"{about['device']} · {about['dtype']} · torch {about['torch']} · {name}, {about['weights']} weights"
    )
    figures: list[Figure] = []
    ceilings = None
    for result in measure(plan):
        if isinstance(result, Figure):
            figures.append(result)
            if not as_json:
                print_table(figure_row(result))
        else:
            ceilings = result
            if not as_json:
                typer.echo(ceilings_line(result))
    if as_json:
        assert ceilings is not None
        print_json(measurements_json(about, ceilings, figures))


def parse_sizes(texts: Sequence[str] | None) -> list[Size]:
    """What was typed after --size.

    Raises:
        SettingsError: one is no size, or an impossible one.
    """
    sizes = []
    for text in texts or ():
        size = parse_size(text)
        if size is None:
            raise SettingsError(f"size {text!r} is not understood", "write it like 2048x2048")
        check_size(size)
        sizes.append(size)
    return sizes
