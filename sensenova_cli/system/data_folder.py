"""The folder of the user's data: sessions, the log and notes of earlier runs."""

import os
from pathlib import Path

from platformdirs import user_data_path

from sensenova_cli.errors import SessionError


def data_folder() -> Path:
    """Return the folder for the user's data; the environment variable SENSENOVA_DATA_DIR overrides it.

    Raises:
        SessionError: the user has no home folder, as in a container with an unknown user id.
    """
    override = os.environ.get("SENSENOVA_DATA_DIR")
    try:
        return Path(override).expanduser() if override else user_data_path("sensenova", appauthor=False)
    except RuntimeError:
        raise SessionError(
            "the folder of your sessions is unknown: this user has no home folder", "set SENSENOVA_DATA_DIR, or HOME"
        ) from None
