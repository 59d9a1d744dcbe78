"""Signals to real processes while they start, draw and end."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from tests.cli.harness import start


def signal_to_a_start(source: random.Random, folder: Path, checkpoint: Path) -> list[str]:
    """Start the program, send a signal at a random time, and return what should not have happened."""
    number = source.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    output = folder / "start.png"
    output.unlink(missing_ok=True)
    process = start("generate", "x", "-o", str(output), FAKE_STEP_SECONDS="0.05", SENSENOVA_MODEL=str(checkpoint))
    wait_until_started(process)
    after = source.uniform(0, 2.5)
    time.sleep(after)
    process.send_signal(number)
    what = f"start: {number.name} after {after:.2f} s"
    try:
        _, stderr = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return [f"{what}: it hangs"]
    problems = []
    if process.returncode not in (0, 130):
        problems.append(f"{what}: the exit code is {process.returncode}")
    if process.returncode == 0 and not output.exists():
        problems.append(f"{what}: the exit code is 0 without a picture")
    if b"Traceback" in stderr:
        problems.append(f"{what}: there is a traceback")
    return problems


def wait_until_started(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has its first handler; before that the interpreter itself starts."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        os.sched_yield()
