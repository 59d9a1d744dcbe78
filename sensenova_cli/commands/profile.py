"""`sensenova profile`: lists, shows, makes and checks settings files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.errors import SenseNovaError, SettingsError
from config.profiles import (
    BUILT_IN_FOLDER,
    PROJECT_FILE,
    find_profile,
    is_profile_path,
    profile_files,
    user_file,
    user_profile,
)
from config.user_folder import user_folder
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import with_options
from sensenova_cli.system.atomic_files import create_file, replace_file
from sensenova_cli.system.unicode import for_terminal, json_text

if TYPE_CHECKING:
    from config.sources import Resolved
    from config.toml_file import SettingsFile

# Functions import what reads settings files, because that defines the settings' models, which help does not need.

app = typer.Typer(no_args_is_help=True)


@app.callback()
@with_options("debug", "no_color")
def profile(flags: Flags) -> None:
    """Show, make and check settings files.

    Examples
      sensenova profile list
      sensenova profile show draft
      sensenova profile init mine
    """


@app.command("list")
@with_options("json", "debug", "no_color")
def list_profiles(flags: Flags) -> None:
    """List the profiles that --profile finds by name: their purpose and place.

    Examples
      sensenova profile list
      sensenova profile list --json | jq -r .name
    """
    from config.toml_file import read_settings_file
    from config.validation import join_problems

    readable: dict[str, SettingsFile] = {}
    problems: list[SettingsError] = []
    for name, path in profile_files().items():
        try:
            readable[name] = read_settings_file(path)
        except SettingsError as problem:
            problems.append(problem)
    if flags.json:
        for name, file in readable.items():
            typer.echo(json_text({"name": name, "description": file.description, "path": str(file.path)}))
    else:
        _print_columns([(name, file.description, _where(file.path)) for name, file in readable.items()])
    if problems:
        raise join_problems(problems)


@app.command()
@with_options("json", "debug", "no_color")
def show(
    flags: Flags,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME|PATH", help="Profile, by name or path.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint folder or Hub id whose recommended settings are included.",
            metavar="FOLDER|HUB_ID",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show every setting with its value and the layer that sets it. Settings of `sensenova serve` come last.

    Examples
      sensenova profile show
      sensenova profile show draft --model ./SenseNova-U1-8B-MoT
      sensenova profile show --json | jq .num_steps
    """
    from config.settings import SETTING_NAMES, ServeSettings
    from config.sources import resolve_serve
    from config.toml_file import toml_literal

    resolved = _resolve_with_checkpoint(name, model)
    serve, serve_origins = resolve_serve(profile=name)
    values = resolved.settings.model_dump() | {_in_table(key): value for key, value in serve.model_dump().items()}
    origins = {**resolved.origins, **{_in_table(key): layer for key, layer in serve_origins.items()}}
    names = (*SETTING_NAMES, *map(_in_table, ServeSettings.model_fields))
    if flags.json:
        typer.echo(json_text({each: {"value": values[each], "layer": origins[each]} for each in names}))
        return
    rows = [(each, "(none)" if values[each] is None else toml_literal(values[each]), origins[each]) for each in names]
    _print_columns(rows, dim="default")


def _in_table(name: str) -> str:
    """Return the name of a setting of the server as TOML has it outside its table: `serve.port`."""
    return f"serve.{name}"


@app.command()
@with_options("debug", "no_color")
def path(
    flags: Flags,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME|PATH", help="Profile, by name or path.", show_default=False)
    ] = None,
) -> None:
    """Print the file of a profile; without a name, the places of all settings files.

    Examples
      sensenova profile path
      $EDITOR "$(sensenova profile path mine)"
    """
    if name is not None:
        typer.echo(for_terminal(find_profile(name)))
        return
    places = {
        "user file": user_file(),
        "project file": PROJECT_FILE.absolute(),
        "user profiles": user_folder() / "profiles",
        "built-in profiles": BUILT_IN_FOLDER,
    }
    _print_columns(
        [(kind, str(place), "" if place.exists() else "does not exist yet") for kind, place in places.items()]
    )


