"""The stages of the campaign: faults and signals in forks, damaged inputs, and signals to real processes.

Each stage runs until its time is over and returns a tally. The same seed gives the same cases; only their number
depends on the machine.
"""

import json
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from model import DEMO_MODEL, find_checkpoint
from tests.faults import bodies, processes
from tests.faults.campaign import Tally, count_calls, faults, try_fault
from tests.faults.cases import import_program, write_template
from tests.faults.readers import read_damaged, readers

FILES, BODIES = 3000, 900
"""Damaged files and bodies that one fork reads."""
FORK_SECONDS = 300.0
"""Time after which a fork with damaged inputs counts as a hang. It takes a few seconds on a free machine."""
MEMORY = 12 * 2**30
"""Address space in bytes of a fork with damaged inputs: more is an error."""


def scratch_folder() -> str:
    """Return a folder in memory if there is one: the faults are ours, so the disk does not matter."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


def run_faults(seconds: float, seed: int, most: int | None = None) -> Tally:
    """Fail calls of all commands and send signals at them, at most `most` times."""
    import_program()
    tally = Tally()
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        template = Path(folder) / "template"
        write_template(template)
        calls = count_calls(template)
        end = time.monotonic() + seconds
        for name, fault in islice(faults(calls, seed), most):
            if time.monotonic() > end:
                break
            try_fault(name, fault, template, tally)
    return tally


def run_inputs(seconds: float, seed: int, most: int | None = None) -> Tally:
    """Read damaged files and send damaged bodies, in forks of this process, at most `most` forks of each."""
    tally, end = Tally(), time.monotonic() + seconds
    for number in range(1_000_000 if most is None else most):
        if time.monotonic() > end:
            break
        for read in (read_files, send_bodies):
            tally.merge(in_fork(partial(read, seed * 1_000_003 + number), FORK_SECONDS))
    return tally


def run_processes(seconds: float, seed: int, most: int | None = None) -> Tally:
    """Send signals to real processes, and to sessions on terminals, at most `most` times each."""
    tally, end = Tally(), time.monotonic() + seconds
    for kind, cases in (
        ("real starts", processes.signal_starts(seed)),
        ("terminals", processes.signal_terminals(seed)),
    ):
        for where, found in islice(cases, most):
            tally.add(kind, where, found)
            if time.monotonic() > end - (seconds / 2 if kind == "real starts" else 0):
                break
    return tally


def read_files(seed: int, count: int = FILES) -> Tally:
    """Read damaged files in this process."""
    tally = Tally()
    every = readers(find_checkpoint(DEMO_MODEL))
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        for kind, content, error in read_damaged(every, count, seed, Path(folder)):
            found = [("unexpected", f"{type(error).__name__}: {error}")] if error is not None else []
            tally.add("inputs", f"{kind}, seed {seed}: {content}", found)
    return tally


def send_bodies(seed: int, count: int = BODIES) -> Tally:
    """Send damaged bodies to a server in this process."""
    tally = Tally()
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as name:
        folder = Path(name)
        os.environ |= {"SENSENOVA_CONFIG_DIR": name, "SENSENOVA_DATA_DIR": name}
        (folder / "config.json").write_text("{}")
        recommended = {"trained_sizes": [[64, 64], [96, 64]], "settings": {"num_steps": 1}}
        (folder / "recommended_settings.json").write_text(json.dumps(recommended))
        for path, content, problem in bodies.send_damaged(count, seed, folder):
            kind = "hang" if problem == "no answer" else "unexpected"
            tally.add("bodies", f"{path}, seed {seed}: {content}", [(kind, problem)] if problem else [])
    return tally


def in_fork(work: Callable[[], Tally], seconds: float) -> Tally:
    """Run work in a fork of this process; if it does not end or crashes, that is a finding."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tally"
        child = os.fork()
        if child == 0:
            _work(work, file)
        end = time.monotonic() + seconds
        ended, status = 0, 0
        while not ended and time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if ended and status == 0:
            return pickle.loads(file.read_bytes())  # type: ignore[no-any-return]
        tally = Tally()
        code = os.waitstatus_to_exitcode(status)
        tally.add("inputs", "a fork", [("exit code", str(code)) if ended else ("hang", "it did not end")])
        return tally


def _work(work: Callable[[], Tally], file: Path) -> None:
    """Run work in this process, which is a fork, write its result, and end."""
    import resource
    import traceback

    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        file.write_bytes(pickle.dumps(work()))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
