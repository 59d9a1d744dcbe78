"""The registry of slash commands. One decorated function is a command, with its usage, help, options and completion:

@slash_command("use", "[N|none]", first=(pictures, fixed_words({"none": "select no picture"})))
def use(workspace: Workspace, line: Line) -> None: ...
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prompt_toolkit.completion import Completion

from config.declarations import DECLARATIONS
from config.validation import near_miss
from sensenova_cli.errors import UsageError
from sensenova_cli.repl.lines import Line, looks_like_path
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.state import State

Run = Callable[[Workspace, Line], None]


class EndSession(Exception):  # its name has no `Error`, because leaving is not an error
    """An exception that a command raises to end the session."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of a command that is being typed.

    Attributes:
        state: the state of the session.
        text: the part of the line between the command's name and the cursor.
        word: the last word of `text`, with its quotes and backslashes; empty after a space.
    """

    state: State
    text: str
    word: str


CompletionSource = Callable[[Arguments], Iterable[Completion]]
"""Returns completions for one word of a command."""


@dataclass(frozen=True)
class Command:
    """A slash command.

    Attributes:
        name: the command's name without the slash.
        aliases: other names of it, which /help and completion leave out.
        usage: its arguments, as /help shows them.
        help: its help text, one line.
        more: further lines of help, which only `/help NAME` shows.
        options: names of the options (sensenova_cli.inputs.options) that may end its line. A command without options
            takes no flags.
        first, later: completion sources for its first word, and for every other word.
        setting: the setting that this command changes in a session, because `/set` cannot change it.
        run: the function that runs a line. It may raise any SenseNovaError, and EndSession.
    """

    name: str
    aliases: tuple[str, ...]
    usage: str
    help: str
    more: Sequence[str]
    options: tuple[str, ...]
    first: Sequence[CompletionSource]
    later: Sequence[CompletionSource]
    setting: str | None
    run: Run


COMMANDS: dict[str, Command] = {}
"""Name → command, in the order of /help, which is the order of registration."""


def slash_command(
    name: str,
    usage: str = "",
    *,
    aliases: Iterable[str] = (),
    more: Sequence[str] = (),
    options: Iterable[str] = (),
    first: Sequence[CompletionSource] = (),
    later: Sequence[CompletionSource] = (),
    setting: str | None = None,
) -> Callable[[Run], Run]:
    """Register the decorated function as the command `name`; arguments as for Command.

    The first line of the function's docstring becomes the command's help, in lower case and without its full stop.

    Raises:
        ValueError: a command of that name exists already.
    """

    def register(run: Run) -> Run:
        if name in COMMANDS:
            raise ValueError(f"the command /{name} is registered twice")
        sentence = (run.__doc__ or "").partition("\n")[0].removesuffix(".")
        text = sentence[:1].lower() + sentence[1:]
        COMMANDS[name] = Command(name, tuple(aliases), usage, text, more, tuple(options), first, later, setting, run)
        return run

    return register


def find_command(name: str) -> Command:
    """Return the command of this name.

    Raises:
        UsageError: there is no such command.
    """
    if command := COMMANDS.get(name):
        return command
    for command in COMMANDS.values():
        if name in command.aliases:
            return command
    word = f"/{name}"
    if looks_like_path(word):
        raise UsageError(f"there is no picture file {word}", "check its name; /help lists the commands")
    setting = next((each for each in DECLARATIONS if name in (each, each.removeprefix("num_"))), None)
    if setting is not None:
        raise UsageError(f"{word} is not a command, but a setting", f"type /set {setting} VALUE; /set lists them all")
    meant = near_miss(name, [*COMMANDS, *(alias for command in COMMANDS.values() for alias in command.aliases)])
    hint = f"did you mean /{meant}? " if meant else ""
    raise UsageError(f"there is no command {word}", f"{hint}/help lists the commands")
