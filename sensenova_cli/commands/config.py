"""`sensenova config`: reads and changes single settings in a settings file."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from config.errors import SenseNovaError, SettingsError
from config.profiles import PROJECT_FILE, user_file
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.completion import complete_setting_names, complete_setting_values
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import with_options
from sensenova_cli.system.atomic_files import replace_file
from sensenova_cli.system.settings_lock import changing_settings
from sensenova_cli.system.streams import missing_terminal
from sensenova_cli.system.unicode import for_terminal, json_text, printable

if TYPE_CHECKING:
    from config.toml_file import SettingsFile

# Functions import what reads settings files, because that defines the settings' models, which help does not need.

SERVER = "serve."
"""Beginning of the names of the server's settings."""
EDITORS = ("nano", "vi", "notepad")
"""Editors to try without VISUAL and EDITOR."""

app = typer.Typer(no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The setting; serve.NAME for one of `sensenova serve`.",
        show_default=False,
        autocompletion=complete_setting_names,
    ),
]
Project = Annotated[
    bool, typer.Option("--project", help="Use ./sensenova.toml, not the user file.", metavar=" ", show_default=False)
]


@app.callback()
@with_options("debug", "no_color")
def config(flags: Flags) -> None:
    """Read and change the settings in your settings file.

    Examples
      sensenova config set num_steps 20
      sensenova config get num_steps
      sensenova config edit

    The user file applies in every folder. sensenova profile show prints which
    settings are in effect, and why.
    """


@app.command()
@with_options("json", "debug", "no_color")
def get(
    flags: Flags,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The setting; without it, all settings of the file.",
            show_default=False,
            autocompletion=complete_setting_names,
        ),
    ] = None,
    project: Project = False,
) -> None:
    """Print a setting of the file. The exit code is 1 if the file does not set it.

    Examples
      sensenova config get
      sensenova config get model
      sensenova config get --project --json
    """
    file = _file(project)
    values = _values(file)
    if name is not None:
        key, _ = _known(name)
        if key not in values:
            raise SenseNovaError(
                f"{_shown(file)} does not set {key}", "to see the value in effect: sensenova profile show"
            )
        values = {key: values[key]}
    if flags.json:
        typer.echo(json_text(values))
        return
    for key, value in values.items():
        text = _plain(value)
        typer.echo(for_terminal(text if name is not None else f"{key} = {text}"))
    if not values:
        typer.echo(f"note: {_shown(file)} sets nothing", err=True)


@app.command("set")
@with_options("debug", "no_color")
def set_value(
    flags: Flags,
    name: Name,
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE", help="Its new value.", show_default=False, autocompletion=complete_setting_values
        ),
    ],
    project: Project = False,
) -> None:
    """Change a setting in the file. Its other lines stay as they are, with their comments.

    Examples
      sensenova config set num_steps 20
      sensenova config set cfg_interval 0.1,0.9
      sensenova config set serve.port 9000
      sensenova config set --project log false
    """
    change_setting(name, value, project)


@app.command()
@with_options("debug", "no_color")
def unset(flags: Flags, name: Name, project: Project = False) -> None:
    """Remove a setting from the file, so that its default applies again.

    Examples
      sensenova config unset num_steps
      sensenova config unset --project serve.port
    """
    from config.toml_edit import unset_setting

    key, in_table = _known(name)
    file = _file(project)
    with changing_settings():
        text = _text(file)
        values = _named(_parsed(file, text))
        if key not in values:
            typer.echo(f"note: {_shown(file)} does not set {key}", err=True)
            return
        rest = {each: value for each, value in values.items() if each != key}
        _write(file, text, unset_setting(text, key.removeprefix(SERVER), serve=in_table), rest)
    _note_contradictions()


@app.command()
@with_options("debug", "no_color")
def edit(flags: Flags, project: Project = False) -> None:
    """Open the file in your editor (VISUAL or EDITOR), and check it afterwards.

    Examples
      sensenova config edit
      EDITOR="code --wait" sensenova config edit --project

    The editor gets a draft. It replaces the file when it has no mistake; else it
    stays, and the next sensenova config edit continues with it. Without a
    terminal, the exit code is 2: use config set, or change the file itself.
    """
    from config.template import settings_template
    from config.toml_file import parse_settings

    file = _file(project)
    if (stream := missing_terminal()) is not None:  # most editors would wait forever, unseen
        raise UsageError(
            f"an editor needs a terminal, and {stream} is not one",
            f"use: sensenova config set NAME VALUE{' --project' if project else ''}\nor change the file {_shown(file)}",
        )
    draft = file.with_name(f"{file.stem}.draft.toml")
    before = _text(file)
    if not draft.exists():
        write_settings_file(draft, before or settings_template({}))
    else:
        typer.echo(f"note: continuing with the draft {_shown(draft)}", err=True)
    command = [*_editor(), str(draft)]
    try:
        done = subprocess.run(command, check=False)
    except OSError as error:
        raise UsageError(f"the editor {command[0]} cannot be started: {error.strerror}", "set EDITOR") from None
    if done.returncode:
        raise SenseNovaError(
            f"the editor {command[0]} ended with code {done.returncode}, so {_shown(file)} is unchanged",
            f"your draft is {_shown(draft)}",
        )
    after = _text(draft)
    try:
        parse_settings(after, draft)
    except SettingsError as error:
        again = f"to correct it: sensenova config edit{' --project' if project else ''}"
        raise SettingsError(error.what, f"{error.hint}\n{_shown(file)} is unchanged; {again}") from None
    with changing_settings():
        if _text(file) != before:
            raise SenseNovaError(f"{_shown(file)} was changed while you edited it", f"your version is {_shown(draft)}")
        if after != (before or settings_template({})):
            write_settings_file(file, after)
            typer.echo(for_terminal(file))
        else:
            typer.echo("note: nothing was changed", err=True)
    draft.unlink(missing_ok=True)
    _note_contradictions()


