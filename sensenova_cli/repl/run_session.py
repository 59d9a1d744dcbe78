"""The two loops of a session: one reads lines at a prompt, the other reads a script on standard input."""

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

from sensenova_cli.errors import UsageError
from sensenova_cli.render.console import is_animated
from sensenova_cli.render.errors import print_error
from sensenova_cli.repl.prompt import edit_prompt, make_prompt, prompt_word
from sensenova_cli.repl.repl import Repl
from sensenova_cli.repl.slash_commands import EndSession
from sensenova_cli.system.interrupts import exit_requested, handle_signals
from sensenova_cli.system.streams import MAX_TEXT_BYTES
from sensenova_cli.system.terminal_echo import hidden_keys


def run_interactive(repl: Repl) -> None:
    """Prompt for lines and run them until the user leaves, the terminal is closed, or SIGTERM arrives."""
    read_line: Callable[[], str] = make_prompt(repl) if is_animated() else lambda: _read_plainly(repl)
    if is_animated():
        repl.turns.edit_prompt = edit_prompt
    while True:
        try:
            typed = read_line()
        except KeyboardInterrupt:
            handle_signals()
            if exit_requested():
                return
            continue  # Ctrl-C drops the line, as in a shell
        except EOFError:
            return
        try:
            with hidden_keys() if is_animated() else nullcontext():
                repl.run_line(typed)
        except EndSession:
            return


def run_script(repl: Repl) -> bool:
    """Run the lines of standard input; return whether all of them succeeded. `#` starts a comment line.

    Raises:
        KeyboardInterrupt: a signal was received.
    """
    success = True
    for line in _joined(_script_lines()):
        if isinstance(line, UsageError):
            print_error(line.what, line.hint)
            success = False
            continue
        if line.lstrip().startswith("#"):
            continue
        try:
            success &= repl.run_line(line)
        except EndSession:
            if exit_requested():
                raise KeyboardInterrupt from None
            break
        if repl.was_interrupted:
            raise KeyboardInterrupt
    return success


def _read_plainly(repl: Repl) -> str:
    """Read a line from a terminal that cannot redraw. If stderr is a file, the prompt is on stdout."""
    screen = sys.stdout if sys.stdout.isatty() and not sys.stderr.isatty() else sys.stderr
    screen.write(f"{prompt_word(repl)} › ")
    screen.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _script_lines() -> Iterator[str | UsageError]:
    """Yield the lines of standard input; an error in place of a line that is not text. A byte-order mark is left out,
    as some editors write one."""
    read = partial(sys.stdin.buffer.readline, MAX_TEXT_BYTES + 1)
    for number, content in enumerate(iter(read, b""), start=1):
        if len(content) > MAX_TEXT_BYTES:
            yield UsageError(
                f"standard input, line {number}: this line has more than {MAX_TEXT_BYTES:,} bytes", "shorten it"
            )
            return
        try:
            yield content.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            place = f"standard input, line {number}, byte {error.start + 1}"
            yield UsageError(f"{place}: this is not UTF-8 text", "save the lines as UTF-8")


def _joined(lines: Iterator[str | UsageError]) -> Iterator[str | UsageError]:
    """Yield lines; a line that ends with a backslash is joined with the next one."""
    begun = ""
    for line in lines:
        if isinstance(line, UsageError):
            yield line
            continue
        line = line.rstrip("\r\n")
        if line.endswith("\\"):
            begun += line[:-1] + "\n"
            continue
        yield begun + line
        begun = ""
    if begun:
        yield begun
