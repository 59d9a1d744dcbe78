"""Where a server is looked for: addresses, keys, and the note of a server on this machine."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import SenseNovaError
from config.settings import LoadSettings
from model.remote.address import find_address, note_file, read_note, remove_note, write_note
from tests.cli.conftest import program  # noqa: F401  # a fixture
from tests.cli.harness import Program
from tests.serve.conftest import Serve, home, serve  # noqa: F401  # fixtures


@pytest.fixture(autouse=True)
def _empty(home: Path) -> None:  # noqa: F811
    """No settings, no note and no key."""


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("gpu-box:8642", "http://gpu-box:8642"),
        ("gpu-box", "http://gpu-box"),
        ("https://example.org/u1/", "https://example.org/u1"),
        ("http://127.0.0.1:8642/v1", "http://127.0.0.1:8642"),
        ("http://127.0.0.1:8642/v1/", "http://127.0.0.1:8642"),
        ("http://[::1]:8642", "http://[::1]:8642"),
    ],
)
def test_addresses(server: str, url: str) -> None:
    assert find_address(LoadSettings(server=server)).url == url


def test_the_key_comes_from_the_variable_or_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_address(LoadSettings(server="gpu-box")).key is None
    monkeypatch.setenv("SENSENOVA_SERVER_KEY", "secret1")
    assert find_address(LoadSettings(server="gpu-box")).key == "secret1"
    Path("key").write_text("secret2\n")
    assert find_address(LoadSettings(server="gpu-box", server_key_file="key")).key == "secret2"


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", "schlüssel".encode(), b"\xff\xfe", b"a\nb"])
def test_a_file_without_a_usable_key(content: bytes) -> None:
    Path("key").write_bytes(content)
    outcome = Program()("generate", "a cat", "--server", "127.0.0.1:1", "--server-key-file", "key")
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: key")
    assert "hint: " in outcome.stderr


def test_a_missing_key_file() -> None:
    outcome = Program()("generate", "a cat", "--server", "127.0.0.1:1", "--server-key-file", "none")
    assert outcome.code == 2
    assert "none: the server's key cannot be read: No such file" in outcome.stderr
    assert "--server-key-file" in outcome.stderr


def test_the_note_is_private_and_is_read_back() -> None:
    write_note("http://127.0.0.1:8642", "secret")
    assert stat.S_IMODE(note_file().stat().st_mode) == 0o600
    address = find_address(LoadSettings(server="local"))
    assert (address.url, address.key, address.is_local) == ("http://127.0.0.1:8642", "secret", True)
    remove_note()
    assert read_note() is None


def test_the_key_of_the_note_wins_over_that_of_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    write_note("http://127.0.0.1:8642", "secret")
    monkeypatch.setenv("SENSENOVA_SERVER_KEY", "of-the-gpu-box")
    assert find_address(LoadSettings(server="local")).key == "secret"


def test_a_server_keeps_the_note_of_a_newer_one() -> None:
    write_note("http://127.0.0.1:8642", None)
    content = json.loads(note_file().read_text())
    content["process"] += 1
    note_file().write_text(json.dumps(content))
    remove_note()
    assert note_file().exists()


def _refused() -> SenseNovaError:
    with pytest.raises(SenseNovaError) as caught:
        find_address(LoadSettings(server="local"))
    return caught.value


def test_no_server_runs() -> None:
    outcome = Program()("generate", "a cat", "--server", "local")
    assert outcome.code == 1
    assert outcome.stderr == (
        "error: no server of yours runs on this machine\n"
        "hint: start one with `sensenova serve`, or load the model here: --server off\n"
    )


def test_the_note_of_an_ended_process_is_not_used() -> None:
    """Another program may listen on its port by now, and would get the key."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_note("http://127.0.0.1:8642", "secret")
    content = json.loads(note_file().read_text())
    note_file().write_text(json.dumps({**content, "process": ended.pid}))
    assert "the server at http://127.0.0.1:8642 has ended without removing its note" in _refused().what
    assert "off" in _refused().hint


