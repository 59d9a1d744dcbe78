"""Run many mixed turns of one session on the built-in demo, and watch its process and the overhead of each turn.

    python -m benchmarks.turns_soak --output benchmarks/results/turns_soak.json --plot docs/images/turns_soak.svg

The session runs in this process, as `sensenova repl` runs it. After each turn its resident memory, descriptors and
threads are read. A turn's overhead is its time without the prefill, tokens and denoising steps, as its events report
them; the figure is the overhead relative to the median of all turns with the same line, because a picture that is made
needs more of it than an answer. Lines that do not run the model have a bar in milliseconds. The first tenth of the
turns loads the model and fills caches, and is left out. Exits with 1 if a bar is missed.

Other work on the machine delays a turn. The result therefore has the share of the processor time that other processes
used, and the overhead in processor seconds of this process's main thread, which such delays do not change. A virtual
machine's processors are also slower for a moment now and then. So a fixed computation is timed before each turn, and
its spread is in the result: no turn can be steadier than that.
"""

import argparse
import contextlib
import io
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import harness
from benchmarks.harness import Bar
from benchmarks.line_plot import Panel, plot
from benchmarks.sessions import open_session
from model.engine import LocalEngine
from model.events import Event, PrefixRead, Statistics
from model.requests import Request
from sensenova_cli.system.interpreter import tune_interpreter

GROWTH = 1.03
"""Most memory at the end, relative to the middle."""
SPREAD = 1.3
"""Most overhead of 99 % of the turns, relative to the median."""
LINES = (
    "/generate a cat on a blue background --num-steps 6 --seed {turn}",
    "/edit make the background green --num-steps 6",
    "/describe which animal is this?",
    "/chat what can you do?",
    "/undo",
    "/use 1",
    "/generate a fox on a pink background --think --num-steps 6 --seed {turn}",
    "/save {folder}/saved.png -f",
    "/again",
    "/stats",
)
"""The lines of the session, again and again."""
REQUESTS = ("/generate", "/edit", "/describe", "/chat", "/again")
"""Beginnings of the lines that run the model."""
MOST_MILLISECONDS = 30.0
"""Most time of 99 % of the other lines. They take a millisecond, so one delay by the operating system doubles it."""


@dataclass
class ModelTime:
    """The time of one turn's model.

    Attributes:
        seconds: time of prefill, tokens and denoising steps.
        engine_processor_seconds: processor time of the main thread inside the engine.
    """

    seconds: float = 0.0
    engine_processor_seconds: float = 0.0

    def add(self, event: Event) -> None:
        """Add the seconds that an event reports."""
        if isinstance(event, PrefixRead):
            self.seconds += event.seconds
        elif isinstance(event, Statistics):
            self.seconds += event.text_seconds + event.denoise_seconds


@dataclass(frozen=True)
class Turn:
    """One turn's figures.

    Attributes:
        line: its place in `LINES`.
        overhead, processor: overhead in seconds, and in seconds of processor time.
        fixed: processor seconds of the fixed computation before it.
        memory: resident set in bytes after it.
    """

    line: int
    seconds: float
    overhead: float
    processor: float
    fixed: float
    memory: int
    descriptors: int
    threads: int


@contextlib.contextmanager
def watched_engine() -> Iterator[list[ModelTime]]:
    """Append to the last item of the yielded list what the model of the running turn takes."""
    times = [ModelTime()]
    run = LocalEngine.run

    def watched(engine: LocalEngine, request: Request, trace: Any = None) -> Iterator[Event]:
        events = run(engine, request, trace)
        while True:
            began = time.thread_time()
            event = next(events, None)
            times[-1].engine_processor_seconds += time.thread_time() - began
            if event is None:
                return
            times[-1].add(event)
            yield event

    LocalEngine.run = watched  # type: ignore[method-assign, assignment]
    try:
        yield times
    finally:
        LocalEngine.run = run  # type: ignore[method-assign]


def run_turns(count: int) -> list[Turn]:
    """Run the turns of one session.

    Raises:
        AssertionError: a turn failed.
    """
    process, turns = psutil.Process(), []
    with watched_engine() as times, open_session("soak", {}) as (session, repl):
        for number in range(count):
            kind = number % len(LINES)
            folder = session.folder.parent if session.folder else ""
            line = LINES[kind].format(turn=number, folder=folder)
            times[:] = [ModelTime()]
            fixed = fixed_computation()
            began, processor = time.perf_counter(), time.thread_time()
            with contextlib.redirect_stdout(io.StringIO()):  # the session's results, which a program would read
                assert repl.run_line(line), line
            seconds, processor = time.perf_counter() - began, time.thread_time() - processor
            turns.append(
                Turn(
                    kind,
                    seconds,
                    seconds - times[-1].seconds,
                    processor - times[-1].engine_processor_seconds,
                    fixed,
                    process.memory_info().rss,
                    process.num_fds(),
                    process.num_threads(),
                )
            )
            if (number + 1) % 50 == 0:
                harness.progress(f"{number + 1} turns, {turns[-1].memory / 1e6:.0f} MB")
    return turns


def fixed_computation() -> float:
    """Return the processor seconds of the same two milliseconds of Python and of memory accesses."""
    began = time.thread_time()
    sum(len(str(number)) for number in range(10_000))
    return time.thread_time() - began


