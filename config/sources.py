"""Layers of settings: read, check and merge them, and remember the layer of each value.

Later layers win: defaults, the checkpoint's recommendations, user file, project file, profile, environment, the record
of a picture (`--from`), flags, and the settings beside a prompt in a prompt file.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from config.errors import SettingsError
from config.profiles import PREFIX, PROJECT_FILE, find_profile, is_profile_path, user_file
from config.recommended import Recommended, check_recommended
from config.settings import (
    REMOTE_SETTINGS,
    SETTING_NAMES,
    LoadSettings,
    OutputSettings,
    ServeSettings,
    Settings,
    SettingsGroup,
    require_compatible,
)
from config.toml_file import SettingsFile, read_settings_file, show_path, toml_literal
from config.user_folder import has_user_folder
from config.validation import Notation, check_values

OTHER_VARIABLES: dict[str, str] = {
    "SENSENOVA_CONFIG_DIR": "folder of the user file and the user's profiles",
    "SENSENOVA_DATA_DIR": "folder of saved sessions and other user data",
    "SENSENOVA_ENHANCE_KEY": "key of the endpoint that `enhance_with` names",
    "SENSENOVA_PROFILE": "profile to use without --profile",
    "SENSENOVA_RANK_KEY": "key that the ranks of a launcher on several hosts share",
    "SENSENOVA_SERVER_KEY": "key of the server that `server` names",
    "SENSENOVA_SERVE_API_KEY": "key that clients of `sensenova serve` must send",
}
"""Environment variables that are not settings, with their meaning."""

SERVE_PREFIX = PREFIX + "SERVE_"
"""Prefix of the environment variables of `sensenova serve`, such as SENSENOVA_SERVE_PORT."""

FOREIGN_VARIABLES = frozenset(
    PREFIX + name
    for name in (
        "API_KEY",
        "API_KEYS",
        "ACCESS_KEY_ID",
        "SECRET_ACCESS_KEY",
        "BASE_URL",
        "API_BASE",
        "U1_SRC",
    )
)
"""Variables of SenseNova's web service and the reference implementation's tools, which we ignore."""

KUBERNETES_VARIABLE = re.compile(
    rf"{PREFIX}(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""Variables that Kubernetes sets for a service named `sensenova`, which we ignore, too."""


@dataclass(frozen=True)
class Resolved:
    """The settings of one turn.

    Attributes:
        settings: the merged settings.
        origins: name of a setting → label of its layer, such as `project file ./sensenova.toml`.
    """

    settings: Settings
    origins: Mapping[str, str]


