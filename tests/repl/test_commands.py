"""Slash commands: every one is documented, and one decorated function adds one."""

import re
from collections.abc import Iterator

import pytest

from config.settings import SESSION_SETTINGS, SETTING_NAMES
from sensenova_cli.errors import UsageError
from sensenova_cli.repl.lines import Line, parse_line
from sensenova_cli.repl.slash_commands import COMMANDS, slash_command
from sensenova_cli.repl.slash_commands.completion_sources import fixed_words
from sensenova_cli.repl.slash_commands.line_options import parse_line_options
from sensenova_cli.repl.slash_commands.session_settings import STARTED_WITH, hint_instead_of_set
from sensenova_cli.repl.workspace import Workspace
from tests.repl.script import Script
from tests.repl.test_completion import Prompt, offers, prompt

__all__ = ["prompt"]

ARGUMENT = r"(-[a-z]|[A-Z_]+…?|[a-z]+|[A-Z]+\[:[A-Z]+\])"
"""A flag, a placeholder, a literal word, or a placeholder with an optional part."""
ALTERNATIVES = rf"{ARGUMENT}(\|{ARGUMENT})*"
USAGE = rf"({ALTERNATIVES}|\[{ALTERNATIVES}( {ARGUMENT})*\])"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_readable_usage(name: str) -> None:
    each = COMMANDS[name]
    assert each.name == name
    assert each.help and each.help[0].islower() and not each.help.endswith(".")
    assert re.fullmatch(rf"({USAGE}( {USAGE})*)?", each.usage), each.usage
    completes = bool(each.first or each.options) or name in ("new", "rename", "log")  # users invent these words
    assert bool(each.usage) == completes, "a command with a usage completes its arguments"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_are_valid_lines(name: str) -> None:
    for example in COMMANDS[name].more:
        if example.startswith("/"):
            line = parse_line(example)
            assert line.command == name
            assert not line.flags or parse_line_options(name, line.flags)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_with_arguments_completes_them(prompt: Prompt, name: str) -> None:
    each = COMMANDS[name]
    assert bool(offers(prompt, f"/{name} ")) == bool(each.first)
    assert not each.options or offers(prompt, f"/{name} x --")
    for typed in ("  ", " x  ", " 'x", " --", " x --noise ", " x y"):
        offers(prompt, f"/{name}{typed}")


def test_help_names_every_command(script: Script) -> None:
    listed = re.findall(r"^/(\w+)", script("/help").stderr, re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize(("typed", "setting"), [("/negative fog", "negative"), ("/steps 5", "num_steps")])
def test_a_setting_that_is_typed_as_a_command(script: Script, typed: str, setting: str) -> None:
    outcome = script(typed)
    assert f"error: {typed.split()[0]} is not a command, but a setting\n" in outcome.stderr
    assert f"hint: type /set {setting} VALUE" in outcome.stderr


def test_every_setting_that_set_cannot_change_has_a_command() -> None:
    assert hint_instead_of_set("model") == "use /model [FOLDER|HUB_ID|demo]"
    assert hint_instead_of_set("enforce_eager") is None
    assert hint_instead_of_set("num_steps") is None
    assert hint_instead_of_set("no such setting") is None
    assert hint_instead_of_set("weights") == "start another session with --weights FILE"
    fixed = sorted([*STARTED_WITH, *(each.setting for each in COMMANDS.values() if each.setting)])
    assert fixed == sorted(set(SETTING_NAMES) - set(SESSION_SETTINGS) - {"yes"})  # /model asks instead


@pytest.fixture
def greet() -> Iterator[list[Line]]:
    """Register a command for a test; yield the lines that ran it."""
    ran: list[Line] = []

    @slash_command(
        "greet",
        "[WHO] [OPTIONS]",
        more=("/greet world",),
        options=("noise",),
        first=(fixed_words({"world": ""}),),
        setting="noise",
    )
    def greet(workspace: Workspace, line: Line) -> None:
        """Say hello."""
        ran.append(line)
        workspace.print_result(f"hello {line.text}")

    yield ran
    del COMMANDS["greet"]


def test_a_command_is_one_decorated_function(greet: list[Line], script: Script) -> None:
    outcome = script("/greet you --noise cpu", "/help", "/help greet", "/greets", "/set noise cpu")
    assert outcome.stdout == "hello you\n"
    assert [line.flags for line in greet] == [("--noise", "cpu")]
    assert re.search(r"/greet \[WHO\] \[OPTIONS\] +say hello", outcome.stderr)
    assert "  /greet world" in outcome.stderr
    assert "did you mean /greet?" in outcome.stderr
    assert "use /greet [WHO] [OPTIONS]" in outcome.stderr


def test_a_command_completes_and_takes_options_by_its_declaration(greet: list[Line], prompt: Prompt) -> None:
    assert offers(prompt, "/gr") == ["/greet"]
    assert offers(prompt, "/greet w") == ["/greet world"]
    assert offers(prompt, "/greet x --") == ["/greet x --noise"]
    assert offers(prompt, "/greet x --noise c") == ["/greet x --noise cpu"]
    assert parse_line_options("greet", ("--noise", "cpu")).settings == {"noise": "cpu"}
    with pytest.raises(UsageError, match="cannot be given with a line"):
        parse_line_options("greet", ("--seed", "7"))


def test_two_commands_of_one_name_are_refused(greet: list[Line]) -> None:
    with pytest.raises(ValueError, match="registered twice"):
        slash_command("greet")(lambda workspace, line: None)


def test_the_command_is_gone_after_that_test() -> None:
    assert "greet" not in COMMANDS
