"""`sensenova config`: single settings are read, changed and removed; no mistake reaches the file."""

import json
import multiprocessing
import os
import stat
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from sensenova_cli.commands import config
from sensenova_cli.system import settings_lock
from tests.cli.harness import REPOSITORY, Outcome, Program, start


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    return tmp_path / "user" / "config.toml"


def test_set_and_get(program: Program, user_file: Path) -> None:
    outcome = program("config", "set", "num-steps", "20")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, f"{user_file}\n", "")
    assert user_file.read_text() == "num_steps = 20\n"
    assert program("config", "get", "num_steps").stdout == "20\n"
    program("config", "set", "cfg_interval", "0.1,0.9")
    program("config", "set", "serve.port", "9000")
    program("config", "set", "size", "16:9")
    assert program("config", "get").stdout.splitlines() == [
        "num_steps = 20",
        "cfg_interval = 0.1,0.9",
        "size = 16:9",
        "serve.port = 9000",
    ]
    assert json.loads(program("config", "get", "--json").stdout)["cfg_interval"] == [0.1, 0.9]
    program("generate", "a cat")
    assert program.request.settings.num_steps == 20 and program.request.settings.cfg_interval == (0.1, 0.9)
    assert program("config", "unset", "num_steps").code == 0
    assert program("config", "get", "num_steps").code == 1


@pytest.mark.parametrize(
    "command",
    [
        ("config", "set", "seed", "8"),
        ("config", "unset", "seed"),
        ("config", "set", "--project", "seed", "8"),
        ("models", "alias", "mine", "demo"),
        ("models", "default", "demo"),
    ],
)
def test_two_processes_do_not_change_settings_at_once(
    program: Program, user_file: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("config", "set", "seed", "7")
    monkeypatch.setattr(settings_lock, "PATIENCE", 0.05)
    with settings_lock.changing_settings():
        outcome = program(*command)
    assert outcome.code == 1 and "error: another process is changing your settings" in outcome.stderr
    assert user_file.read_text() == "seed = 7\n" and not Path("sensenova.toml").exists()
    assert program(*command).code == 0


def change_at_once(name: str, value: str, barrier: Barrier) -> None:
    barrier.wait()
    config.change_setting(name, value)


def test_settings_that_are_changed_at_once_are_all_kept(user_file: Path, home: Path) -> None:
    values = {"seed": "8", "num_steps": "20", "quality": "80", "cfg_scale": "3"}
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(len(values))
    processes = [context.Process(target=change_at_once, args=(*each, barrier)) for each in values.items()]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(user_file.read_text().splitlines()) == len(values)


def test_the_project_file(program: Program, home: Path, user_file: Path) -> None:
    assert program("config", "path").stdout == f"{user_file}\n"
    assert program("config", "path", "--project").stdout == f"{home / 'sensenova.toml'}\n"
    assert program("config", "set", "--project", "seed", "7").code == 0
    assert Path("sensenova.toml").read_text() == "seed = 7\n" and not user_file.exists()
    assert program("config", "get", "--project", "seed").stdout == "7\n"
    assert program("config", "unset", "seed").stderr == f"note: {user_file} does not set seed\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("num_step", "20"), "did you mean num_steps?"),
        (("steps", "20"), "did you mean num_steps?"),
        (("port", "20"), "write serve.port"),
        (("serve.prot", "20"), "did you mean serve.port?"),
        (("num_steps", "0"), "num_steps 0: must be a whole number from 1 to 1000"),
        (("num_steps", "many"), "must be a whole number"),
        (("serve.port", "99999"), "serve.port 99999: must be a whole number from 0 to 65535"),
        (("think", "maybe"), "must be true or false"),
        (("preview", "block"), "did you mean preview blocks?"),
        (("size", "huge"), "write it like 2048x2048, 16:9 or auto"),
        (("model", ""), "must not be empty"),
        (("nonsense", "1"), "there is no setting nonsense"),
    ],
)
def test_a_wrong_setting_changes_nothing(
    program: Program, user_file: Path, words: tuple[str, str], message: str
) -> None:
    program("config", "set", "seed", "5")
    outcome = program("config", "set", *words)
    assert (outcome.code, outcome.stdout) == (2, "") and message in outcome.stderr
    assert user_file.read_text() == "seed = 5\n"


@pytest.mark.parametrize(
    "content",
    ["num_steps = \n", "serve.port = 1\nseed = 1\n", "serve = { port = 1 }\n", "unknown = 1\n", "num_steps = 0\n"],
)
@pytest.mark.parametrize("words", [("set", "seed", "7"), ("unset", "seed"), ("set", "serve.port", "7")])
def test_a_file_with_mistakes_or_in_another_form_stays(
    program: Program, user_file: Path, content: str, words: tuple[str, ...]
) -> None:
    """Dotted keys and inline tables are valid, but are not edited wrongly."""
    user_file.parent.mkdir()
    user_file.write_text(content)
    outcome = program("config", *words)
    assert "Traceback" not in outcome.stderr
    if outcome.code:
        assert outcome.code == 2 and user_file.read_text() == content
    else:
        assert program("config", "get").code == 0 and "port" in user_file.read_text()