@dataclass(frozen=True)
class Layers:
    """The merged values of all layers above the checkpoint's recommendations, which are read and checked once.

    A checkpoint recommends neither load nor output settings, so `load` and `output` are final before the checkpoint is
    found. `resolve` merges the other settings when its recommendations are known.

    Attributes:
        values: name of a setting → checked value, for all settings in a layer.
        origins: name of a setting → label of its layer.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    @cached_property
    def load(self) -> LoadSettings:
        """The load settings. With a server these are only the ones that find it, and what flags ask of it: all others
        describe a model on this machine."""
        values = self._of(LoadSettings)
        load = LoadSettings.model_validate(values)
        if not load.is_remote:
            return load
        asked = {name: value for name, value in values.items() if name in REMOTE_SETTINGS or self._is_flag(name)}
        return LoadSettings.model_validate(asked)

    @cached_property
    def output(self) -> OutputSettings:
        """The output settings."""
        return OutputSettings.model_validate(self._of(OutputSettings))

    def resolve(
        self,
        recommended: Recommended | None = None,
        line: Mapping[str, Any] | None = None,
        line_label: str = "prompt file",
    ) -> Resolved:
        """Merge the checkpoint's recommendations, these layers, and a prompt's own settings, of which later ones win.

        Args:
            recommended: the checkpoint's recommendations; None if they are not known yet.
            line: settings beside a prompt in a prompt file.
            line_label: name of that line in messages and origins, such as `prompts.jsonl:3`.

        Raises:
            SettingsError: a recommended setting or one of the line is not valid, or settings contradict each other.
        """
        below, above = _merge(_checkpoint_layer(recommended)), _merge(_typed_layer(line or {}, line_label))
        settings = Settings.model_validate({**below.values, **self.values, **above.values})
        require_compatible(settings, settings.cache)
        defaults = dict.fromkeys(SETTING_NAMES, "default")
        return Resolved(settings, {**defaults, **below.origins, **self.origins, **above.origins})

    def _is_flag(self, name: str) -> bool:
        return self.origins.get(name, "").startswith("flag ")

    def _require_no_local_flags(self) -> None:
        """Raise SettingsError if a flag sets how to load a model that a server has loaded already."""
        if not self.load.is_remote:
            return
        for name in LoadSettings.model_fields:
            is_default = self.values.get(name) == LoadSettings.model_fields[name].default
            if self._is_flag(name) and not is_default and name not in (*REMOTE_SETTINGS, "model", "lora"):
                raise SettingsError(
                    f"{self.origins[name].removeprefix('flag ')} is about loading a model here, and the server "
                    f"{self.load.server} has loaded its own",
                    "leave it out, or load the model here: `server=off`",
                )

    def _of(self, group: type[SettingsGroup]) -> dict[str, Any]:
        return {name: value for name, value in self.values.items() if name in group.model_fields}


def read_layers(
    flags: Mapping[str, Any] | None = None,
    *,
    profile: str | None = None,
    record: Mapping[str, Any] | None = None,
    record_label: str = "picture",
) -> Layers:
    """Read and check all layers above the checkpoint's recommendations.

    Args:
        flags: values that the user typed, by setting; text is converted, and None means not typed.
        profile: name or path of a profile; if None, the value of SENSENOVA_PROFILE.
        record: settings of a picture to replay.
        record_label: name of that picture in messages and origins, such as `picture cat.png`.

    Raises:
        SettingsError: a file cannot be read, the profile does not exist, a setting has an unknown name, a wrong type or
            a value out of bounds, or load settings contradict each other. The message names the file and line, the
            variable or the flag.
    """
    layers = _merge(
        _file_layers(profile), _environment_layer(), _typed_layer(record or {}, record_label), _flag_layer(flags or {})
    )
    layers._require_no_local_flags()
    require_compatible(layers.load, layers.values.get("cache", "off"))
    return layers


def read_serve_settings(flags: Mapping[str, Any] | None = None, *, profile: str | None = None) -> ServeSettings:
    """Read, check and merge the settings of `sensenova serve`: the tables `[serve]`, the environment, and flags.

    Arguments and errors as for `read_layers`.
    """
    return resolve_serve(flags, profile=profile)[0]


def resolve_serve(
    flags: Mapping[str, Any] | None = None, *, profile: str | None = None
) -> tuple[ServeSettings, Mapping[str, str]]:
    """Return the settings of `sensenova serve`, as `read_serve_settings`, and the label of the layer of each."""
    merged = _merge(
        ((name, value, label) for file, label in _files(profile) for name, value in file.serve.items()),
        _serve_environment_layer(),
        _serve_flag_layer(flags or {}),
    )
    defaults = dict.fromkeys(ServeSettings.model_fields, "default")
    return ServeSettings.model_validate(merged.values), {**defaults, **merged.origins}


def resolve(
    flags: Mapping[str, Any] | None = None,
    *,
    profile: str | None = None,
    recommended: Recommended | None = None,
    record: Mapping[str, Any] | None = None,
    record_label: str = "picture",
    line: Mapping[str, Any] | None = None,
    line_label: str = "prompt file",
) -> Resolved:
    """Read and merge all layers; arguments and errors as for `read_layers` and `Layers.resolve`."""
    layers = read_layers(flags, profile=profile, record=record, record_label=record_label)
    return layers.resolve(recommended, line, line_label)


Layer = Iterator[tuple[str, Any, str]]
"""Name, checked value and label of each setting in a layer."""


def _merge(*layers: Layer) -> Layers:
    """Merge layers. Later ones win."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for name, value, label in layer:
            values[name] = value
            origins[name] = label
    return Layers(values, origins)


