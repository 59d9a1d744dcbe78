"""`sensenova doctor`: says which pictures a model can draw on this machine, and how fast."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from config.model_names import DEFAULT_SHAPE, short_name
from sensenova_cli.commands.bench import parse_sizes
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import COMMON_OPTIONS, with_options

if TYPE_CHECKING:
    from config.settings import LoadSettings


@with_options("model", "weights", "yes", "device", "dtype", "quantization", "gpu_memory", "server", *COMMON_OPTIONS)
def doctor(
    flags: Flags,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Picture size; repeat it for several. [the model's first; published models: 1024x1024 and 2048x2048]",
            metavar="WxH",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check what fits on this machine, and how fast it runs.

    Examples
      sensenova doctor                            # the 8B; no files needed
      sensenova doctor --model a3b --gpu-memory 8GiB --size 2048x2048
      sensenova doctor --model demo

    No weights are loaded or downloaded. Memory and time are predicted from the
    measured speed of the device, of its link and of the files. Without a model,
    the answer is about u1-8b.
    """
    sizes = parse_sizes(size)
    layers = flags.layers()
    from config.recommended import Recommended, read_recommended
    from sensenova_cli.render.doctor import forecast_json, print_findings, weights_line
    from sensenova_cli.render.json import print_json
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.turns.model_source import find_weights, require_local

    view = TurnView(quiet=flags.quiet)
    require_local(layers.load)
    name, model = _find(layers.load, lambda: find_weights(layers.load, view))
    settings, weights = _describe_weights(layers.load)
    recommended = read_recommended(model) if isinstance(model, Path) else Recommended()
    steps = layers.resolve(recommended).settings.num_steps
    from model.bench import examine  # imports PyTorch, so this waits until all arguments are checked

    view.muted("measuring this machine; this takes up to 12 s …")
    found = examine(model, settings, sizes)
    for note in (found.dtype_note, found.bandwidth.note):
        if note is not None:
            view.notice(note)
    if flags.json:
        print_json(forecast_json(found, name, steps) | ({"weights": weights} if weights else {}))
    else:
        print_findings(found, name, steps)
        if weights:
            print("\n" + weights_line(weights))


def _describe_weights(settings: "LoadSettings") -> tuple["LoadSettings", dict[str, Any]]:
    """Return settings that name the file of `weights` if it is on this machine, and facts about it; empty without."""
    if settings.weights_file is None:
        return settings, {}
    from model import describe_weights, local_weights_file

    file = local_weights_file(settings.weights_file)
    if file is None:
        return settings.model_copy(update={"weights": None}), {"file": settings.weights_file, "kind": None}
    facts = describe_weights(file)
    found = {"file": str(file), "kind": facts.formats, "bytes": facts.nbytes, "writes_text": facts.has_head}
    return settings.model_copy(update={"weights": str(file)}), {**found, "note": facts.note}


def _find(settings: "LoadSettings", find_weights: Callable[[], Path]) -> tuple[str, Path | str]:
    """Return the name of the model, and its folder. A published model that is not on this machine has no folder: its
    short name, which stands for its shape, is returned instead."""
    model = settings.model or DEFAULT_SHAPE
    shape = short_name(model)
    if shape is None:
        return model, find_weights()
    from sensenova_cli.turns.downloads import find_published

    return shape, find_published(model) or shape
