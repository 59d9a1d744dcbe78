"""Kill a batch of 200 prompts at random moments, and go on with it each time, on the built-in demo.

    python -m benchmarks.batch_kills --output benchmarks/results/batch_kills.json

Each run is ended with SIGKILL after a random step and a random delay, and started again with `--skip-existing`. In the
end, every picture must be there once, and must be the one of a run that was not killed, byte for byte. The work is
counted in denoising steps, which the program reports with `--events`. Exits with 1 if the bar is missed.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Bar

BAR_WORK = 1.05
LONGEST_DELAY = 0.1
"""Most seconds between a step and the kill after it: the time in which a picture is finished and written."""
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white")
THINGS = (
    *("circle", "square", "triangle", "star", "cat", "dog", "owl", "fox", "fish", "tree"),
    *("house", "boat", "car", "apple", "cup", "key", "hat", "moon", "sun", "flower"),
)
PROGRAM = (sys.executable, "-m", "sensenova_cli")


@dataclass(frozen=True)
class Killed:
    """The result of a batch that was killed several times.

    Attributes:
        steps: denoising steps of all runs together.
        kills: number of runs that were killed.
        partial: number of unfinished files that the kills have left.
    """

    steps: int
    kills: int
    partial: int


def prompts_of(count: int) -> list[str]:
    """Return the prompts of a batch of up to 200."""
    return [f"a {color} {thing}" for thing in THINGS for color in COLORS][:count]


def run_batch(folder: Path, prompts: Sequence[str], options: Sequence[str], program: Sequence[str] = PROGRAM) -> int:
    """Make all pictures of a batch in one run; return the number of denoising steps."""
    return _run(folder, prompts, options, program, None, 0.0)


def kill_batch(
    folder: Path,
    prompts: Sequence[str],
    steps: int,
    options: Sequence[str],
    kills: int,
    program: Sequence[str] = PROGRAM,
) -> Killed:
    """Run a batch until it is complete, and kill it `kills` times on the way.

    Args:
        steps: denoising steps of a picture.
    """
    moments = random.Random(0)
    done = 0
    for left in range(kills, 0, -1):
        most = max(1, 2 * (len(prompts) * steps - done) // (left + 1))
        done += _run(folder, prompts, options, program, moments.randint(0, most), moments.uniform(0, LONGEST_DELAY))
    done += _run(folder, prompts, options, program, None, 0.0)
    return Killed(done, kills, len(list(folder.glob("*.part"))))


def _run(
    folder: Path,
    prompts: Sequence[str],
    options: Sequence[str],
    program: Sequence[str],
    kill_after: int | None,
    delay: float,
) -> int:
    """Run the batch once; return the number of steps. Kill it after `kill_after` steps and a delay in seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".txt")
    file.write_text("".join(f"{prompt}\n" for prompt in prompts))
    words = [*program, "generate", "--prompt-file", str(file), "-o", f"{folder}/", "--skip-existing", "--events", "-q"]
    steps = 0
    with subprocess.Popen([*words, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if steps == kill_after:
                time.sleep(delay)
                process.kill()
                kill_after = None
                delay = -1.0
            steps += _is_step(line)
    assert process.returncode == 0 or delay == -1.0, process.returncode
    return steps


def _is_step(line: str) -> bool:
    try:
        return bool(json.loads(line)["event"] == "step")
    except ValueError:  # the kill has cut the line
        return False


def differences(folder: Path, expected: Path) -> list[str]:
    """Return what distinguishes the pictures of two folders: a name or content that only one has, or that one has
    twice."""
    contents = [Counter(path.read_bytes() for path in each.glob("*.png")) for each in (folder, expected)]
    names = [{path.name for path in each.glob("*.png")} for each in (folder, expected)]
    found = [f"only in one folder: {name}" for name in sorted(names[0] ^ names[1])]
    if contents[0] != contents[1]:
        found.append("the contents of the files differ")
    return found


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=4, help="denoising steps of a picture (default: 4)")
    parser.add_argument("--size", default="64x64")
    arguments = parser.parse_args()
    prompts = prompts_of(arguments.prompts)
    options = ("--model", "demo", "--size", arguments.size, "--steps", str(arguments.steps), "--no-log")
    with tempfile.TemporaryDirectory() as name:
        harness.progress("one run that is not killed …")
        once = run_batch(Path(name, "once"), prompts, options)
        harness.progress(f"the same with {arguments.kills} kills …")
        killed = kill_batch(Path(name, "killed"), prompts, arguments.steps, options, arguments.kills)
        found = differences(Path(name, "killed"), Path(name, "once"))
        pictures = len(list(Path(name, "killed").glob("*.png")))
    bars = [
        Bar("steps, compared with one run", killed.steps / once, BAR_WORK),
        Bar("differences from one run", len(found), 0),
    ]
    result = {
        "prompts": len(prompts),
        "kills": killed.kills,
        "pictures": pictures,
        "differences": found,
        "steps_of_one_run": once,
        "steps": killed.steps,
        "work": killed.steps / once,
        "partial_files": killed.partial,
    }
    title = f"{pictures} pictures of {len(prompts)} prompts after {killed.kills} kills"
    harness.finish(arguments, result, harness.bars_table(bars, title))
    raise SystemExit(not all(bar.met for bar in bars))


if __name__ == "__main__":
    main()
