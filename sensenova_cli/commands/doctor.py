"""`sensenova doctor`: describes this machine and predicts which pictures a model can draw on it, and how fast."""

from typing import Annotated

import typer

from sensenova_cli.commands.bench import SHAPES, parse_sizes
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import COMMON_OPTIONS, with_options


@with_options("model", "device", "dtype", "quantization", "gpu_memory", "server", *COMMON_OPTIONS)
def doctor(
    flags: Flags,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Picture size; repeat it for several. [the model's first; u1-8b: 1024x1024 and 2048x2048]",
            metavar="WxH",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Describe this machine, and predict which pictures a model can draw on it.

    Examples
      sensenova doctor
      sensenova doctor --model u1-8b              # the 8B's shape; no files needed
      sensenova doctor --model u1-8b --gpu-memory 8GiB --size 2048x2048

    No weights are loaded. Memory and seconds per guided step are predicted
    from the measured speed of the device, of its link and of the files.
    * marks the choice of --offload auto, the default.
    """
    sizes = parse_sizes(size)
    settings = flags.layers().load
    from sensenova_cli.render.doctor import bandwidth_line, forecast_json, machine_lines, print_forecasts
    from sensenova_cli.render.json import print_json
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.turns.model_source import find_weights, model_name, require_local

    view = TurnView(quiet=flags.quiet)
    require_local(settings)
    name = model_name(settings)
    model = name if name in SHAPES else find_weights(settings, view)
    from model.bench import Machine, examine  # imports PyTorch, so this waits until all arguments are checked

    def print_machine(machine: Machine) -> None:
        for line in machine_lines(machine):
            typer.echo(line)

    found = examine(model, settings, sizes, on_machine=(lambda machine: None) if flags.json else print_machine)
    if found.bandwidth.note is not None:
        view.notice(found.bandwidth.note)
    if flags.json:
        print_json(forecast_json(found, name))
        return
    typer.echo(bandwidth_line(found))
    print_forecasts(found, name)