def _checkpoint_layer(recommended: Recommended | None) -> Layer:
    if recommended is not None:
        for name, value in check_recommended(recommended.settings, "recommended settings of the checkpoint").items():
            yield name, value, "checkpoint"


def _file_layers(profile: str | None) -> Layer:
    for file, label in _files(profile):
        for name, value in file.values.items():
            yield name, value, label


def _files(profile: str | None) -> Iterator[tuple[SettingsFile, str]]:
    """Yield the settings files that apply, with their labels: user file, project file, profile."""
    files = [(user_file(), "user file")] if has_user_folder() else []
    for path, kind in (*files, (PROJECT_FILE, "project file")):
        if _may_exist(path):
            yield read_settings_file(path), f"{kind} {show_path(path)}"
    place = ""
    if profile is None:
        profile = os.environ.get("SENSENOVA_PROFILE") or None
        place = "SENSENOVA_PROFILE: "
    if profile is not None:
        try:
            path = find_profile(profile)
        except SettingsError as error:
            raise SettingsError(place + error.what, error.hint) from None
        shown = show_path(path) if is_profile_path(profile) else profile
        yield read_settings_file(path), f"profile {shown}"


def _environment_layer() -> Layer:
    given = {
        key.removeprefix(PREFIX).lower(): text
        for key, text in os.environ.items()
        # An empty variable counts as unset, as for NO_COLOR: `SENSENOVA_SEED= sensenova …` clears one.
        if key.startswith(PREFIX)
        and text
        and key not in OTHER_VARIABLES
        and key not in FOREIGN_VARIABLES
        and not key.startswith(SERVE_PREFIX)
        and not KUBERNETES_VARIABLE.fullmatch(key)
    }
    others = (variable.removeprefix(PREFIX).lower() for variable in OTHER_VARIABLES)
    for name, value in check_values(given, _ENVIRONMENT, (*SETTING_NAMES, *others)).items():
        yield name, value, f"environment {_variable(name)}"


def _typed_layer(given: Mapping[str, Any], label: str) -> Layer:
    notation = Notation(place=lambda name: f"{label}: ", key=str, equals=" = ", literal=toml_literal, text=False)
    for name, value in check_values(given, notation).items():
        yield name, value, label


def _flag_layer(flags: Mapping[str, Any]) -> Layer:
    typed = {name: value for name, value in flags.items() if value is not None}
    for name, value in check_values(typed, _FLAGS).items():
        yield name, value, f"flag {_flag(name, value)}"


def _serve_environment_layer() -> Layer:
    given = {
        key.removeprefix(SERVE_PREFIX).lower(): text
        for key, text in os.environ.items()
        if key.startswith(SERVE_PREFIX) and text and key not in OTHER_VARIABLES
    }
    variables = replace(_ENVIRONMENT, key=lambda name: SERVE_PREFIX + name.upper())
    for name, value in check_values(given, variables, ServeSettings.model_fields, ServeSettings).items():
        yield name, value, f"environment {SERVE_PREFIX + name.upper()}"


def _serve_flag_layer(flags: Mapping[str, Any]) -> Layer:
    typed = {name: value for name, value in flags.items() if value is not None}
    for name, value in check_values(typed, _FLAGS, ServeSettings.model_fields, ServeSettings).items():
        yield name, value, f"flag {_flag(name, value)}"


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # For example, the folder cannot be accessed. Reading the file then reports the error.
        return True


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _flag(name: str, value: Any = None) -> str:
    return ("--no-" if value is False else "--") + name.replace("_", "-")


def _words(value: Any, between: str = " ") -> str:
    if isinstance(value, list | tuple):
        return between.join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nothing(name: str) -> str:
    return ""


_ENVIRONMENT = Notation(
    place=_nothing,
    key=_variable,
    equals="=",
    literal=lambda value: _words(value, ","),
    text=True,
    culprit=lambda name: f"{_variable(name)}: ",
)
_FLAGS = Notation(place=_nothing, key=_flag, equals=" ", literal=_words, text=True)
