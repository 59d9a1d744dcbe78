"""Settings files from strangers."""

import os
from pathlib import Path

from tests.hostile.attack import Words, attack


def settings(text: str | bytes) -> Words:
    """Write a profile; return a command that uses it."""
    Path("theirs.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    return ["generate", "a cat", "--profile", "./theirs.toml"]


@attack("settings", 2)
def toml_too_long() -> Words:
    """Fill the memory with a sparse file of 1 TB."""
    words = settings("")
    with Path("theirs.toml").open("wb") as file:
        file.truncate(2**40)
    return words


@attack("settings", 2)
def toml_pipe() -> Words:
    """Let the program wait for a pipe."""
    os.mkfifo("theirs.toml")
    return ["generate", "a cat", "--profile", "./theirs.toml"]


@attack("settings", 2)
def toml_brackets() -> Words:
    """Overflow the stack of the TOML reader."""
    return settings("a = " + "[" * 100_000)


@attack("settings", 2)
def toml_digits() -> Words:
    """Stop the reader with a number of 6,000 digits."""
    return settings("seed = " + "9" * 6000)


@attack("settings", 2)
def toml_bytes() -> Words:
    """Stop the reader with bytes that are not text."""
    return settings(bytes(range(256)))


@attack("settings", 2)
def toml_output_nul() -> Words:
    """Lose the finished picture with a name that no file can have."""
    return settings('output = "a\\u0000b.png"')


@attack("settings", 2)
def toml_output_width() -> Words:
    """Fill the memory with a file name of 10 GB."""
    return settings('output = "{seed:09999999999}.png"')


@attack("settings", 2)
def toml_output_attribute() -> Words:
    """Read the program's variables through a template of a file name."""
    return settings('output = "{seed.__class__.__mro__}.png"')


@attack("settings", 2)
def toml_keys() -> Words:
    """Change the terminal with escape sequences in a key."""
    return settings('"\\u001b[2J\\u202e" = 1')
