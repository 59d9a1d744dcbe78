"""Surroundings in which the program has to work: clusters, containers, foreign modules, odd streams."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.harness import REPOSITORY
from tests.waiting import PATIENCE

FAKE = "tests.cli.fake_program"
CLUSTER = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def run(*words: str, module: str = "sensenova_cli", **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Run the program in a new process."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SENSENOVA_")}
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**variables, "PYTHONPATH": str(REPOSITORY), "SENSENOVA_DTYPE": "float32", **environment},
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("words", [["--version"], ["profile", "list"], ["generate", "--help"]])
def test_variables_of_a_cluster_do_not_matter_without_a_model(words: list[str]) -> None:
    done = run(*words, **CLUSTER)
    assert done.returncode == 0 and done.stdout


def test_a_rank_without_its_first_rank_says_so_and_ends_on_ctrl_c() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sensenova_cli", "chat", "hi"],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **CLUSTER},
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"rank 1 waits for rank 0 at 127.0.0.1:1")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == -signal.SIGINT
    process.stderr.close()


def test_a_rank_gives_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from model.parallel import channel

    for name, value in CLUSTER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(channel, "CONNECT_SECONDS", 0.1)
    with pytest.raises(SystemExit) as ended:
        channel.connect_to_rank_zero()
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert all(name in message for name in CLUSTER)


def test_variables_of_kubernetes_are_no_settings() -> None:
    service = {
        "SENSENOVA_SERVICE_HOST": "127.0.0.9",
        "SENSENOVA_SERVICE_PORT": "80",
        "SENSENOVA_SERVICE_PORT_HTTP": "80",
        "SENSENOVA_PORT": "tcp://127.0.0.9:80",
        "SENSENOVA_PORT_80_TCP": "tcp://127.0.0.9:80",
        "SENSENOVA_PORT_80_TCP_ADDR": "127.0.0.9",
    }
    assert run("profile", "show", **service).returncode == 0
    misspelt = run("profile", "show", SENSENOVA_SEEED="1")
    assert misspelt.returncode == 2 and b"did you mean SENSENOVA_SEED" in misspelt.stderr


def test_a_foreign_module_named_model(tmp_path: Path) -> None:
    for name in ("model", "config"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('theirs')")
    search_path = os.pathsep.join((str(tmp_path), str(REPOSITORY)))
    assert run("--version", PYTHONPATH=search_path).returncode == 0
    assert run("profile", "show", PYTHONPATH=search_path).returncode == 0


def test_no_columns() -> None:
    assert run("--help", COLUMNS="0").stdout == run("--help").stdout != b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_paths_are_written_in_the_bytes_of_their_names(encoding: str, tmp_path: Path) -> None:
    name = tmp_path / "café.png"
    done = run("generate", "a café", "-o", str(name), "-q", module=FAKE, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == os.fsencode(name) + b"\n" and name.exists()


def test_json_is_utf_8_in_every_locale(tmp_path: Path) -> None:
    words = ["generate", "a café", "-o", str(tmp_path / "a.png"), "--json", "-q"]
    assert '"prompt": "a café"'.encode() in run(*words, module=FAKE, PYTHONIOENCODING="ascii").stdout


WITHOUT_HOME = """
import pwd, sys

def unknown(user):
    raise KeyError(user)

pwd.getpwuid = unknown
from sensenova_cli.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--version"], 0, b""),
        (["profile", "show"], 0, b""),
        (["profile", "list"], 0, b""),
        (["sessions", "list"], 2, b"set SENSENOVA_DATA_DIR, or HOME"),
        (["profile", "path"], 2, b"set SENSENOVA_CONFIG_DIR, or HOME"),
    ],
)
def test_a_user_without_a_home(words: list[str], code: int, message: bytes) -> None:
    """A container with any user id: neither HOME nor a line in the password file."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SENSENOVA_", "XDG_"))}
    variables.pop("HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HOME, *words],
        capture_output=True,
        env={**variables, "PYTHONPATH": str(REPOSITORY)},
        timeout=PATIENCE,
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr
