"""Run a long session of a model on several ranks, with Ctrl-C and killed ranks at random moments.

    python -m benchmarks.ranks_soak --output benchmarks/results/ranks_soak.json            # the demo, on CPU ranks
    python -m benchmarks.ranks_soak --device cuda --turns 20 --kill 0 --model FOLDER       # on GPUs

The lines generate, edit, describe, think and chat. Every `--interrupt`th line gets a Ctrl-C, and every `--kill`th line
loses a rank by SIGKILL, both at a random moment. After each line the session must be undamaged. After a killed rank the
next turn must load the model again. At the end no process may be left. Exits with 1 if one of these fails, if a turn
takes longer than a minute, if a killed rank is reported after more than 10 s, or if memory grows by more than 3 % after
the first third of the lines. By then each task has run once, and the model was loaded several times.
"""

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil

from benchmarks import harness
from benchmarks.harness import Bar
from benchmarks.sessions import open_session, run_with_alarm
from sensenova_cli.system.interrupts import handle_signals

BAR_GROWTH, BAR_SECONDS, LONGEST_TURN = 0.03, 10.0, 60.0
LINES = (
    "/generate a cat on a blue background --num-steps {steps}",
    "/edit make it black and white --num-steps {steps}",
    "? which animal is this?",
    "/generate a fox on a pink background --think --num-steps {steps}",
    "/chat what can you do?",
)


class Alarm:
    """The handler of SIGALRM during a line: it raises SIGINT, as Ctrl-C does, or kills a random rank.

    Attributes:
        kills: whether it kills a rank.
        killed_at: value of `time.monotonic` when it killed one.
    """

    def __init__(self, moments: random.Random) -> None:
        self._moments = moments
        self.kills = False
        self.killed_at = 0.0

    def __call__(self, number: int, frame: object) -> None:
        if self.kills:
            victim = self._moments.choice(other_ranks())
            self.killed_at = time.monotonic()
            victim.kill()
        else:
            signal.raise_signal(signal.SIGINT)


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Run the session.

    Raises:
        AssertionError: the session is damaged after a line.
    """
    handle_signals()
    moments, process = random.Random(0), psutil.Process()
    others = options.tensor_parallel_size * options.cfg_parallel_size - 1
    alarm = Alarm(moments)
    signal.signal(signal.SIGALRM, alarm)
    memory: list[int] = []
    handles: list[tuple[int, int]] = []
    gpus: list[list[int]] = []
    seconds_until_reported: list[float] = []
    interrupted = 0
    names = ("model", "device", "tensor_parallel_size", "cfg_parallel_size")
    with open_session("soak", {name: getattr(options, name) for name in names}) as (session, repl):
        assert repl.run_line("a cat --num-steps 4")
        assert len(other_ranks()) == others
        for number in range(1, options.turns + 1):
            alarm.kills = bool(options.kill and number % options.kill == 3 % options.kill)
            interrupts = bool(options.interrupt and number % options.interrupt == 0)
            alarm.killed_at = 0.0
            turns_before = len(session.state.turns)
            faulthandler.dump_traceback_later(LONGEST_TURN, exit=True)
            moment = moments.uniform(0.05, 0.6) if alarm.kills or interrupts else 0.0
            succeeded = run_with_alarm(repl, LINES[number % len(LINES)].format(steps=options.steps), moment)
            seconds = time.monotonic() - alarm.killed_at
            faulthandler.cancel_dump_traceback_later()
            if alarm.kills and not succeeded:
                seconds_until_reported.append(seconds)
                assert session.state.turns[-1].status == "failed", session.state.turns[-1]
                assert "rank" in session.state.turns[-1].reason
            elif not succeeded:
                assert interrupts, (number, session.state.turns[-1])
                interrupted += 1
            assert len(session.state.turns) in (turns_before, turns_before + 1)
            assert len(other_ranks()) <= others, other_ranks()
            if session.state.now.conversation:
                with contextlib.suppress(KeyboardInterrupt):
                    repl.run_line("/undo")  # otherwise the conversation, and with it the memory, would grow
            gc.collect()
            return_free_memory()
            memory.append(process.memory_info().rss)
            handles.append((process.num_fds(), process.num_threads()))
            if options.device == "cuda":
                gpus.append(gpu_memory())
        repl.turns.resident_model.discard()
    return {
        **{name: getattr(options, name) for name in (*names, "turns", "steps")},
        "interrupted": interrupted,
        "seconds_until_told": [round(seconds, 2) for seconds in seconds_until_reported],
        "rss_bytes": memory,
        "open_files_and_threads": handles,
        "gpu_mib": gpus,
    }


def other_ranks() -> list[psutil.Process]:
    """Return the rank processes that this process started; its other children are compilers of kernels."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "model.rank_main" in " ".join(child.cmdline()):
                found.append(child)
    return sorted(found, key=lambda child: child.pid)


def return_free_memory() -> None:
    """Make the C library return free memory to the system, so that only memory in use is counted.

    Each thread that loaded a model leaves some free memory behind.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def gpu_memory() -> list[int]:
    """Return the MiB in use on each GPU, by all processes."""
    words = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return [int(line) for line in subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()]


def growth(memory: Sequence[int]) -> float:
    """Return the growth of memory from the end of the first third to the end, as a fraction."""
    tenth, third = max(1, len(memory) // 10), len(memory) // 3
    return statistics.median(memory[-tenth:]) / statistics.median(memory[third : third + tenth]) - 1


def main() -> None:
    parser = harness.parser(__doc__, model="demo", models="checkpoint folder or Hub id", device="cpu")
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument(
        "--interrupt", type=int, default=5, metavar="N", help="every Nth line gets a Ctrl-C; 0 for none"
    )
    parser.add_argument("--kill", type=int, default=10, metavar="N", help="every Nth line loses a rank; 0 for none")
    parser.add_argument("--steps", type=int, default=30, help="steps of a picture, so that it takes about a second")
    parser.add_argument("--tensor-parallel-size", type=int, default=2)
    parser.add_argument("--cfg-parallel-size", type=int, default=1)
    options = parser.parse_args()
    faulthandler.enable()
    result = soak(options)
    left = len(other_ranks())
    bars = [Bar("growth of memory", growth(result["rss_bytes"]), BAR_GROWTH)]
    if result["gpu_mib"]:
        bars.append(Bar("growth of memory on the GPUs", growth([sum(each) for each in result["gpu_mib"]]), BAR_GROWTH))
    most_growth = max(bar.figure or 0.0 for bar in bars)
    slowest = max(result["seconds_until_told"], default=0.0)
    bars += [Bar("longest time until a killed rank was reported", slowest, BAR_SECONDS, "s")]
    bars += [Bar("processes left", left, 0)]
    killed = len(result["seconds_until_told"])
    title = f"{options.turns} lines, {result['interrupted']} interrupted, {killed} lost a rank"
    result |= {"growth": most_growth, "processes_left": left}
    harness.finish(options, result, harness.bars_table(bars, title))
    raise SystemExit(not all(bar.met for bar in bars))


if __name__ == "__main__":
    main()