@app.command()
@with_options("force", "debug", "no_color")
def init(
    flags: Flags,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|PATH",
            help="A name creates your own profile, a path creates that file; the default is the user file.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a settings file that lists and explains every setting, and print its path.

    Examples
      sensenova profile init
      sensenova profile init ./sensenova.toml
      sensenova profile init mine && $EDITOR "$(sensenova profile path mine)"

    The name of a built-in profile creates your own copy, which replaces it.
    """
    from config.template import settings_template
    from config.toml_file import read_settings_file, show_path

    file = _target_file(target)
    built_in = BUILT_IN_FOLDER / f"{target}.toml"
    source = read_settings_file(built_in) if target and built_in.is_file() else None
    text = settings_template(source.values, source.description, source.serve) if source else settings_template({})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if flags.force:
            # Replace the file that a link leads to, not the link.
            replace_file(file.resolve(), text.encode())
            created: Path | None = file
        else:
            created = create_file([file], text.encode())
    except OSError as error:
        raise SenseNovaError(f"{show_path(file)} cannot be written: {error.strerror}", "name another place") from None
    if created is None:
        raise SettingsError(f"{show_path(file)} exists already", "add -f to replace it")
    typer.echo(for_terminal(created))


@app.command()
@with_options("debug", "no_color")
def check(
    flags: Flags,
    files: Annotated[
        list[str], typer.Argument(metavar="NAME|PATH...", help="Profiles, by name or path.", show_default=False)
    ],
) -> None:
    """Check settings files; the exit code is 2 if a file has a mistake.

    Examples
      sensenova profile check sensenova.toml
      sensenova profile check ~/.config/sensenova/profiles/*.toml
    """
    from config.toml_file import read_settings_file
    from config.validation import join_problems

    problems: list[SettingsError] = []
    for file in files:
        try:
            read_settings_file(_checked_file(file))
        except SettingsError as problem:
            problems.append(problem)
        else:
            typer.echo(for_terminal(f"{file}: ok"))
    if problems:
        raise join_problems(problems)


def _resolve_with_checkpoint(profile: str | None, model: str | None) -> "Resolved":
    """Resolve all layers, including the checkpoint's recommendations if the checkpoint is on this machine."""
    from config.recommended import read_recommended
    from config.sources import resolve
    from model import DEMO_MODEL, local_checkpoint

    resolved = resolve({"model": model}, profile=profile)
    checkpoint = resolved.settings.model or DEMO_MODEL
    folder = local_checkpoint(checkpoint)
    if folder is None:
        typer.echo(f"note: {checkpoint} is not on this machine, so its recommended settings are not shown", err=True)
        return resolved
    return resolve({"model": model}, profile=profile, recommended=read_recommended(folder))


def _checked_file(name: str) -> Path:
    """Return the file with this name, or else the profile with this name."""
    path = Path(name).expanduser()
    return path if is_profile_path(name) or path.is_file() else find_profile(name)


def _target_file(target: str | None) -> Path:
    if target is None:
        return user_file()
    if target.endswith(".toml"):
        return Path(target).expanduser()
    if not re.fullmatch(r"\w[\w.-]*", target):
        raise SettingsError(
            f"{target!r} is not allowed as the name of a profile",
            "use letters, digits, - and _, or give a path ending in .toml",
        )
    return user_profile(target)


def _where(file: Path) -> str:
    from config.toml_file import show_path

    return "built-in" if file.parent == BUILT_IN_FOLDER else show_path(file)


def _print_columns(rows: Sequence[tuple[str, ...]], dim: str | None = None) -> None:
    """Print rows in aligned columns; on a terminal rows that end in `dim` are dim."""
    from rich.text import Text

    from sensenova_cli.render.table import plain_table, print_table

    table = plain_table()
    for row in rows:
        table.add_row(*map(Text, row), style="dim" if row[-1] == dim else None)
    print_table(table)
