"""`sensenova doctor`: what this machine is, and which pictures a model would draw on it, how and how fast."""

from typing import Annotated

import typer

from sensenova_cli.commands.bench import DUMMY_MODELS, parse_sizes
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import COMMON_OPTIONS, with_options


@with_options("model", "device", "dtype", "quantization", "gpu_memory", *COMMON_OPTIONS)
def doctor(
    flags: Flags,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Picture size; repeat it for several. \\[the model's first; u1-8b: 1024x1024 and 2048x2048]",
            metavar="WxH",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell what this machine is, and which pictures a model would draw on it.

    [bold]Examples[/bold]
      sensenova doctor
      sensenova doctor --model u1-8b              # the 8B's shape; no files needed
      sensenova doctor --model u1-8b --gpu-memory 8GiB --size 2048x2048

    No weights are loaded. Memory is predicted, and so are the seconds of a
    guided step, from what the device, the link to it and the files reach now.
    * marks what is taken where nothing else is set (--offload auto).
    """
    sizes = parse_sizes(size)
    settings = flags.layers().load
    from sensenova_cli.render.doctor import forecast_json, machine_lines, print_forecasts, supply_line
    from sensenova_cli.render.json import print_json
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.turns.model_source import find_weights, model_name

    renderer = TurnView(quiet=flags.quiet)
    name = model_name(settings)
    model = name if name in DUMMY_MODELS else find_weights(settings, renderer)
    from model.bench import Machine, examine  # imports PyTorch: nothing that was typed can be wrong any more

    def print_machine(machine: Machine) -> None:
        for line in machine_lines(machine):
            typer.echo(line)

    found = examine(model, settings, sizes, on_machine=(lambda machine: None) if flags.json else print_machine)
    if found.supply.note is not None:
        renderer.notice(found.supply.note)
    if flags.json:
        print_json(forecast_json(found, name, settings.dtype))
        return
    typer.echo(supply_line(found))
    print_forecasts(found, name, settings.dtype)