@app.command()
@with_options("debug", "no_color")
def path(flags: Flags, project: Project = False) -> None:
    """Print the path of the file, which need not exist.

    Examples
      sensenova config path
      cat "$(sensenova config path)"
    """
    typer.echo(for_terminal(_file(project)))


def change_setting(name: str, value: str, project: bool = False) -> None:
    """Set a setting in the user file or the project file, and print the file's path.

    Raises:
        SettingsError: there is no such setting, the value is not valid, or the file has a mistake.
        SenseNovaError: the file cannot be written.
    """
    from config.toml_edit import set_setting

    key, in_table = _known(name)
    plain = key.removeprefix(SERVER)
    checked = _checked(plain, value, in_table)
    file = _file(project)
    with changing_settings():
        text = _text(file)
        changed = {**_named(_parsed(file, text)), key: checked}
        _write(file, text, set_setting(text, plain, checked, serve=in_table), changed)
    _note_contradictions()


def _file(project: bool) -> Path:
    return PROJECT_FILE.absolute() if project else user_file()


def _shown(file: Path) -> str:
    from config.paths import show_path

    return show_path(file)


def _known(name: str) -> tuple[str, bool]:
    """Return the full name of a setting, and whether it is one of the server's; dashes may be written for underscores.

    Raises:
        SettingsError: no setting has this name; a similar one is suggested.
    """
    from config.declarations import DECLARATIONS, SERVE
    from config.validation import OTHER_NAMES, near_miss

    key = name.strip().replace("-", "_")
    known = (*DECLARATIONS, *(f"{SERVER}{each}" for each in SERVE))
    if key in known:
        return key, key.startswith(SERVER)
    if key in SERVE:
        raise SettingsError(f"{key} is a setting of `sensenova serve`", f"write {SERVER}{key}")
    meant = near_miss(key, (*known, *OTHER_NAMES))
    hint = f"did you mean {OTHER_NAMES.get(meant, meant)}?" if meant else "sensenova profile show lists all settings"
    raise SettingsError(f"there is no setting {name}", hint)


def _checked(name: str, text: str, in_table: bool) -> Any:
    """Return the value that a text means; errors as for `check_values`."""
    from config.settings import ServeSettings, Settings
    from config.validation import Notation, check_values

    group: Any = ServeSettings if in_table else Settings
    prefix = SERVER if in_table else ""
    notation = Notation(
        place=lambda name: "", key=lambda name: prefix + name, equals=" ", literal=_plain, text=True, culprit=None
    )
    return check_values({name: text}, notation, group.model_fields, group)[name]


def _text(file: Path) -> str:
    from config.toml_file import read_settings_text

    return read_settings_text(file) if file.exists() else ""


def _parsed(file: Path, text: str) -> "SettingsFile":
    from config.toml_file import parse_settings

    return parse_settings(text, file)


def _values(file: Path) -> dict[str, Any]:
    """Return the settings of a file by full name; errors as for `parse_settings`."""
    return _named(_parsed(file, _text(file)))


def _named(parsed: "SettingsFile") -> dict[str, Any]:
    return {**parsed.values, **{f"{SERVER}{name}": value for name, value in parsed.serve.items()}}


def _write(file: Path, before: str, text: str, expected: dict[str, Any]) -> None:
    """Write an edited text, and print the file's path. A text without the expected settings is refused."""
    try:
        is_right = _named(_parsed(file, text)) == expected
    except SettingsError:
        is_right = False
    if not is_right:
        raise SettingsError(
            f"{_shown(file)} is written in a way that this command cannot change", "use: sensenova config edit"
        )
    if text != before:
        write_settings_file(file, text)
    typer.echo(for_terminal(file))


def write_settings_file(file: Path, text: str) -> None:
    """Replace a file at once: it has either its old or its new content. Ends of lines stay those of the old file.

    Raises:
        SenseNovaError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        target = file.resolve()  # replace the file that a link leads to, not the link
        if target.exists():
            has_crlf, mode = b"\r\n" in target.read_bytes(), target.stat().st_mode & 0o777
        else:
            has_crlf, mode = False, None
        replace_file(target, (text.replace("\n", "\r\n") if has_crlf else text).encode())
        if mode is not None:
            target.chmod(mode)
    except OSError as error:
        raise SenseNovaError(
            f"{_shown(file)} cannot be written: {error.strerror or error}",
            "check the permissions of its folder, and the free disk space",
        ) from None


def _note_contradictions() -> None:
    """Print a note if the settings in effect contradict each other now."""
    from config.sources import read_layers
    from sensenova_cli.render.spelling import as_flags

    try:
        read_layers()
    except SettingsError as error:
        typer.echo(f"note: {printable(as_flags(error.what))}", err=True)


def _editor() -> list[str]:
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if chosen:
        try:
            words = shlex.split(chosen)
        except ValueError:
            words = []
        if words:
            return words
    found = next(filter(shutil.which, EDITORS), None)
    if found is None:
        raise UsageError("there is no editor", "set EDITOR, for example: EDITOR=nano sensenova config edit")
    return [found]


def _plain(value: Any) -> str:
    """Return a value as `config set` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
