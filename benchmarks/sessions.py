"""Sessions of `sensenova repl` in this process, in a temporary data folder, with a timer that can interrupt a line."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sensenova_cli.inputs.flags import Flags
from sensenova_cli.repl.repl import Repl
from sensenova_cli.sessions.session import Session
from sensenova_cli.system.interrupts import handle_signals


@contextmanager
def open_session(name: str, flags: Mapping[str, Any], *, debug: bool = False) -> Iterator[tuple[Session, Repl]]:
    """Open a session as `sensenova repl` does; its folder is removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SENSENOVA_DATA_DIR"] = os.environ["SENSENOVA_CONFIG_DIR"] = folder
        with Session.start(name) as session:
            yield session, Repl(session, Flags(dict(flags), quiet=True), "pictures", interactive=True, debug=debug)


def run_with_alarm(repl: Repl, line: str, alarm: float = 0.0) -> bool | None:
    """Run a line, with SIGALRM after `alarm` seconds unless that is 0.

    The alarm is a timer of the system. A thread would have memory of its own, which would count as the session's.

    Returns:
        Whether the line succeeded; None if a Ctrl-C arrived outside its turn, where a prompt would discard the line.
    """
    if alarm:
        signal.setitimer(signal.ITIMER_REAL, alarm)
    succeeded = None
    try:
        succeeded = repl.run_line(line)
        while signal.getitimer(signal.ITIMER_REAL)[0] > 0:
            time.sleep(0.01)  # the turn ended before the alarm
    except KeyboardInterrupt:
        handle_signals()
    return succeeded
