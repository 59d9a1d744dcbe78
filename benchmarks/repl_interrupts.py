"""Ctrl-C at random moments of turns, many times in one process, on the built-in demo.

    python -m benchmarks.repl_interrupts --json benchmarks/results/repl_interrupts.json

After each one the session must stand as before, and no stray file be left. Prints how much the memory in use has
grown between the first tenth and the end, and exits with 1 where anything is wrong or it has grown by more than 3 %.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.report import write_report

BAR_GROWTH = 0.03
TURNS = (
    "/generate a cat on a blue background --num-steps 40",
    "/edit make it black and white --num-steps 40",
    "/generate a fox on a pink background --think --num-steps 40",
    "? which animal is this?",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SENSENOVA_DATA_DIR"] = os.environ["SENSENOVA_CONFIG_DIR"] = folder
        interrupted, memory = interrupt(arguments.times, Path(folder))
    settled = max(1, len(memory) // 10)
    growth = memory[-1] / memory[settled] - 1
    print(f"{arguments.times} turns, {interrupted} of them interrupted; memory grew by {100 * growth:.1f} % (bar 3 %)")
    report = {"turns": arguments.times, "interrupted": interrupted, "rss_bytes": memory, "growth": growth}
    write_report(report, arguments.json)
    raise SystemExit(growth > BAR_GROWTH)


def interrupt(times: int, folder: Path) -> tuple[int, list[int]]:
    """Run turns that a signal ends somewhere; how many it ended, and the memory in use after each.

    Raises:
        AssertionError: the session does not stand as it should after one of them.
    """
    from sensenova_cli.inputs.flags import Flags
    from sensenova_cli.repl.repl import Repl
    from sensenova_cli.sessions.saved import read_session
    from sensenova_cli.sessions.session import Session
    from sensenova_cli.system.interrupts import handle_signals

    handle_signals()
    # A timer of the system's, not a thread: threads have memory of their own, which would count.
    signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    draw = random.Random(0)
    process, memory, interrupted = psutil.Process(), [], 0
    with Session.start("demo") as session:
        repl = Repl(session, Flags({}, quiet=True), "pictures", interactive=True, debug=False)
        assert repl.do("a cat --num-steps 4")
        for number in range(times):
            before = session.state
            good = True
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.001, 0.5))
            try:
                good = repl.do(TURNS[number % len(TURNS)])
                while signal.getitimer(signal.ITIMER_REAL)[0] > 0:
                    time.sleep(0.01)  # the turn was over before
            except KeyboardInterrupt:  # at a prompt this gives up a line
                handle_signals()
            interrupted += not good
            after = session.state
            assert len(after.turns) in (len(before.turns), len(before.turns) + 1)
            if not good and len(after.turns) > len(before.turns):
                assert after.turns[-1].status == "cancelled", after.turns[-1]
                assert after.selected == before.selected
            if after.now.conversation != before.now.conversation:
                assert repl.do("/undo")  # a conversation that grows takes memory rightly
            memory.append(process.memory_info().rss)
        assert session.folder is not None
        saved = read_session(session.folder)
        assert saved.problems == (), saved.problems
        assert saved.state == session.state
        stray = [path for path in folder.rglob("*") if path.name.endswith(".part")]
        assert not stray, stray
        files = {path.name for path in (session.folder / "pictures").iterdir()}
        assert files == {picture.file for picture in session.state.pictures.values()}
    return interrupted, memory


if __name__ == "__main__":
    main()
