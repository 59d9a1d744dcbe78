"""Commands that change settings, the profile, the model and its LoRAs."""

from rich.table import Table
from rich.text import Text

from config.profiles import find_profile, profile_files
from config.settings import SESSION_SETTINGS, SETTING_NAMES
from config.validation import expected, near_miss
from model import OFFICIAL_MODEL, parse_loras
from sensenova_cli.errors import UsageError
from sensenova_cli.repl.line_options import NO_PROFILE
from sensenova_cli.repl.lines import Line, split_words
from sensenova_cli.repl.slash_commands.completion_sources import (
    folders,
    lora_files,
    profiles,
    set_in_session,
    settable,
    values,
    words,
)
from sensenova_cli.repl.slash_commands.registry import command
from sensenova_cli.repl.slash_commands.session_settings import format_value, set_session_settings
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import Unset, UseProfile


@command(
    "set",
    "[NAME VALUE]",
    more=("/set num_steps 30", "/set size 16:9", "/set cfg_interval 0.1 0.9"),
    first=(settable,),
    later=(values,),
)
def set_setting(repl: Workspace, line: Line) -> None:
    """Set a setting for the turns to come; alone, list what is set."""
    typed = split_words(line.text)
    if not typed:
        _list_settings(repl)
        return
    if len(typed) == 1 and "=" in typed[0]:
        typed = typed[0].split("=", 1)
    name = typed[0].replace("-", "_")
    if len(typed) < 2 and name in SESSION_SETTINGS:
        raise UsageError(f"/set {typed[0]}: there is no value", f"it is {expected(name)}")
    set_session_settings(repl, {name: " ".join(typed[1:])})


def _list_settings(repl: Workspace) -> None:
    resolved = repl.turns.resolve()
    table = Table.grid(padding=(0, 2))
    for name in SETTING_NAMES:
        of_session = name in repl.session.state.settings or name in repl.turns.set_by_commands
        origin = "this session" if of_session else resolved.origins[name]
        if origin != "default":
            table.add_row(name, format_value(getattr(resolved.settings, name)), Text(origin, style="dim"))
    repl.print(table)


@command("unset", "[NAME…|all]", first=(set_in_session, words({"all": ""})), later=(set_in_session,))
def unset(repl: Workspace, line: Line) -> None:
    """Take settings of this session back."""
    known = tuple(repl.session.state.settings)
    typed = [word.replace("-", "_") for word in split_words(line.text)]
    names = known if typed in ([], ["all"]) else tuple(typed)
    for name in names:
        if name not in known:
            meant = near_miss(name, known)
            hint = f"did you mean {meant}?" if meant else f"set are: {', '.join(known) or 'none'}"
            raise UsageError(f"{name} is not set in this session", hint)
    if not names:
        repl.say("nothing is set in this session")
        return
    repl.session.append(Unset(names=names))
    resolved = repl.turns.resolve()
    for name in names:
        repl.say(f"{name} = {format_value(getattr(resolved.settings, name))} ({resolved.origins[name]})")
    repl.follow_load_settings()


@command("profile", "[NAME|PATH|none]", first=(profiles,))
def profile(repl: Workspace, line: Line) -> None:
    """Use a profile."""
    word = line.text.strip()
    if not word:
        repl.tell(f"profile: {repl.turns.profile or 'none'}; there are: {', '.join(profile_files())}")
        return
    if word != NO_PROFILE:
        find_profile(word)
    repl.turns.check(repl.session.state.settings, word)
    repl.session.append(UseProfile(profile=word))
    repl.say(f"profile: {word}")
    repl.follow_load_settings()


@command(
    "model",
    "[FOLDER|HUB_ID|demo]",
    first=(words({"demo": "built in", OFFICIAL_MODEL: "35 GB"}), folders),
    setting="model",
)
def model(repl: Workspace, line: Line) -> None:
    """Load another model."""
    typed = split_words(line.text)
    if not typed:
        repl.tell(f"model: {repl.turns.model}")
        return
    if len(typed) > 1:
        raise UsageError("/model takes one name", "a folder, a Hub id, or demo")
    repl.turns.use_model(typed[0])
    repl.say(f"loading {typed[0]}")


@command(
    "lora",
    "[FILE[:STRENGTH]|off]",
    more=("/lora style.safetensors:0.8", "/lora owner/name", "/lora one.safetensors, two.safetensors", "/lora off"),
    first=(words({"off": "the model alone"}), lora_files),
    setting="lora",
)
def lora(repl: Workspace, line: Line) -> None:
    """Merge a LoRA into the model, or remove it."""
    text = line.text.strip()
    if text:
        repl.turns.use_loras(text)
    loras = parse_loras(repl.turns.resident_model.settings.lora)
    repl.say(f"LoRA: {', '.join(map(str, loras)) or 'none'}")
