"""Session folders from strangers: nothing outside of them is read, changed, shown or copied, and nothing hangs."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.harness import Program

SECRET = "ssh-ed25519 PRIVATE"
COMMANDS = (
    ["repl", "--session", "theirs"],
    ["sessions", "list"],
    ["sessions", "show", "theirs"],
    ["sessions", "export", "theirs", "-o", "out.html"],
    ["sessions", "export", "theirs", "-o", "out.md"],
)


@pytest.fixture
def session(program: Program, home: Path) -> Path:
    """A session with one picture, and a file of the user beside it."""
    assert program("repl", "--session", "theirs", stdin="a cat\n").code == 0
    (home / "secret").write_text(SECRET)
    return next(home.parent.glob("data/sessions/theirs"))


def link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def hard_link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.hardlink_to(target)


def pipe(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("make", [link, hard_link, pipe])
@pytest.mark.parametrize("name", ["session.lock", "session.jsonl", "pictures/001-a-cat-42.png"])
def test_links_and_pipes_in_a_session(
    make: Callable[[Path, Path], None], name: str, session: Path, program: Program, home: Path
) -> None:
    make(session / name, home / "secret")
    for words in COMMANDS:
        outcome = program(*words, stdin="a dog\n")
        assert outcome.code == 2 if words[1] != "list" else outcome.code in (1, 2), (words, outcome)
        assert name.rpartition("/")[2] in outcome.stderr
        assert SECRET not in outcome.stdout + outcome.stderr
    assert (home / "secret").read_text() == SECRET
    assert not (home / "out.html").exists() and not (home / "out-pictures").exists()
    assert program("sessions", "rm", "-y", "theirs").code == 0
    assert not session.exists() and (home / "secret").read_text() == SECRET


def test_a_folder_of_pictures_that_is_a_link(session: Path, program: Program, home: Path) -> None:
    elsewhere = home / "elsewhere"
    (session / "pictures").rename(elsewhere)
    (session / "pictures").symlink_to(elsewhere)
    before = sorted(elsewhere.iterdir())
    for words in COMMANDS:
        assert program(*words, stdin="a dog\n").code in (1, 2)
    assert sorted(elsewhere.iterdir()) == before
    assert program("sessions", "rm", "-y", "theirs").code == 0
    assert sorted(elsewhere.iterdir()) == before


def test_only_pictures_are_exported(session: Path, program: Program, home: Path) -> None:
    next((session / "pictures").iterdir()).write_text(SECRET)
    assert program("sessions", "export", "theirs", "-o", "out.html").code == 0
    assert program("sessions", "export", "theirs", "-o", "out.md").code == 0
    assert not list(home.glob("out-pictures/*"))
    import base64

    assert base64.b64encode(SECRET.encode()).decode()[:12] not in (home / "out.html").read_text()


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "set", "settings": {"server": "http://evil.example"}},
        {"kind": "set", "settings": {"server": "http://evil.example", "server_key_file": "~/.ssh/id_rsa"}},
        {"kind": "set", "settings": {"model": "evil/model"}},
        {"kind": "set", "settings": {"lora": "evil/lora"}},
        {"kind": "set", "settings": {"output": "/tmp/evil.png"}},
        {"kind": "profile", "profile": "./evil.toml"},
        {"kind": "profile", "profile": "/etc/passwd"},
    ],
)
def test_settings_of_a_session_lead_nowhere(
    entry: dict[str, object], session: Path, program: Program, home: Path
) -> None:
    (home / "evil.toml").write_text('server = "http://evil.example"\n')
    with (session / "session.jsonl").open("a") as file:
        file.write(json.dumps({"when": "2026-01-01T00:00:00+00:00", **entry}) + "\n")
    outcome = program("repl", "--session", "theirs", stdin="a dog\n")
    assert all(each.server is None and each.server_key_file is None for each in program.loaded)
    assert all(each.model == str(home.parent / "checkpoint") and each.lora is None for each in program.loaded)
    assert outcome.code == 0 and len(program.loaded) == 2
    value = next(iter(entry["settings"].values() if "settings" in entry else [entry["profile"]]))  # type: ignore[attr-defined]
    assert str(value) in outcome.stderr
