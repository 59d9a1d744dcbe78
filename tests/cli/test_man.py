"""The manual page is built from the help: it has every command and every setting, and formatters accept it."""

import shutil
import subprocess

import pytest

from config.declarations import DECLARATIONS, SERVE
from sensenova_cli.app import load_command
from sensenova_cli.commands import COMMANDS
from tests.cli.harness import Program


@pytest.fixture
def page(program: Program) -> str:
    outcome = program("--man")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert program("help", "--man").stdout == outcome.stdout == program("man").stdout
    return outcome.stdout


def test_it_has_every_command_and_every_setting(page: str) -> None:
    assert page.startswith(".TH SENSENOVA 1 ")
    for name in COMMANDS:
        parser = load_command(name)
        for title in (name, *(f"{name} {inner}" for inner in getattr(parser, "commands", {}))):
            assert f'.SS "sensenova {title} '.replace("-", r"\-") in page, title
    for setting in (*DECLARATIONS, *SERVE):
        assert rf"\fB\-\-{setting}\fR".replace("_", r"\-") in page, setting
    for section in ("NAME", "SYNOPSIS", "COMMANDS", "EXIT STATUS", "ENVIRONMENT", "FILES"):
        assert f"\n.SH {section}\n" in page


def test_no_text_is_taken_for_a_request(page: str) -> None:
    requests = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert requests == {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".nf", ".fi", ".RS", ".RE"}


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_formats_it_without_warnings(page: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-Kutf8", "-ww"], input=page.encode(), capture_output=True, check=True
    )
    assert done.stderr == b""
    text = done.stdout.decode()
    assert 'sensenova generate "A cat at dusk" --aspect 16:9 --seed 7 -o cat.png' in text
    assert "printf 'a cat\\nmake it black and white\\n' | sensenova repl --no-session" in text
