"""The commands with a slash: what they are called, take and do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Argument = Literal[
    "", "words", "picture", "setting", "set", "profile", "model", "file", "stage", "save", "switch", "command"
]
"""What completion offers behind a command."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        usage: what goes behind its name.
        help: one line.
        argument: what completion offers.
        more: lines for its own help.
    """

    usage: str
    help: str
    argument: Argument = ""
    more: tuple[str, ...] = ()


COMMANDS: Mapping[str, Command] = {
    "generate": Command(
        "WORDS [FLAGS]",
        "make a new picture, whatever is in hand",
        "words",
        ("/generate a cat at dusk --aspect 16:9 --seed 7 -n 4", "flags: those of `sensenova generate --help`"),
    ),
    "edit": Command(
        "WORDS [FLAGS]",
        "change the picture in hand, or the staged ones",
        "words",
        ("/edit make it an oil painting --cfg-scale 5", "flags: those of `sensenova edit --help`"),
    ),
    "describe": Command(
        "[QUESTION] [FLAGS]", "ask about the picture in hand, as ? in front of a line does", "words",
        ("/describe which animal is this?", "? which animal is this?", "flags: those of `sensenova describe --help`"),
    ),
    "chat": Command(
        "WORDS [FLAGS]", "talk; the model sees the pictures of the conversation", "words",
        ("/chat what can you do?", "flags: those of `sensenova chat --help`"),
    ),
    "think": Command(
        "on|off|WORDS", "plan in words before each picture, or before this one", "switch",
        ("/think on", "/think a cat reading a newspaper"),
    ),
    "again": Command("[FLAGS]", "make the last picture again, with the next seed", "words", ("/again -n 4",)),
    "use": Command("[N|none]", "take picture N in hand; without a number show the candidates", "picture"),
    "image": Command(
        "[N|FILE…|none]", "stage pictures: they go with the next line", "stage", ("/image 3 other.png",)
    ),
    "undo": Command("", "go back by one turn; pictures stay"),
    "redo": Command("", "take an undo back"),
    "set": Command(
        "[NAME VALUE]", "set a setting for the turns to come; alone, list what is set", "set",
        ("/set num_steps 30", "/set size 16:9", "/set cfg_interval 0.1 0.9"),
    ),
    "unset": Command("[NAME…|all]", "take settings of this session back", "setting"),
    "profile": Command("[NAME|PATH|none]", "use a profile", "profile"),
    "model": Command("[FOLDER|HUB_ID|demo]", "load another model", "model"),
    "lora": Command(
        "[FILE[:STRENGTH]|off]", "have the model with a LoRA, or with none", "file",
        ("/lora style.safetensors:0.8", "/lora owner/name", "/lora one.safetensors, two.safetensors", "/lora off"),
    ),
    "save": Command("[N] [FILE] [-f]", "copy a picture out of the session", "save", ("/save 3 cat.png",)),
    "load": Command("FILE", "take a picture from a file in hand", "file"),
    "stats": Command("", "time, tokens and memory of the last turn"),
    "history": Command("", "the turns so far"),
    "help": Command("[COMMAND]", "this list, or more about one command", "command"),
    "quit": Command("", "leave; Ctrl-D does, too"),
}  # fmt: skip

INTRODUCTION = (
    "Words make a picture; with a picture in hand they change it. ? in front asks about it.",
    "A line may end with flags: a cat at dusk --aspect 16:9 --seed 7",
    "A picture's file name, typed or pasted, is staged: it goes with the next line.",
)
KEYS = "Keys: Tab completes · Alt-Enter new line · Ctrl-R searches · Ctrl-X Ctrl-E opens an editor · Ctrl-C ends a turn"


def command_help(name: str | None) -> RenderableType:
    """All commands, or more about one."""
    if name is not None:
        command = COMMANDS[name]
        lines = [Text(f"/{name} {command.usage}".rstrip(), style="bold"), Text(command.help)]
        return Group(*lines, *(Text(f"  {line}", style="dim") for line in command.more))
    table = Table.grid(padding=(0, 2))
    for each, command in COMMANDS.items():
        table.add_row(Text(f"/{each} {command.usage}".rstrip(), style="bold"), command.help)
    return Group(*(Text(line) for line in INTRODUCTION), Text(), table, Text(), Text(KEYS, style="dim"))
