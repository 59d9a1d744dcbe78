"""The list of all attacks. `python -m tests.hostile.attacks` prints it as a table."""

from tests.hostile import checkpoints, pictures, prompt_files, sessions, settings_files
from tests.hostile.attack import ATTACKS, SECRET, Attack

__all__ = [
    "ATTACKS",
    "SECRET",
    "Attack",
    "checkpoints",
    "pictures",
    "prompt_files",
    "sessions",
    "settings_files",
    "table",
]


def table() -> str:
    """Return the list as a Markdown table."""
    lines = ["| file | attack | aim | exit code |", "| --- | --- | --- | --- |"]
    lines += [f"| {each.kind} | `{each.name}` | {each.aim} | {each.codes[0]} |" for each in ATTACKS]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
