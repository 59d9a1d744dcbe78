"""The slash commands. Importing this package registers all of them."""

# isort: off
from sensenova_cli.repl.slash_commands import turns  # the order of these imports is the order of /help
from sensenova_cli.repl.slash_commands import enhancing
from sensenova_cli.repl.slash_commands import pictures
from sensenova_cli.repl.slash_commands import comparing
from sensenova_cli.repl.slash_commands import settings
from sensenova_cli.repl.slash_commands import files
from sensenova_cli.repl.slash_commands import session
from sensenova_cli.repl.slash_commands import help

# isort: on
from sensenova_cli.repl.slash_commands.registry import COMMANDS, Command, EndSession, find_command, slash_command

__all__ = [
    "COMMANDS",
    "Command",
    "EndSession",
    "comparing",
    "enhancing",
    "files",
    "find_command",
    "help",
    "pictures",
    "session",
    "settings",
    "slash_command",
    "turns",
]
