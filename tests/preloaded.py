"""The program without its start: a process imports PyTorch and the program once, and forks for every command.

Importing PyTorch takes two seconds, and a picture of a small model a tenth of that. Every command still has a process
of its own, with its own streams, folder and variables. Tests of the start itself use `python -m sensenova_cli`.
"""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import until

ROOT = Path(__file__).parent.parent
MODULES = ("torch", "torch.nn.attention", "model.engine", "model.loading", "sensenova_cli.app")

CLIENT = """#!{python} -SIE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as place:
    place.connect({address!r})
    words = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(place, [words], [0, 1, 2])
    code = place.recv(16)
sys.exit(int(code) if code else 1)
"""


@contextmanager
def preloaded_program() -> Iterator[Path]:
    """Yield an executable `sensenova`, which runs commands in forks of one process."""
    with tempfile.TemporaryDirectory() as folder:  # its name is short enough for a socket
        address, program = Path(folder, "socket"), Path(folder, "sensenova")
        program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        program.chmod(stat.S_IRWXU)
        words = [sys.executable, "-m", "tests.preloaded", str(address)]
        with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
            try:
                until(lambda: address.exists() or process.poll() is not None)
                yield program
            finally:
                process.terminate()


def serve(address: str) -> None:
    """Fork for every connection. Returns only in a fork, which has to run the program."""
    from importlib import import_module

    for name in MODULES:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        Path(f"{address}.new").rename(address)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    content, streams, _, _ = socket.recv_fds(connection, 2**20, 3)
    child = os.fork()
    if child:
        for each in streams:
            os.close(each)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.send(str(code if code >= 0 else 128 - code).encode())
        os._exit(0)
    connection.close()
    words, here, variables = json.loads(content)
    for number, opened in enumerate(streams):
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(here)
    sys.argv = ["sensenova", *words]


if __name__ == "__main__":
    serve(sys.argv[1])
    from sensenova_cli.__main__ import main

    main()
