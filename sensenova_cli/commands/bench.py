"""`sensenova bench`: measures how fast a model runs on this machine, or how fast a server answers."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from config.errors import SettingsError
from config.mentions import mention
from config.model_names import HUB_IDS, short_name
from config.sizes import Size, check_size, format_size, parse_size
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import COMMON_OPTIONS, with_options

if TYPE_CHECKING:
    from config.settings import LoadSettings
    from model.bench import BenchPart, BenchPlan, ServerPlan
    from sensenova_cli.render.turn_view import TurnView

PARTS = ("denoise", "decode", "load", "interleave")
USUAL_PARTS = PARTS[:3]
"""Parts that are measured if none is named."""
STARTUP = "startup"
"""A measurement in new processes. It is made alone, because this process would take memory and cores from them."""
STARTUP_RUNS = 5
LOAD_FORMATS = ("auto", "dummy")


@with_options(
    *("model", "yes", "device", "dtype", "quantization", "enforce_eager", "server", "server_key_file"), *COMMON_OPTIONS
)
def bench(
    flags: Flags,
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="denoise|decode|load|interleave... | startup",
            help="Parts to measure: the first three if none is named; interleave: an answer with pictures; "
            "startup: new processes, from Enter to the first step.",
            show_default=False,
        ),
    ] = None,
    load_format: Annotated[
        str,
        typer.Option(
            help="auto reads the model's weights; dummy needs no files: random weights for u1-8b, u1.5-8b, a3b.",
            metavar="NAME",
        ),
    ] = "auto",
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Picture size; repeat it for several. [the model's first; dummy: 1024x1024 and 2048x2048]",
            metavar="WxH",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of denoising steps to time.", min=1, max=999, metavar="N")] = 10,
    tokens: Annotated[int, typer.Option(help="Number of text tokens to time.", min=1, metavar="N")] = 64,
    runs: Annotated[
        int | None,
        typer.Option(
            help="With startup: number of processes to time. With --server: number of pictures that each client draws. "
            "[5; 3 or 2]",
            min=1,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    energy: Annotated[
        bool,
        typer.Option(
            "--energy", help="Measure energy, power and clocks of steps, tokens, pictures and answers (NVIDIA GPUs)."
        ),
    ] = False,
) -> None:
    """Measure how fast a model runs here and how fast the device could be, or how fast a server answers.

    Examples
      sensenova bench
      sensenova bench --model u1-8b --load-format dummy --json > u1-8b.json
      sensenova bench denoise --size 2048x2048 --steps 50 --model ./SenseNova-U1-8B-MoT
      sensenova bench interleave --model u1-8b --load-format dummy
      sensenova bench startup
      sensenova bench --server http://gpu-box:8642

    The same run measures two ceilings: a large matrix product and a large
    copy. A step's arithmetic and a token's memory traffic are shown as
    percentages of them. Seconds are medians. With --energy, joules are those
    of one step, token, picture or answer, from 0.5 s of work on.

    With --server, seconds are those of a client: until the first event, a
    picture, or an answer. Pictures are drawn by 1, 4 and 16 clients at once.
    """
    for part in parts or ():
        if part not in (*PARTS, STARTUP):
            names = ", ".join((*PARTS, STARTUP))
            raise UsageError(f"there is no measurement {part!r}", f"name some of {names}, or none for the first three")
    if STARTUP in (parts or ()) and parts != [STARTUP]:
        raise UsageError("startup is measured alone", "run the other parts with another command")
    if load_format not in LOAD_FORMATS:
        raise UsageError(f"there is no load format {load_format!r}", f"use {' or '.join(LOAD_FORMATS)}")
    if energy and parts == [STARTUP]:
        raise UsageError("startup has no energy to measure: most of it runs on the CPU", "leave --energy out")
    sizes = parse_sizes(size)
    settings = flags.layers().load.model_copy(update={"weights": None})  # measures the model's own weights
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.turns.downloads import find_published
    from sensenova_cli.turns.model_source import find_weights, model_name

    if settings.is_remote:
        typed = " ".join(parts or ()) or ("--load-format dummy" if load_format != "auto" else "")
        typed = typed or ("--energy" if energy else "")
        if typed:
            raise UsageError(
                f"{typed} is measured on this machine, not on the server {settings.server}",
                f"leave it out, or add {mention('server', 'off')}",
            )
        from model.bench import ServerPlan

        _measure_server(settings, ServerPlan(sizes, steps, tokens, runs=runs), flags)
        return
    if runs is not None and parts != [STARTUP]:
        raise UsageError("--runs is for startup and for --server", "use --steps and --tokens for the other parts")
    view = TurnView(quiet=flags.quiet)
    name = model_name(settings)
    shape = short_name(name)
    model: Path | str
    if load_format == "dummy":
        if shape is None:
            named = f"for {settings.model}" if settings.model else "without a model"
            raise UsageError(
                f"there are no random weights {named}",
                f"with --load-format dummy, use --model {' or '.join(HUB_IDS)}",
            )
        name = model = shape
    elif shape is not None and find_published(name) is None:
        view.notice(f"{name} is not on this machine: measuring random weights of its shape ({shape})")
        name = model = shape
    else:
        model = find_weights(settings, view)
    from model.bench import BenchPlan  # imports PyTorch, so this waits until all arguments are checked

    if parts == [STARTUP]:
        _measure_startup(
            BenchPlan(model, [], sizes, 0, 0, settings), name, runs or STARTUP_RUNS, view, as_json=flags.json
        )
        return
    chosen = [cast("BenchPart", part) for part in PARTS if part in (parts or USUAL_PARTS)]
    _measure(BenchPlan(model, chosen, sizes, steps, tokens, settings, energy), name, view, as_json=flags.json)


def _measure(plan: "BenchPlan", name: str, view: "TurnView", *, as_json: bool) -> None:
    """Print each figure as soon as it is measured, or all of them as one JSON object."""
    from model.bench import Figure, describe_bench, measure
    from sensenova_cli.render.bench import ceilings_line, figure_row, measurements_json
    from sensenova_cli.render.json import print_json
    from sensenova_cli.render.table import print_table

    about = {"command": shlex.join(["sensenova", *sys.argv[1:]]), "model": name, **describe_bench(plan)}
    view.muted(f"{about['device']} · {about['dtype']} · torch {about['torch']} · {name}, {about['weights']} weights")
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
        print_json(measurements_json(about, ceilings, figures, with_energy=plan.energy))


def _measure_startup(plan: "BenchPlan", name: str, runs: int, view: "TurnView", *, as_json: bool) -> None:
    """Print the figures of new processes, each as soon as it is measured, or all of them as one JSON object."""
    from config.recommended import read_recommended
    from model.bench import describe_bench, temporary_checkpoint
    from sensenova_cli.commands.startup import measure_in_processes
    from sensenova_cli.render.bench import startup_json, startup_row
    from sensenova_cli.render.json import print_json
    from sensenova_cli.render.table import print_table

    facts = {key: value for key, value in describe_bench(plan).items() if key not in ("steps", "tokens")}
    view.muted(f"{facts['device']} · {facts['dtype']} · torch {facts['torch']} · {name}, {runs} processes each")
    with temporary_checkpoint(plan.model) if isinstance(plan.model, str) else nullcontext(plan.model) as folder:
        size = format_size((plan.sizes or read_recommended(folder).trained_sizes)[0])
        about = {"command": shlex.join(["sensenova", *sys.argv[1:]]), "model": name, "size": size, **facts}
        figures = []
        for figure in measure_in_processes(plan.settings, str(folder.resolve()), size, runs):
            figures.append(figure)
            if not as_json:
                print_table(startup_row(figure))
    if as_json:
        print_json(startup_json(about, figures))


def _measure_server(settings: "LoadSettings", plan: "ServerPlan", flags: Flags) -> None:
    """Print the figures of a server, as `_measure` does."""
    from model import Notice, open_engine
    from model.bench import ServerFigure, measure_server
    from sensenova_cli.render.bench import server_figure_row, server_figures_json
    from sensenova_cli.render.json import print_json
    from sensenova_cli.render.table import print_table
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.turns.model_source import ModelOnDemand

    view = TurnView(quiet=flags.quiet)
    source = ModelOnDemand(settings)
    card = source.card(view)
    engine = source.open((), view)
    about = {
        "command": shlex.join(["sensenova", *sys.argv[1:]]),
        "model": card.model,
        "server": engine.description,
        "steps": plan.steps,
        "tokens": plan.tokens,
    }
    _note_small_queue(settings, plan, view)
    figures: list[ServerFigure] = []
    for result in measure_server(engine, lambda: open_engine(settings), plan):
        if isinstance(result, Notice):
            view.notice(result.text)
            continue
        figures.append(result)
        if not flags.json:
            print_table(server_figure_row(result))
    engine.close()
    if flags.json:
        print_json(server_figures_json(about, figures))


def _note_small_queue(settings: "LoadSettings", plan: "ServerPlan", view: "TurnView") -> None:
    """Say if the server refuses some of the clients at first, whose times then contain pauses between attempts."""
    from model import read_server_facts

    limit = read_server_facts(settings).get("queue", {}).get("limit")
    most = max(plan.clients)
    if limit is not None and most > limit + 1:  # one request runs
        view.notice(
            f"the server's queue takes {limit} requests, so some of {most} clients wait between attempts and measure "
            f"longer times; sensenova serve --max-queue {most} takes all"
        )


def parse_sizes(texts: Sequence[str] | None) -> list[Size]:
    """Parse the values of --size.

    Raises:
        SettingsError: a value is not a size, or the models cannot draw the size.
    """
    sizes = []
    for text in texts or ():
        size = parse_size(text)
        if size is None:
            raise SettingsError(f"size {text!r} is not understood", "write it like 2048x2048")
        check_size(size)
        sizes.append(size)
    return sizes
