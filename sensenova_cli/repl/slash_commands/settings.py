"""Slash commands that change settings, the profile, the model and its LoRAs: /set, /unset, /profile, /model, /lora."""

from rich.table import Table
from rich.text import Text

from config.errors import SenseNovaError
from config.profiles import find_profile, profile_files
from config.settings import SESSION_SETTINGS, SETTING_NAMES
from config.validation import expected, near_miss
from model import parse_loras
from sensenova_cli.errors import UsageError
from sensenova_cli.repl.lines import Line, split_words
from sensenova_cli.repl.session_notation import format_value
from sensenova_cli.repl.session_turns import NO_PROFILE
from sensenova_cli.repl.slash_commands.completion_sources import (
    fixed_words,
    folders,
    lora_files,
    models,
    names_set_in_session,
    profiles,
    setting_names,
    setting_values,
)
from sensenova_cli.repl.slash_commands.registry import slash_command
from sensenova_cli.repl.slash_commands.session_settings import set_session_settings
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import Unset, UseProfile


@slash_command(
    "set",
    "[NAME VALUE]",
    more=("/set num_steps 30", "/set size 16:9", "/set cfg_interval 0.1 0.9"),
    first=(setting_names,),
    later=(setting_values,),
)
def set_setting(workspace: Workspace, line: Line) -> None:
    """Set a setting for the following turns; alone, list the settings."""
    words = split_words(line.text)
    if not words:
        _list_settings(workspace)
        return
    if len(words) == 1 and "=" in words[0]:
        words = words[0].split("=", 1)
    name = words[0].replace("-", "_")
    if len(words) < 2 and name in SESSION_SETTINGS:
        raise UsageError(f"/set {words[0]}: the value is missing", f"it is {expected(name)}")
    set_session_settings(workspace, {name: " ".join(words[1:])})


def _list_settings(workspace: Workspace) -> None:
    resolved = workspace.turns.resolve()
    table = Table.grid(padding=(0, 2))
    for name in SETTING_NAMES:
        of_session = name in workspace.session.state.settings or name in workspace.turns.set_by_commands
        origin = "this session" if of_session else resolved.origins[name]
        if origin != "default":
            table.add_row(name, format_value(getattr(resolved.settings, name)), Text(origin, style="dim"))
    workspace.print(table)


@slash_command(
    "unset", "[NAME…|all]", first=(names_set_in_session, fixed_words({"all": ""})), later=(names_set_in_session,)
)
def unset(workspace: Workspace, line: Line) -> None:
    """Remove settings of this session."""
    known = tuple(workspace.session.state.settings)
    words = [word.replace("-", "_") for word in split_words(line.text)]
    names = known if words in ([], ["all"]) else tuple(words)
    for name in names:
        if name not in known:
            meant = near_miss(name, known)
            hint = f"did you mean {meant}?" if meant else f"this session sets: {', '.join(known) or 'nothing'}"
            raise UsageError(f"{name} is not set in this session", hint)
    if not names:
        workspace.say("nothing is set in this session")
        return
    workspace.session.append(Unset(names=names))
    resolved = workspace.turns.resolve()
    for name in names:
        workspace.say(f"{name} = {format_value(getattr(resolved.settings, name))} ({resolved.origins[name]})")
    workspace.reload_if_changed()


@slash_command("profile", "[NAME|PATH|none]", first=(profiles,))
def profile(workspace: Workspace, line: Line) -> None:
    """Use a profile for the following turns."""
    word = line.text.strip()
    if not word:
        workspace.print_text(f"profile: {workspace.turns.profile or 'none'}; available: {', '.join(profile_files())}")
        return
    if word != NO_PROFILE:
        find_profile(word)
    workspace.turns.resolve_with(workspace.session.state.settings, word)
    workspace.session.append(UseProfile(profile=word))
    workspace.say(f"profile: {word}")
    workspace.reload_if_changed()


@slash_command(
    "model",
    "[FOLDER|HUB_ID|demo]",
    first=(models, folders),
    setting="model",
)
def model(workspace: Workspace, line: Line) -> None:
    """Load another model; if that fails, the old one stays."""
    words = split_words(line.text)
    resident = workspace.turns.resident_model
    file = resident.settings.weights_file
    if not words:
        workspace.print_text(f"model: {resident.name}" + (f" with the weights {file}" if file else ""))
        return
    if len(words) > 1:
        raise UsageError("/model takes one name", "a folder, a Hub id, or demo")
    before = resident.name
    try:
        workspace.turns.use_model(words[0])
    except SenseNovaError as error:
        error.hint = "; ".join(filter(None, (error.hint, f"the model is still {before}")))
        raise
    except KeyboardInterrupt:
        workspace.say(f"the model is still {before}")
        raise
    workspace.say(f"model: {workspace.turns.resident_model.name}")
    if file:
        workspace.say(f"it has its own weights; {file} was for {before}")


@slash_command(
    "lora",
    "[FILE[:STRENGTH]|off]",
    more=("/lora style.safetensors:0.8", "/lora owner/name", "/lora one.safetensors, two.safetensors", "/lora off"),
    first=(fixed_words({"off": "no LoRA"}), lora_files),
    setting="lora",
)
def lora(workspace: Workspace, line: Line) -> None:
    """Merge a LoRA into the model, or remove it."""
    text = line.text.strip()
    if text:
        workspace.turns.use_loras(text)
    loras = parse_loras(workspace.turns.resident_model.settings.lora)
    workspace.say(f"LoRA: {', '.join(map(str, loras)) or 'none'}")
