"""Where settings files lie, and which profiles there are."""

import os
from pathlib import Path

from platformdirs import user_config_path

from config.errors import SettingsError
from config.validation import near_miss

PROJECT_FILE = Path("sensenova.toml")
"""The project file, relative to the current folder."""

BUILT_IN_FOLDER = Path(__file__).parent / "profiles"
"""The profiles that come with the program."""


def user_folder() -> Path:
    """Folder of the user's own settings; the variable SENSENOVA_CONFIG_DIR moves it."""
    moved = os.environ.get("SENSENOVA_CONFIG_DIR")
    return Path(moved).expanduser() if moved else user_config_path("sensenova", appauthor=False)


def user_file() -> Path:
    """The user's settings for every folder and command."""
    return user_folder() / "config.toml"


def user_profile(name: str) -> Path:
    """Where the user's profile of this name is or would be."""
    return user_folder() / "profiles" / f"{name}.toml"


def is_profile_path(profile: str) -> bool:
    """Whether `--profile` was given a file rather than a name: it has a separator or ends in .toml."""
    separators = {os.sep, os.altsep or os.sep}
    return profile.endswith(".toml") or any(separator in profile for separator in separators)


def profile_files() -> dict[str, Path]:
    """All profiles with a name, sorted by it; the user's own replaces a built-in one of the same name.

    Raises:
        SettingsError: the folder of the user's profiles cannot be looked into.
    """
    found: dict[str, Path] = {}
    for folder in (BUILT_IN_FOLDER, user_folder() / "profiles"):
        try:
            found.update({path.stem: path for path in folder.iterdir() if path.suffix == ".toml"})
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SettingsError(
                f"{folder}: cannot be looked into: {error.strerror}", "set SENSENOVA_CONFIG_DIR to another folder"
            ) from None
    return dict(sorted(found.items()))


def find_profile(profile: str) -> Path:
    """The file of a profile given by name or path.

    Raises:
        SettingsError: there is no profile of that name, or no such file.
    """
    if is_profile_path(profile):
        path = Path(profile).expanduser()
        if not _exists(path):
            raise SettingsError(f"there is no profile file {profile}", "`sensenova profile list` shows the profiles")
        return path
    known = profile_files()
    if profile not in known:
        meant = near_miss(profile, known)
        names = ", ".join(known)
        hint = f"did you mean {meant}? Known profiles: {names}" if meant else f"known profiles: {names}"
        raise SettingsError(f"there is no profile named {profile!r}", hint)
    return known[profile]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # A name too long for the file system, or a folder that may not be entered.
        return False
