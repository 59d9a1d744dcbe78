"""The commands of the campaign. A new command of the program is one more row of COMMANDS.

All of them run in a folder with these files: `in.png` (a picture with a record), `keep.png` and `keep.html` (existing
files), `prompts.txt`, `sensenova.toml`, a checkpoint, and the sessions `old` and `other` with two pictures each.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command line.

    Attributes:
        words: the words after `sensenova`.
        stdin: the standard input.
        replaces: existing files that the command may replace.
        removes: the session that it may remove, but only whole.
        asks: whether it is a server, which gets two requests and then SIGTERM.
    """

    words: tuple[str, ...]
    stdin: str = ""
    replaces: tuple[str, ...] = ()
    removes: str = ""
    asks: bool = False

    @property
    def name(self) -> str:
        """The command line, for the table."""
        return " ".join(self.words)


LINES = """a cat
/edit make it red
? which animal is this?
/save copy.png
/undo
/set seed 3
/load in.png
make it blue --seed 9
/again
/use 1
/profile draft
/chat hello
/interleave a tale
/chat and then?
"""

COMMANDS = (
    Command(("generate", "a cat", "--seed", "7", "-n", "2")),
    Command(("generate", "a cat", "-o", "new/{seed}.png", "--think", "--json")),
    Command(("generate", "a cat", "-o", "keep.png", "-f"), replaces=("keep.png",)),
    Command(("generate", "a cat", "-o", "-")),
    Command(("generate", "--from", "in.png", "--model", "checkpoint")),
    Command(("generate", "--prompt-file", "prompts.txt")),
    Command(("edit", "--image", "in.png", "make it red")),
    Command(("edit", "in.png", "make it red", "--json")),
    Command(("interleave", "a tale", "-o", "book/")),
    Command(("interleave", "a tale", "--json", "--html", "tale.html")),
    Command(("describe", "in.png")),
    Command(("chat", "hello")),
    Command(("run", "--prompt", "a cat", "--output", "made")),
    Command(("repl", "--session", "fresh"), stdin=LINES),
    Command(("repl", "--session", "old"), stdin=LINES),
    Command(("sessions", "list")),
    Command(("sessions", "show", "old", "--json")),
    Command(("sessions", "export", "old")),
    Command(("sessions", "export", "old", "-o", "shared.md")),
    Command(("sessions", "export", "old", "-o", "keep.html", "-f"), replaces=("keep.html",)),
    Command(("sessions", "rm", "-y", "old"), removes="old"),
    Command(("profile", "list")),
    Command(("profile", "show")),
    Command(("profile", "path")),
    Command(("profile", "init", "mine")),
    Command(("profile", "check", "sensenova.toml")),
    Command(("info", "in.png")),
    Command(("info", "checkpoint", "--json")),
    Command(("verify", "--quick", "demo")),
    Command(("tiny-checkpoint", "tiny")),
    Command(("convert", "demo", "eight", "--quantization", "int8")),
    Command(("serve", "--port", "0"), asks=True),
)
