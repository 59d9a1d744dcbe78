"""Measure the time from Enter to the first denoising step in a session whose model is loaded, on the built-in demo.

    python -m benchmarks.repl_latency --output benchmarks/results/repl_latency.json

The session runs in this process, as `sensenova repl` runs it. The figure is the median of all turns but the first one,
which loads the model. Exits with 1 if the bar is missed.
"""

import statistics
import time

from benchmarks import harness
from benchmarks.harness import Bar
from benchmarks.sessions import open_session
from model.events import DenoisingStep, Event
from sensenova_cli.render.turn_view import TurnView

BAR_SECONDS = 0.2


def first_steps(turns: int) -> list[float]:
    """Return each turn's seconds from its line to the first step of its picture."""
    seconds: list[float] = []
    began = 0.0
    show = TurnView.event

    def timed(view: TurnView, event: Event) -> None:
        if isinstance(event, DenoisingStep) and event.step == 1:
            seconds.append(time.perf_counter() - began)
        show(view, event)

    TurnView.event = timed  # type: ignore[method-assign, assignment]
    with open_session("demo", {"num_steps": "6"}, debug=True) as (_, repl):
        for number in range(turns):
            began = time.perf_counter()
            assert repl.run_line(f"/generate a cat on a blue background --seed {number}")
    TurnView.event = show  # type: ignore[method-assign]
    return seconds


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--turns", type=int, default=10)
    options = parser.parse_args()
    with_loading, *seconds = first_steps(options.turns + 1)
    median = statistics.median(seconds)
    bar = Bar("first step after Enter", median, BAR_SECONDS, "s")
    result = {"median_seconds": median, "seconds": seconds, "with_loading_seconds": with_loading}
    harness.finish(options, result, harness.bars_table([bar]))
    raise SystemExit(not bar.met)


if __name__ == "__main__":
    main()
