"""Interrupt turns at random moments with Ctrl-C, many times in one process, on the built-in demo.

    python -m benchmarks.repl_interrupts --output benchmarks/results/repl_interrupts.json

A Ctrl-C may add a cancelled turn, but it must change nothing else in the session, and leave no stray file. The growth
of the resident set is measured from the end of the first tenth of the turns. Exits with 1 if the bar is missed.
"""

import random
import signal
from pathlib import Path

import psutil

from benchmarks import harness
from benchmarks.harness import Bar
from benchmarks.sessions import open_session, run_with_alarm
from sensenova_cli.sessions.saved import read_session
from sensenova_cli.sessions.session import Session
from sensenova_cli.system.interrupts import handle_signals

BAR_GROWTH = 0.03
LINES = (
    "/generate a cat on a blue background --num-steps 40",
    "/edit make it black and white --num-steps 40",
    "/generate a fox on a pink background --think --num-steps 40",
    "? which animal is this?",
)


def interrupt(turns: int) -> tuple[int, list[int]]:
    """Run turns, each with a Ctrl-C after a random time.

    Returns:
        The number of interrupted turns, and the resident set in bytes after each turn.

    Raises:
        AssertionError: the session is damaged after a turn.
    """
    handle_signals()
    signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    moments = random.Random(0)
    process, memory, interrupted = psutil.Process(), [], 0
    with open_session("demo", {}) as (session, repl):
        assert repl.run_line("a cat --num-steps 4")
        for number in range(turns):
            before = session.state
            succeeded = run_with_alarm(repl, LINES[number % len(LINES)], moments.uniform(0.001, 0.5))
            interrupted += succeeded is False
            after = session.state
            assert len(after.turns) in (len(before.turns), len(before.turns) + 1)
            if succeeded is False and len(after.turns) > len(before.turns):
                assert after.turns[-1].status == "cancelled", after.turns[-1]
                assert after.selected == before.selected
            if after.now.conversation != before.now.conversation:
                assert repl.run_line("/undo")  # otherwise the conversation, and with it the memory, would grow
            memory.append(process.memory_info().rss)
        check_files(session)
    return interrupted, memory


def check_files(session: Session) -> None:
    """Raise AssertionError unless the folder contains exactly the session's entries and pictures."""
    assert session.folder is not None
    saved = read_session(session.folder)
    assert saved.problems == (), saved.problems
    assert saved.state == session.state
    stray = [path for path in Path(session.folder).parent.rglob("*") if path.name.endswith(".part")]
    assert not stray, stray
    files = {path.name for path in (session.folder / "pictures").iterdir()}
    assert files == {picture.file for picture in session.state.pictures.values()}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--turns", type=int, default=200)
    options = parser.parse_args()
    interrupted, memory = interrupt(options.turns)
    growth = memory[-1] / memory[max(1, len(memory) // 10)] - 1
    bar = Bar("growth of memory", growth, BAR_GROWTH)
    result = {"turns": options.turns, "interrupted": interrupted, "rss_bytes": memory, "growth": growth}
    title = f"{options.turns} turns, {interrupted} of them interrupted"
    harness.finish(options, result, harness.bars_table([bar], title))
    raise SystemExit(not bar.met)


if __name__ == "__main__":
    main()
