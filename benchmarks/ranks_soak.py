"""A long session of a model that several ranks share, with Ctrl-C and killed ranks at random moments.

    python -m benchmarks.ranks_soak --json benchmarks/results/ranks_soak.json            # the demo, on CPU ranks
    python -m benchmarks.ranks_soak --device cuda --turns 20 --kill 0 --model FOLDER     # on GPUs

Turns alternate between generating, editing, thinking, describing and chatting. Every `--interrupt`th gets a Ctrl-C,
every `--kill`th loses a rank by SIGKILL, both at a random moment of it. After each turn the session must stand, after
a killed rank the next turn must load the model again, and at the end no process may be left. Exits with 1 where that
is not so, where a turn takes longer than a minute, where a killed rank is told of after more than 10 s, or where
memory grows by more than 3 % from the first third on (by then each task and a few loadings have had their first time).
"""

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import write_report

BAR_GROWTH, BAR_SECONDS, LONGEST_TURN = 0.03, 10.0, 60.0
TURNS = (
    "/generate a cat on a blue background --num-steps {steps}",
    "/edit make it black and white --num-steps {steps}",
    "? which animal is this?",
    "/generate a fox on a pink background --think --num-steps {steps}",
    "/chat what can you do?",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--interrupt", type=int, default=5, help="every so manieth turn; 0 for none")
    parser.add_argument("--kill", type=int, default=10, help="likewise")
    parser.add_argument("--steps", type=int, default=30, help="of each picture, so that it takes a second or so")
    parser.add_argument("--model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tensor-parallel-size", type=int, default=2)
    parser.add_argument("--cfg-parallel-size", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SENSENOVA_DATA_DIR"] = os.environ["SENSENOVA_CONFIG_DIR"] = folder
        report = soak(options)
    left = ranks()
    memory = report["rss_bytes"]
    tenth, third = max(1, len(memory) // 10), len(memory) // 3
    growth = statistics.median(memory[-tenth:]) / statistics.median(memory[third : third + tenth]) - 1
    on_gpus = [sum(each) for each in report["gpu_mib"]]
    if on_gpus:
        late = statistics.median(on_gpus[-tenth:]) / statistics.median(on_gpus[third : third + tenth]) - 1
        print(f"memory on the GPUs grew by {100 * late:.1f} % to {on_gpus[-1]} MiB")
        growth = max(growth, late)
    slowest = max(report["seconds_until_told"], default=0.0)
    good = growth <= BAR_GROWTH and slowest <= BAR_SECONDS and not left
    print(
        f"{options.turns} turns, {report['interrupted']} interrupted, {len(report['seconds_until_told'])} lost a rank "
        f"(told within {slowest:.1f} s, bar 10 s); memory grew by {100 * growth:.1f} % (bar 3 %); "
        f"processes left: {len(left)}"
    )
    write_report({**report, "growth": growth, "processes_left": len(left)}, options.json)
    raise SystemExit(not good)


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Run the session.

    Raises:
        AssertionError: the session does not stand as it should after a turn.
    """
    from sensenova_cli.inputs.flags import Flags
    from sensenova_cli.repl.repl import Repl
    from sensenova_cli.sessions.session import Session
    from sensenova_cli.system.interrupts import handle_signals

    handle_signals()
    draw, process = random.Random(0), psutil.Process()
    size = options.tensor_parallel_size * options.cfg_parallel_size
    action = ""
    killed_at = 0.0

    def act(number: int, frame: object) -> None:
        nonlocal killed_at
        if action == "kill":
            victim = draw.choice(ranks())
            killed_at = time.monotonic()
            victim.kill()
        else:
            signal.raise_signal(signal.SIGINT)

    # A timer of the system's, not a thread: threads have memory of their own, which would count.
    signal.signal(signal.SIGALRM, act)
    memory: list[int] = []
    handles: list[tuple[int, int]] = []
    on_gpus: list[list[int]] = []
    told: list[float] = []
    interrupted = 0
    flags: dict[str, Any] = {
        "device": options.device,
        "tensor_parallel_size": options.tensor_parallel_size,
        "cfg_parallel_size": options.cfg_parallel_size,
    }
    if options.model:
        flags["model"] = options.model
    with Session.start("soak") as session:
        repl = Repl(session, Flags(flags, quiet=True), "pictures", interactive=True, debug=False)
        assert repl.do("a cat --num-steps 4")
        assert len(ranks()) == size - 1
        for number in range(1, options.turns + 1):
            kills = options.kill and number % options.kill == 3 % options.kill
            interrupts = options.interrupt and number % options.interrupt == 0
            action = "kill" if kills else "interrupt" if interrupts else ""
            killed_at = 0.0
            turns_before = len(session.state.turns)
            faulthandler.dump_traceback_later(LONGEST_TURN, exit=True)
            if action:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.05, 0.6))
            good = False
            try:
                good = repl.do(TURNS[number % len(TURNS)].format(steps=options.steps))
                while signal.getitimer(signal.ITIMER_REAL)[0] > 0:
                    time.sleep(0.01)  # the turn was over before
            except KeyboardInterrupt:  # at a prompt this gives up a line
                handle_signals()
            seconds = time.monotonic() - killed_at
            faulthandler.cancel_dump_traceback_later()
            if action == "kill" and not good:
                told.append(seconds)
                assert session.state.turns[-1].status == "failed", session.state.turns[-1]
                assert "rank" in session.state.turns[-1].reason
            elif not good:
                assert action == "interrupt", (number, session.state.turns[-1])
                interrupted += 1
            assert len(session.state.turns) in (turns_before, turns_before + 1)
            assert len(ranks()) <= size - 1, ranks()
            if session.state.now.conversation:
                with contextlib.suppress(KeyboardInterrupt):
                    repl.do("/undo")  # a conversation that grows takes memory rightly
            gc.collect()
            give_back()
            memory.append(process.memory_info().rss)
            handles.append((process.num_fds(), process.num_threads()))
            if options.device == "cuda":
                on_gpus.append(gpu_memory())
        repl.turns.resident_model.discard()
    return {
        "command": "python -m benchmarks.ranks_soak",
        "device": options.device,
        "tensor_parallel_size": options.tensor_parallel_size,
        "cfg_parallel_size": options.cfg_parallel_size,
        "turns": options.turns,
        "steps": options.steps,
        "interrupted": interrupted,
        "seconds_until_told": [round(seconds, 2) for seconds in told],
        "rss_bytes": memory,
        "open_files_and_threads": handles,
        "gpu_mib": on_gpus,
    }


def ranks() -> list[psutil.Process]:
    """The others; compilers of kernels are children of this process, too."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "model.rank_main" in " ".join(child.cmdline()):
                found.append(child)
    return sorted(found, key=lambda child: child.pid)


def give_back() -> None:
    """Have the C library return free memory, of which each thread that loaded a model leaves some behind: what is
    counted is what is in use."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def gpu_memory() -> list[int]:
    """MiB in use on each GPU, by all processes."""
    words = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return [int(line) for line in subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()]


if __name__ == "__main__":
    main()
