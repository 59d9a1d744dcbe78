"""How long after Enter a turn of a resident session takes its first denoising step, on the built-in demo.

    python -m benchmarks.repl_latency --json benchmarks/results/repl_latency.json

One session in this process, as `sensenova repl` runs it. Prints the median of the turns after the first, which loads
the model, and exits with 1 above the bar.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.report import write_report

BAR_SECONDS = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SENSENOVA_DATA_DIR"] = os.environ["SENSENOVA_CONFIG_DIR"] = folder
        seconds = first_steps(arguments.turns + 1)
    median = statistics.median(seconds[1:])
    print(
        f"first step {median * 1000:.0f} ms after Enter (bar {BAR_SECONDS * 1000:.0f} ms), median of {arguments.turns}"
    )
    report = {"median_seconds": median, "seconds": seconds[1:], "with_loading_seconds": seconds[0]}
    write_report({"cores": os.cpu_count(), **report}, arguments.json)
    raise SystemExit(median > BAR_SECONDS)


def first_steps(turns: int) -> list[float]:
    """Seconds from a line to the first step of its picture, for each of so many turns."""
    from model.events import DenoisingStep, Event
    from sensenova_cli.inputs.flags import Flags
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.repl.repl import Repl
    from sensenova_cli.sessions.session import Session

    seconds: list[float] = []
    began = 0.0
    show = TurnView.event

    def timed(renderer: TurnView, event: Event) -> None:
        if isinstance(event, DenoisingStep) and event.step == 1:
            seconds.append(time.perf_counter() - began)
        show(renderer, event)

    TurnView.event = timed  # type: ignore[method-assign, assignment]
    flags = Flags({"num_steps": "6"}, quiet=True)
    with Session.start("demo") as session:
        repl = Repl(session, flags, "pictures", interactive=True, debug=True)
        for number in range(turns):
            began = time.perf_counter()
            assert repl.do(f"/generate a cat on a blue background --seed {number}")
    TurnView.event = show  # type: ignore[method-assign]
    return seconds


if __name__ == "__main__":
    main()
