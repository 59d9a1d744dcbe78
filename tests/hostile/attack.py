"""The form of an attack: a function that writes a stranger's files into the current folder, and returns a command."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

SECRET = "ssh-ed25519 PRIVATE"
"""Content of the user's file `secret`, which no output may contain."""

Words = Sequence[str]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        kind: the kind of file: session, picture, checkpoint, settings or prompts.
        codes: the exit codes that are right.
        write: writes the files, and returns the words of the command.
    """

    kind: str
    codes: tuple[int, ...]
    write: Callable[[], Words]

    @property
    def name(self) -> str:
        """The attack's name: that of its function."""
        return self.write.__name__

    @property
    def aim(self) -> str:
        """What the stranger wants."""
        return " ".join((self.write.__doc__ or "").split())


ATTACKS: list[Attack] = []


def attack(kind: str, *codes: int) -> Callable[[Callable[[], Words]], Callable[[], Words]]:
    """Add a function to the list."""

    def add(write: Callable[[], Words]) -> Callable[[], Words]:
        ATTACKS.append(Attack(kind, codes, write))
        return write

    return add
