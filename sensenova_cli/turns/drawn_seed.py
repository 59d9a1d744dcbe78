"""The number of `--seed random`, for the user."""

from sensenova_cli.inputs.flags import Flags
from sensenova_cli.render.turn_view import TurnView


def tell_drawn_seed(view: TurnView, flags: Flags) -> None:
    """Print the number that was drawn for `--seed random`."""
    if flags.drawn_seed is not None:
        view.muted(f"random seed: {flags.drawn_seed}")
