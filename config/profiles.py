"""Paths of settings files and profiles."""

import os
from pathlib import Path

from config.errors import SettingsError
from config.user_folder import has_user_folder, user_folder

PROJECT_FILE = Path("sensenova.toml")
"""Path of the project file, relative to the current folder."""
RECOMMENDED_FILE = "recommended_settings.json"
"""File of a checkpoint's folder with the settings that it recommends."""
PREFIX = "SENSENOVA_"
"""Prefix of environment variables. A setting's variable is the prefix and the setting's name in capitals."""

BUILT_IN_FOLDER = Path(__file__).parent / "profiles"
"""Folder of the built-in profiles."""


def user_file() -> Path:
    """Return the path of the user file, which applies in every folder."""
    return user_folder() / "config.toml"


def user_profile(name: str) -> Path:
    """Return the path of the user's profile with this name, which need not exist."""
    return user_folder() / "profiles" / f"{name}.toml"


def is_profile_path(profile: str) -> bool:
    """Return whether a value of `--profile` is a path, with a separator or the suffix .toml, and not a name."""
    separators = {os.sep, os.altsep or os.sep}
    return profile.endswith(".toml") or any(separator in profile for separator in separators)


def profile_files() -> dict[str, Path]:
    """Return the named profiles, sorted by name. A user's profile replaces a built-in one of the same name.

    Raises:
        SettingsError: the folder of the user's profiles cannot be read.
    """
    found: dict[str, Path] = {}
    folders = [BUILT_IN_FOLDER, user_folder() / "profiles"] if has_user_folder() else [BUILT_IN_FOLDER]
    for folder in folders:
        try:
            found.update({path.stem: path for path in folder.iterdir() if path.suffix == ".toml"})
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SettingsError(
                f"{folder}: cannot be read: {error.strerror}", "set SENSENOVA_CONFIG_DIR to another folder"
            ) from None
    return dict(sorted(found.items()))


def find_profile(profile: str) -> Path:
    """Return the file of a profile with a name or path.

    Raises:
        SettingsError: there is no such profile or file.
    """
    if is_profile_path(profile):
        path = Path(profile).expanduser()
        if not _exists(path):
            raise SettingsError(f"there is no profile file {profile}", "`sensenova profile list` shows the profiles")
        return path
    known = profile_files()
    if profile not in known:
        from config.validation import near_miss  # defines the settings' models, which completion does not need

        meant = near_miss(profile, known)
        names = ", ".join(known)
        hint = f"did you mean {meant}? Known profiles: {names}" if meant else f"known profiles: {names}"
        raise SettingsError(f"there is no profile named {profile!r}", hint)
    return known[profile]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # The name is too long for the file system, or the folder cannot be accessed.
        return False