def test_permissions_links_and_ends_of_lines_stay(program: Program, user_file: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_bytes(b"# mine\r\nseed = 1 # one\r\n")
    real.chmod(0o600)
    user_file.parent.mkdir()
    user_file.symlink_to(real)
    assert program("config", "set", "seed", "2").code == 0
    assert user_file.is_symlink() and real.read_bytes() == b"# mine\r\nseed = 2 # one\r\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(program: Program, user_file: Path) -> None:
    program("config", "set", "seed", "1")
    user_file.parent.chmod(0o500)
    try:
        outcome = program("config", "set", "seed", "2")
        assert outcome.code == 1 and "cannot be written" in outcome.stderr
        assert user_file.read_text() == "seed = 1\n"
    finally:
        user_file.parent.chmod(0o700)


def test_a_contradiction_is_noted(program: Program) -> None:
    outcome = program("config", "set", "gpus", "2")
    assert outcome.code == 0
    outcome = program("config", "set", "tensor_parallel_size", "2")
    assert outcome.code == 0 and "note: --gpus 2 chooses the sizes itself" in outcome.stderr


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input and stdout count as terminals for `config edit`."""
    monkeypatch.setattr(config, "missing_terminal", lambda: None)


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: None) -> Path:
    """A program that appends the text of a file to what it edits."""
    text = tmp_path / "typed.txt"
    script = tmp_path / "an editor"
    script.write_text(f'#!/bin/sh\ncat "{text}" >> "$2"\n')
    script.chmod(0o700)
    monkeypatch.setenv("EDITOR", f"'{script}' --wait")
    return text


def edit(program: Program, editor: Path, typed: str) -> Outcome:
    editor.write_text(typed)
    return program("config", "edit")


def test_edit(program: Program, user_file: Path, editor: Path) -> None:
    outcome = edit(program, editor, "")
    assert outcome.code == 0 and "nothing was changed" in outcome.stderr and not user_file.exists()
    outcome = edit(program, editor, "host = '0.0.0.0'\n")
    assert (outcome.code, outcome.stdout) == (0, f"{user_file}\n")
    assert program("config", "get").stdout == "serve.host = 0.0.0.0\n"
    assert user_file.read_text().startswith("# Settings of sensenova.")
    assert [file for file in user_file.parent.iterdir() if file.name != settings_lock.LOCK_FILE] == [user_file]


def test_a_mistake_of_the_editor_is_a_draft(program: Program, user_file: Path, editor: Path) -> None:
    program("config", "set", "seed", "1")
    outcome = edit(program, editor, "num_stepz = 2\n")
    assert outcome.code == 2 and "config.draft.toml:2:1: unknown setting num_stepz" in outcome.stderr
    assert "to correct it: sensenova config edit" in outcome.stderr
    draft = user_file.with_name("config.draft.toml")
    assert user_file.read_text() == "seed = 1\n" and draft.read_text() == "seed = 1\nnum_stepz = 2\n"
    draft.write_text("seed = 1\nnum_steps = 2\n")
    outcome = edit(program, editor, "think = true\n")
    assert outcome.code == 0 and "continuing with the draft" in outcome.stderr
    assert user_file.read_text() == "seed = 1\nnum_steps = 2\nthink = true\n" and not draft.exists()


@pytest.mark.usefixtures("terminal")
def test_a_file_that_changed_meanwhile_is_not_replaced(
    program: Program, user_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("config", "set", "seed", "1")
    script = tmp_path / "editor"
    script.write_text(f'#!/bin/sh\necho "think = true" >> "$1"\necho "seed = 2" > "{user_file}"\n')
    script.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(script))
    outcome = program("config", "edit")
    assert outcome.code == 1 and "was changed while you edited it" in outcome.stderr
    assert user_file.read_text() == "seed = 2\n"
    assert user_file.with_name("config.draft.toml").read_text() == "seed = 1\nthink = true\n"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("command", "code"), [("/nowhere/editor", 2), ("false", 1)])
def test_an_editor_that_fails(
    program: Program, user_file: Path, command: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("config", "set", "seed", "1")
    monkeypatch.setenv("EDITOR", command)
    outcome = program("config", "edit")
    assert outcome.code == code and command in outcome.stderr and user_file.read_text() == "seed = 1\n"


@pytest.mark.usefixtures("terminal")
def test_without_an_editor(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setattr(config, "EDITORS", ())
    outcome = program("config", "edit")
    assert outcome.code == 2 and "EDITOR=nano" in outcome.stderr


@pytest.mark.parametrize("project", [False, True])
def test_without_a_terminal_no_editor_starts(
    home: Path, tmp_path: Path, project: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a draft nor a file is left, and the message names a command that does not need a terminal."""
    started = tmp_path / "started"
    monkeypatch.setenv("VISUAL", f"touch '{started}'")
    words = ["config", "edit", *(["--project"] if project else [])]
    process = start(*words)
    stdout, stderr = process.communicate()
    assert process.returncode == 2 and not stdout and not started.exists()
    assert b"an editor needs a terminal, and standard input is not one" in stderr
    assert (b"config set NAME VALUE --project" if project else b"config set NAME VALUE\n") in stderr
    assert not list(home.iterdir()) and not list(tmp_path.glob("user/*.toml"))


def test_a_piped_stdout_is_no_terminal(tmp_path: Path, home: Path) -> None:
    """`sensenova config edit | cat` in a terminal would hide the editor."""
    terminal, stdin = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.cli.fake_program", "config", "edit"],
            stdin=stdin,
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "VISUAL": "true"},
        )
    finally:
        os.close(terminal)
        os.close(stdin)
    assert done.returncode == 2 and b"stdout is not one" in done.stderr
