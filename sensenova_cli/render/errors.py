"""Errors on stderr: what is wrong, then what to type next."""

from rich.text import Text

from sensenova_cli.render.console import printable, stderr_console


def print_error(what: str, hint: str = "") -> None:
    """Print `error: …`, and `hint: …` where there is one."""
    console = stderr_console()
    for label, style, text in (("error", "bold red", what), ("hint", "cyan", hint)):
        if text:
            console.print(Text.assemble((f"{label}:", style), " ", printable(text)), soft_wrap=True)
