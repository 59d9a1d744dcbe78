"""Completion of words in the shell: names of sessions, profiles, models and settings. Nothing is imported before it is
needed."""

import os
from collections.abc import Iterable
from pathlib import Path

import typer

SERVER = "serve."
"""Beginning of the names of the server's settings outside their table."""


def complete_sessions(incomplete: str) -> list[str]:
    """Return the names of sessions that begin with a word."""
    from sensenova_cli.errors import SessionError
    from sensenova_cli.sessions.store import session_folders

    try:
        return _matching(incomplete, session_folders())
    except SessionError:  # a shell that completes has no place for an error
        return []


def complete_profiles(incomplete: str) -> list[str]:
    """Return the names of profiles that begin with a word."""
    from config.errors import SettingsError
    from config.profiles import profile_files

    try:
        return _matching(incomplete, profile_files())
    except SettingsError:  # as above
        return []


def complete_models(incomplete: str) -> list[str]:
    """Return the models that begin with a word: the demo, aliases, the published ones, and those in the Hub cache."""
    from config.model_names import HUB_IDS
    from model import DEMO_MODEL

    return _matching(incomplete, [DEMO_MODEL, *_aliases(), *HUB_IDS, *HUB_IDS.values(), *_cached_models()])


def complete_loras(incomplete: str) -> list[str]:
    """Return the LoRAs that begin with a word: aliases, and the short names of the published ones."""
    from config.model_names import LORAS

    return _matching(incomplete, [*_aliases(), *LORAS])


def _aliases() -> list[str]:
    from config.aliases import read_aliases
    from config.errors import SettingsError

    try:
        return [*read_aliases()]
    except SettingsError:  # as above
        return []


def complete_setting_names(incomplete: str) -> list[str]:
    """Return the names of settings that begin with a word."""
    from config.declarations import DECLARATIONS, SERVE

    return _matching(incomplete, [*DECLARATIONS, *(f"{SERVER}{name}" for name in SERVE)])


def complete_setting_values(context: typer.Context, incomplete: str) -> list[str]:
    """Return the values that begin with a word, of the setting that the command line names before."""
    from config.declarations import DECLARATIONS, SERVE

    name = str(context.params.get("name") or "").replace("-", "_")
    declared = SERVE.get(name.removeprefix(SERVER)) if name.startswith(SERVER) else DECLARATIONS.get(name)
    if name == "model":
        return complete_models(incomplete)
    if declared is None:
        return []
    return _matching(incomplete, ("true", "false") if declared.kind == "bool" else declared.choices)


def _cached_models() -> list[str]:
    """Return the Hub ids of this family in the Hub cache, sorted. Its folder has the variables of huggingface_hub."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    folder = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    try:
        names = sorted(each.name for each in folder.iterdir())
    except OSError:
        return []
    ids = [name.removeprefix("models--").replace("--", "/", 1) for name in names if name.startswith("models--")]
    return [each for each in ids if "sensenova" in each.lower()]


def _matching(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