def relative(turns: Sequence[Turn], figure: str) -> list[float]:
    """Return a figure of each turn, divided by the median of the turns with the same line."""
    by_line = defaultdict(list)
    for turn in turns:
        by_line[turn.line].append(getattr(turn, figure))
    return [getattr(turn, figure) / statistics.median(by_line[turn.line]) for turn in turns]


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of at least two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def bars_of(turns: Sequence[Turn]) -> list[Bar]:
    """Return the bars; `turns` are those after the first tenth."""
    half, tenth = len(turns) // 2, max(1, len(turns) // 10)
    middle = statistics.median(turn.memory for turn in turns[half - tenth : half])
    end = statistics.median(turn.memory for turn in turns[-tenth:])
    bars = [Bar("memory at the end against the middle", end / middle, GROWTH)]
    for name in ("descriptors", "threads"):
        most = [max(getattr(turn, name) for turn in part) for part in (turns[:half], turns[half:])]
        bars.append(Bar(f"{name} that the second half added", most[1] - most[0], 0))
    requests = [turn for turn in turns if LINES[turn.line].startswith(REQUESTS)]
    commands = [turn for turn in turns if not LINES[turn.line].startswith(REQUESTS)]
    for name, figure in (("overheads", "overhead"), ("overheads in processor time", "processor")):
        ratio = percentile(relative(requests, figure), 99)
        bars.append(Bar(f"99 % of {name}, against the median", ratio, SPREAD))
    late = percentile([turn.overhead for turn in commands], 99)
    bars.append(Bar("99 % of the lines without the model, ms", round(late * 1e3, 1), MOST_MILLISECONDS))
    return bars


def by_line(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Return the overheads of each line, in milliseconds."""
    found = []
    for kind, line in enumerate(LINES):
        same = [turn for turn in turns if turn.line == kind]
        figures = {
            f"{figure}_ms": {
                "median": round(statistics.median(getattr(turn, figure) for turn in same) * 1e3, 2),
                "p99": round(percentile([getattr(turn, figure) for turn in same], 99) * 1e3, 2),
            }
            for figure in ("overhead", "processor")
        }
        seconds = round(statistics.median(turn.seconds for turn in same), 3)
        found.append({"line": line, "turns": len(same), "median_seconds": seconds, **figures})
    return found


def main() -> None:
    """Run the turns, and print and store the result."""
    options = arguments()
    tune_interpreter()
    own, others = psutil.Process(), psutil.cpu_times()
    began = time.perf_counter()
    all_turns = run_turns(options.turns)
    seconds = time.perf_counter() - began
    share = _share_of_others(others, psutil.cpu_times(), sum(own.cpu_times()[:2]), seconds)
    turns = all_turns[len(all_turns) // 10 :]
    bars, lines = bars_of(turns), by_line(turns)
    result = {
        "turns": len(all_turns),
        "seconds": round(seconds, 1),
        "share_of_processors_used_by_others": round(share, 2),
        "bars": {bar.name: {"figure": bar.figure, "bar": bar.value, "met": bar.met} for bar in bars},
        "fixed_computation_99_percent_against_median": round(percentile(relative(turns, "fixed"), 99), 2),
        "lines": lines,
        "memory_bytes": [turn.memory for turn in all_turns],
        "descriptors": [turn.descriptors for turn in all_turns],
        "threads": [turn.threads for turn in all_turns],
        "overhead_ms": [round(turn.overhead * 1e3, 2) for turn in all_turns],
    }
    if options.plot:
        options.plot.write_text(drawing(all_turns), encoding="utf-8")
    rows = [
        (
            line["line"],
            *(f"{line[figure][key]:.1f}" for figure in ("overhead_ms", "processor_ms") for key in ("median", "p99")),
        )
        for line in lines
    ]
    harness.show(harness.table("line", "overhead, ms", "p99", "processor, ms", "p99", rows=rows))
    print(f"other processes used {share:.0%} of the processors")
    print(f"99 % of the fixed computation, against its median: {percentile(relative(turns, 'fixed'), 99):.2f}")
    harness.finish(options, result, harness.bars_table(bars, f"{len(all_turns)} turns in {seconds:.0f} s"))
    sys.exit(0 if all(bar.met for bar in bars) else 1)


def _share_of_others(before: Any, after: Any, own: float, seconds: float) -> float:
    """Return the share of all processors' time that other processes used between two moments."""
    idle = sum(getattr(after, name) - getattr(before, name) for name in ("idle", "iowait") if hasattr(after, name))
    return max(0.0, 1 - (idle + own) / (seconds * (psutil.cpu_count() or 1)))


def drawing(turns: Sequence[Turn]) -> str:
    """Return the plot as SVG."""
    return plot(
        "turn",
        [
            Panel("resident memory, MB", [turn.memory / 1e6 for turn in turns]),
            Panel("descriptors", [turn.descriptors for turn in turns]),
            Panel("threads", [turn.threads for turn in turns]),
            Panel("overhead / median of the same line", relative(turns, "overhead"), dots=True, most=4.0),
        ],
    )


def arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    made = harness.parser(__doc__ or "")
    made.add_argument("--turns", type=int, default=500, help="number of turns (default: 500)")
    made.add_argument("--plot", type=Path, metavar="FILE", help="write a plot here, as SVG")
    options = made.parse_args()
    if options.turns < 5 * len(LINES):
        made.error(f"--turns must be at least {5 * len(LINES)}")
    return options


if __name__ == "__main__":
    main()
