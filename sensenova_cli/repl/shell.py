"""Where lines come from: a prompt in front of a person, or a pipe."""

import os
import sys
from collections.abc import Callable, Iterator

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.enums import DEFAULT_BUFFER, EditingMode
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

from config.errors import SenseNovaError
from sensenova_cli.render.console import is_animated, stderr_console
from sensenova_cli.render.progress import gigabytes
from sensenova_cli.repl.completion import LineCompleter
from sensenova_cli.repl.repl import Repl
from sensenova_cli.repl.slash_commands import Leave
from sensenova_cli.sessions.store import data_folder
from sensenova_cli.system.interrupts import exit_requested, handle_signals

HISTORY_FILE = "history"
STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack", "mode": "bold", "prompt": "bold ansicyan"})


def run_interactive(repl: Repl) -> None:
    """Ask for lines and do them until the user leaves, the terminal is closed, or SIGTERM comes."""
    ask = _asking(repl) if is_animated() else lambda: _ask_plainly(repl)
    while True:
        try:
            typed = ask()
        except KeyboardInterrupt:
            if exit_requested():
                return
            handle_signals()
            continue  # the line is given up, as in a shell
        except EOFError:
            return
        try:
            repl.do(typed)
        except Leave:
            return


def _ask_plainly(repl: Repl) -> str:
    """A line from a terminal on which nothing can be redrawn."""
    sys.stderr.write(f"{_prompt_word(repl)} › ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _asking(repl: Repl) -> Callable[[], str]:
    """The prompt with history, completion and a toolbar."""
    prompt: PromptSession[str] = PromptSession(
        history=_history(),
        completer=LineCompleter(repl),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        multiline=True,
        key_bindings=_keys(),
        editing_mode=EditingMode.EMACS,  # whatever EDITOR is: the keys are those that /help names
        enable_open_in_editor=True,
        bottom_toolbar=lambda: _toolbar(repl),
        prompt_continuation="… ",
        style=STYLE,
        color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
        refresh_interval=0.5,
    )
    return lambda: prompt.prompt([("class:prompt", f"{_prompt_word(repl)} › ")])


def run_script(repl: Repl) -> bool:
    """Do the lines of standard input; whether all of them went well. `#` starts a comment line.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    good = True
    for line in _joined(sys.stdin):
        if line.lstrip().startswith("#"):
            continue
        try:
            good &= repl.do(line)
        except Leave:
            if exit_requested():
                raise KeyboardInterrupt from None
            break
        if repl.was_interrupted:
            raise KeyboardInterrupt
    return good


def _joined(lines: Iterator[str]) -> Iterator[str]:
    """Lines, those that end with a backslash together with the next."""
    begun = ""
    for line in lines:
        line = line.rstrip("\r\n")
        if line.endswith("\\"):
            begun += line[:-1] + "\n"
            continue
        yield begun + line
        begun = ""
    if begun:
        yield begun


def _history() -> History:
    folder = data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / HISTORY_FILE).open("ab"):
            pass
    except OSError as error:
        stderr_console().print(f"note: lines are not remembered: {folder}: {error.strerror}", style="dim")
        return InMemoryHistory()
    return FileHistory(str(folder / HISTORY_FILE))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        """A line ends, unless a backslash stands before the cursor."""
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif buffer.complete_state and buffer.complete_state.current_completion:
            buffer.apply_completion(buffer.complete_state.current_completion)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _prompt_word(repl: Repl) -> str:
    if repl.mode == "chat":
        return "chat"
    state = repl.session.state
    return "edit" if state.selected or state.staged else "draw"


def _toolbar(repl: Repl) -> StyleAndTextTuples:
    """Mode, model, picture in hand, what is staged, size, steps, seed, profile and memory; what fits of it."""
    state, turns = repl.session.state, repl.turns
    try:
        settings = turns.current().settings
    except SenseNovaError:  # every turn says what is wrong with them
        return [("class:mode", _prompt_word(repl)), ("", " · the settings cannot be used")]
    parts = [_prompt_word(repl)]
    model = turns.resident_model
    if model.is_done:
        parts.append(turns.model)
    else:
        progress = model.progress
        share = f" {100 * progress.done // progress.total} %" if progress.total else ""
        parts.append(progress.title + share)
    if state.staged:
        parts.append("staged " + ", ".join(map(str, state.staged)))
    elif state.selected:
        parts.append(f"in hand {state.selected.number}")
    parts += [settings.size, f"{settings.num_steps} steps", f"seed {settings.seed}"]
    if settings.think:
        parts.append("think")
    if turns.profile:
        parts.append(turns.profile)
    if turns.measurements.statistics:
        parts.append(gigabytes(turns.measurements.statistics.peak_memory))
    width = get_app().output.get_size().columns
    text = parts[0]
    for part in parts[1:]:
        if len(text) + 3 + len(part) > width - 1:
            break
        text += f" · {part}"
    mode, _, rest = text.partition(" · ")
    return [("class:mode", mode), ("", f" · {rest}" if rest else "")]
