"""The folder of the user's settings, profiles and aliases. This module works without the settings' models."""

import os
from pathlib import Path

from platformdirs import user_config_path

from config.errors import SettingsError


def user_folder() -> Path:
    """Return the folder of the user's settings. The variable SENSENOVA_CONFIG_DIR overrides it.

    Raises:
        SettingsError: the user has no home folder, as in a container with an unknown user id.
    """
    override = os.environ.get("SENSENOVA_CONFIG_DIR")
    try:
        return Path(override).expanduser() if override else user_config_path("sensenova", appauthor=False)
    except RuntimeError:
        raise SettingsError(
            "the folder of your settings is unknown: this user has no home folder", "set SENSENOVA_CONFIG_DIR, or HOME"
        ) from None


def has_user_folder() -> bool:
    """Return whether the user has a folder for settings; one without a home folder has none."""
    try:
        user_folder()
    except SettingsError:
        return False
    return True
