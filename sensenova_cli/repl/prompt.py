"""The prompt of a session in a terminal: history, completion, keys and the toolbar."""

import os
import sys
from collections.abc import Callable

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.enums import DEFAULT_BUFFER, EditingMode
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.styles import Style

from config.errors import SenseNovaError
from config.units import format_memory
from sensenova_cli.repl.completion import LineCompleter
from sensenova_cli.repl.history import open_history
from sensenova_cli.repl.repl import Repl
from sensenova_cli.system.data_folder import data_folder
from sensenova_cli.system.interrupts import exit_requested, prompting

EDIT_KEYS = "Enter draws this · Ctrl-C draws nothing · an empty line draws your own words"
STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack", "mode": "bold", "prompt": "bold ansicyan"})


def make_prompt(repl: Repl) -> Callable[[], str]:
    """Return a function that prompts for one line."""
    prompt: PromptSession[str] = PromptSession(
        history=open_history(data_folder()),
        completer=LineCompleter(repl),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        multiline=True,
        key_bindings=_keys(),
        editing_mode=EditingMode.EMACS,  # independent of EDITOR: /help names these keys
        enable_open_in_editor=True,
        bottom_toolbar=lambda: _toolbar(repl),
        prompt_continuation="… ",
        style=STYLE,
        color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
        refresh_interval=0.5,
        enable_suspend=True,
        # Results on stdout may go to a program or a file, as with `| tee`.
        output=None if sys.stdout.isatty() else create_output(stdout=sys.stderr),
    )

    return lambda: _run(prompt, prompt_word(repl))


def _run(prompt: "PromptSession[str]", word: str, text: str = "") -> str:
    """Read a line, of which the user gets a text to start with. SIGTERM and SIGHUP end it like Ctrl-D."""

    def leave() -> None:
        """Ask the event loop of the prompt to end it; this runs in a signal handler."""
        loop = prompt.app.loop
        if loop is not None and prompt.app.is_running:
            loop.call_soon_threadsafe(lambda: prompt.app.is_done or prompt.app.exit(exception=EOFError))

    def leave_if_asked() -> None:
        if exit_requested():  # the signal arrived before the loop ran
            leave()

    with prompting(leave):
        return prompt.prompt([("class:prompt", f"{word} › ")], default=text, pre_run=leave_if_asked)


def edit_prompt(text: str) -> str:
    """Show a prompt that a model has rewritten, and return it as the user leaves it.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C or Ctrl-D, or the program has to end.
    """
    prompt: PromptSession[str] = PromptSession(
        multiline=True,
        key_bindings=_keys(),
        editing_mode=EditingMode.EMACS,
        enable_open_in_editor=True,
        bottom_toolbar=EDIT_KEYS,
        prompt_continuation="… ",
        style=STYLE,
        color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
        output=None if sys.stdout.isatty() else create_output(stdout=sys.stderr),
    )
    try:
        return _run(prompt, "new prompt", text)
    except EOFError:
        raise KeyboardInterrupt from None


def prompt_word(repl: Repl) -> str:
    """Return the word before `›`, which names the effect of a plain prompt."""
    if repl.mode == "chat":
        return "chat"
    state = repl.session.state
    return "edit" if state.selected or state.staged else "draw"


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        """End the line, unless a backslash is before the cursor."""
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


def _toolbar(repl: Repl) -> StyleAndTextTuples:
    """Return mode, model, selected or staged pictures, settings, profile and memory, if they fit on a line."""
    state, turns = repl.session.state, repl.turns
    try:
        settings, size, seed = turns.current_settings().settings, repl.next_size(), repl.next_seed()
    except SenseNovaError:  # the error is shown at the start and by every turn
        return [("class:mode", prompt_word(repl)), ("", " · the settings are invalid")]
    parts = [prompt_word(repl)]
    model = turns.resident_model
    if model.is_done:
        parts.append(model.name)
    else:
        progress = model.progress
        share = f" {100 * progress.done // progress.total} %" if progress.total else ""
        parts.append(progress.title + share)
    if state.staged:
        parts.append("staged " + ", ".join(map(str, state.staged)))
    elif state.selected:
        parts.append(f"selected {state.selected.number}")
    if repl.mode == "pictures":
        parts += [size, f"{settings.num_steps} steps", f"seed {seed}"]
        if settings.think:
            parts.append("think")
        if settings.enhance:
            parts.append("enhance")
    if turns.profile:
        parts.append(turns.profile)
    if turns.measurements.statistics and turns.measurements.statistics.peak_memory:
        parts.append(format_memory(turns.measurements.statistics.peak_memory))
    width = get_app().output.get_size().columns
    text = parts[0]
    for part in parts[1:]:
        if len(text) + 3 + len(part) > width - 1:
            break
        text += f" · {part}"
    mode, _, rest = text.partition(" · ")
    return [("class:mode", mode), ("", f" · {rest}" if rest else "")]
