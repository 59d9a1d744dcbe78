"""A slash command is one decorated function, with its usage, help, flags and completion beside it.

@command("use", "[N|none]", first=(pictures, words({"none": "put the picture down"})))
def use(repl: Workspace, line: Line) -> None: ...
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prompt_toolkit.completion import Completion

from sensenova_cli.repl.lines import Line
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.state import State

Run = Callable[[Workspace, Line], None]


class Leave(Exception):  # not an error: the user wants to go
    """A command raises it to end the session."""


@dataclass(frozen=True)
class Typed:
    """The part of a line between the name of its command and the cursor.

    Attributes:
        state: where the session stands.
        text: the part itself.
        word: the last word of `text`, with its quotes and backslashes; empty behind a space.
    """

    state: State
    text: str
    word: str


Source = Callable[[Typed], Iterable[Completion]]
"""Completions for one word of a command."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: without the slash.
        usage: its arguments, as /help shows them.
        help: one line.
        more: lines that only `/help NAME` shows.
        options: names of the options (sensenova_cli.inputs.options) that its line may end with. A command without
            options takes no flags.
        first, later: sources of completions for its first word, and for every word behind that.
        setting: the setting that a session changes through this command, because `/set` cannot change it.
        run: does what a line says. It may raise UsageError, any other SenseNovaError, and Leave.
    """

    name: str
    usage: str
    help: str
    more: Sequence[str]
    options: tuple[str, ...]
    first: Sequence[Source]
    later: Sequence[Source]
    setting: str | None
    run: Run


COMMANDS: dict[str, Command] = {}
"""Name → command, in the order of /help, which is the order of registration."""


def command(
    name: str,
    usage: str = "",
    *,
    more: Sequence[str] = (),
    options: Iterable[str] = (),
    first: Sequence[Source] = (),
    later: Sequence[Source] = (),
    setting: str | None = None,
) -> Callable[[Run], Run]:
    """Register the decorated function as the command `name`; arguments as for Command.

    The first line of the function's docstring becomes the command's help, without its capital and its full stop.

    Raises:
        ValueError: there is a command of that name already.
    """

    def register(run: Run) -> Run:
        if name in COMMANDS:
            raise ValueError(f"the command /{name} is registered twice")
        sentence = (run.__doc__ or "").partition("\n")[0].removesuffix(".")
        text = sentence[:1].lower() + sentence[1:]
        COMMANDS[name] = Command(name, usage, text, more, tuple(options), first, later, setting, run)
        return run

    return register
