"""What killed or interrupted programs leave behind is removed later, and nothing that the user made is lost."""

import errno
import os
import signal
import stat
import time
from pathlib import Path

import pytest
from PIL import Image

from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.sessions.session import Session
from sensenova_cli.sessions.store import sessions_folder
from sensenova_cli.system import atomic_files
from tests.cli.harness import Program
from tests.repl.sessions import MODEL, draw

OLD = time.time() - 2 * 24 * 3600


def made_long_ago(path: Path) -> Path:
    os.utime(path, (OLD, OLD))
    return path


def session(name: str = "cats") -> Path:
    """Write a session with one picture."""
    with Session.open(name, MODEL) as opened:
        draw(opened, "A cute cat", 7)
        assert opened.folder is not None
        return opened.folder


# Partial files


def test_partial_files_of_killed_programs_are_removed(program: Program, home: Path) -> None:
    old = home / ".sensenova-0123456789ab.part"
    old.write_text("half")
    made_long_ago(old)
    new = home / ".sensenova-ba9876543210.part"
    new.write_text("half")
    other = home / ".sensenova-notes.part"
    other.write_text("mine")
    made_long_ago(other)
    assert program("generate", "x", "-o", "a.png").code == 0
    assert not old.exists() and new.exists() and other.exists()


def test_a_scratch_folder_of_a_checkpoint_is_removed(program: Program, home: Path) -> None:
    old = home / ".sensenova-checkpoint-abc"
    (old / "tiny").mkdir(parents=True)
    (old / "tiny" / "config.json").write_text("{}")
    made_long_ago(old)
    new = home / ".sensenova-checkpoint-def"
    new.mkdir()
    assert program("tiny-checkpoint", "tiny").code == 0
    assert not old.exists() and new.exists()


# Sessions


def test_an_interrupted_removal_is_finished(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after SIGKILL in the middle: the session is hidden, and the next command removes the rest."""
    folder = session()

    def killed(path: Path) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        program("sessions", "rm", "-y", "cats")
    assert not folder.exists() and len(list(sessions_folder().iterdir())) == 1
    outcome = program("sessions", "list")
    assert "note: finished removing the session cats" in outcome.stderr
    assert list(sessions_folder().iterdir()) == []


def test_a_signal_does_not_stop_a_removal_halfway(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    session()
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        signal.raise_signal(signal.SIGINT)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    assert program("sessions", "rm", "-y", "cats").code == 0
    assert list(sessions_folder().iterdir()) == []


def test_empty_folders_of_sessions_are_removed(program: Program) -> None:
    folder = sessions_folder()
    old, locked, new, mine = (folder / name for name in ("old", "with-lock", "new", "mine"))
    for each in (old, locked, new, mine):
        each.mkdir(parents=True)
    (locked / "session.lock").write_text("123 on here\n")
    (mine / "notes.txt").write_text("mine")
    for each in (old, locked, mine):
        made_long_ago(each)
    program("sessions", "list")
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "new"]


def test_sessions_are_private(program: Program, home: Path) -> None:
    assert program("repl", "--session", "cats", stdin="a cat\n").code == 0
    for path in (sessions_folder(), *sessions_folder().rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_picture_survives_a_session_that_cannot_begin(
    program: Program, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while the first picture of a new session is drawn."""
    monkeypatch.setattr("tempfile.tempdir", str(home))
    mkdir = Path.mkdir

    def full(self: Path, *arguments: object, **options: object) -> None:
        if self.parent == sessions_folder():
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", full)
    outcome = program("repl", stdin="a cat\n")
    assert outcome.code == 1
    (saved,) = home.glob("a-cat-*.png")
    assert f"the picture was saved in {saved}" in outcome.stderr
    record = read_record(saved)
    assert record is not None and record.prompt == "a cat"


# Names


@pytest.mark.parametrize(
    "output", ["a\\u0000b.png", "a\\u0000/", "{seed:99999999999}.png", "n" * 300 + ".png", "{slug}" * 60 + ".png"]
)
def test_impossible_names_are_found_before_drawing(program: Program, home: Path, output: str) -> None:
    (home / "sensenova.toml").write_text(f'output = "{output}"\n')
    outcome = program("generate", "a cat")
    assert outcome.code == 2 and not program.engines, outcome
    assert "output name" in outcome.stderr


# Exports


@pytest.mark.parametrize("function", ["replace", "link", "unlink"])
def test_an_interrupted_export_leaves_both_or_neither(
    program: Program, home: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    session()
    real = getattr(os, function)
    calls = []

    def interrupted(*arguments: object, **options: object) -> object:
        result = real(*arguments, **options)
        calls.append(arguments)
        if "page.md" in str(arguments) or (function == "unlink" and (home / "page.md").exists()):
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(os, function, interrupted)
    outcome = program("sessions", "export", "cats", "-o", "page.md")
    monkeypatch.undo()
    assert (home / "page.md").exists() == (home / "page-pictures").exists(), (outcome, calls)
    assert (home / "page.md").exists() == bool(list(home.glob("page-pictures/*")))


@pytest.mark.parametrize("target", ["page.md", "page.html"])
def test_exported_pictures_name_no_folders(program: Program, home: Path, target: str) -> None:
    Image.new("RGB", (64, 64)).save("photo.png")
    assert program("repl", "--session", "cats", stdin="a cat\n/edit a hat\n").code == 0
    (source,) = sessions_folder().glob("cats/pictures/001*")
    assert str(home.parent).encode() in source.read_bytes(), "the picture of the session names its model's folder"
    assert program("sessions", "export", "cats", "-o", target).code == 0
    if target == "page.md":
        exported = list((home / "page-pictures").iterdir())
        assert len(exported) == 2
        for picture in exported:
            assert str(home.parent).encode() not in picture.read_bytes()
            record = read_record(picture)
            assert record is not None and record.loaded.model == "checkpoint"
            with Image.open(picture) as image:
                image.load()
    else:
        import base64
        import re

        page = (home / target).read_text()
        for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", page):
            assert str(home.parent).encode() not in base64.b64decode(data)


@pytest.fixture(autouse=True)
def forget_swept_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_files, "_swept", set())