def test_a_note_whose_server_does_not_listen_any_more() -> None:
    write_note("http://127.0.0.1:1", None)  # this process runs, and is no server
    outcome = Program()("generate", "a cat", "--server", "local")
    assert outcome.code == 1
    assert "the server at http://127.0.0.1:1 has ended without removing its note" in outcome.stderr
    assert "--server off" in outcome.stderr


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602])
def test_a_note_that_others_can_use_is_not_used(mode: int) -> None:
    write_note("http://127.0.0.1:8642", None)
    note_file().chmod(mode)
    assert "other users may have written or read it" in _refused().what
    assert str(note_file()) in _refused().hint


def test_a_link_in_place_of_the_note_is_not_used(tmp_path: Path) -> None:
    write_note("http://127.0.0.1:8642", None)
    note_file().rename(tmp_path / "note")
    note_file().symlink_to(tmp_path / "note")
    assert "is not the note of a server" in _refused().what


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_note_of_another_user_is_not_used() -> None:
    write_note("http://127.0.0.1:8642", None)
    os.chown(note_file(), 12345, 12345)
    assert "other users may have written or read it" in _refused().what


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"url": 1, "key": null, "process": 1}', b"[" * 5000])
def test_a_damaged_note(content: bytes) -> None:
    write_note("http://127.0.0.1:8642", None)
    note_file().write_bytes(content)
    assert "is not the note of a server" in _refused().what
    assert _refused().hint.startswith("remove it")


def test_a_pipe_in_place_of_the_note_does_not_block() -> None:
    note_file().parent.mkdir(parents=True)
    os.mkfifo(note_file(), 0o600)
    assert "other users may have written" in _refused().what


# `server = "local"` and an address in the user file, the environment and a profile


def _user_file(home: Path, text: str) -> None:  # noqa: F811
    folder = Path(os.environ["SENSENOVA_CONFIG_DIR"])
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(text)


def test_the_user_file_makes_the_running_server_the_default(home: Path, serve: Serve) -> None:  # noqa: F811
    served = serve()
    _user_file(home, 'server = "local"\n')
    write_note(served.url, None)
    outcome = Program()("generate", "a cat", "-o", "cat.png")
    assert (outcome.code, outcome.stdout) == (0, "cat.png\n"), outcome.stderr
    assert len(served.engine.requests) == 1


def test_the_user_file_without_a_running_server(home: Path) -> None:  # noqa: F811
    _user_file(home, 'server = "local"\n')
    outcome = Program()("generate", "a cat")
    assert outcome.code == 1
    assert "hint: start one with `sensenova serve`, or load the model here: --server off" in outcome.stderr


def test_server_off_goes_on_without_a_server(home: Path, program: Program) -> None:  # noqa: F811
    _user_file(home, 'server = "local"\n')
    outcome = program("generate", "a cat", "--server", "off", "-o", "cat.png")
    assert (outcome.code, outcome.stdout) == (0, "cat.png\n")
    assert len(program.engines) == 1


@pytest.mark.parametrize("where", ["variable", "profile", "user file", "flag"])
def test_every_layer_can_name_the_server(
    home: Path,  # noqa: F811
    serve: Serve,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    served = serve()
    flags: tuple[str, ...] = ()
    if where == "variable":
        monkeypatch.setenv("SENSENOVA_SERVER", served.url)
    elif where == "profile":
        Path("box.toml").write_text(f'server = "{served.url}"\n')
        flags = ("--profile", "./box.toml")
    elif where == "user file":
        _user_file(home, f'server = "{served.url}"\n')
    else:
        flags = ("--server", served.url)
    outcome = Program()("chat", "Hello", *flags)
    assert (outcome.code, outcome.stdout) == (0, "It is a cat.\n"), outcome.stderr


def test_the_server_itself_does_not_look_for_a_server(home: Path) -> None:  # noqa: F811
    """With `server = "local"` in the user file, `sensenova serve` still loads its own model."""
    _user_file(home, 'server = "local"\n')
    outcome = Program()("serve", "--port", "0", "--model", "./none")
    assert outcome.code == 3
    assert "none" in outcome.stderr


def test_the_server_takes_no_server(home: Path) -> None:  # noqa: F811
    outcome = Program()("serve", "--port", "0", "--server", "http://127.0.0.1:1")
    assert outcome.code == 2
    assert "--server" in outcome.stderr
