"""`sensenova profile`: settings files, and which value comes from where."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from config.check import join_problems
from config.errors import SenseNovaError, SettingsError
from config.load import Resolved, resolve
from config.profile_files import (
    BUILT_IN_FOLDER,
    PROJECT_FILE,
    find_profile,
    is_profile_path,
    profile_files,
    user_file,
    user_folder,
    user_profile,
)
from config.recommended import read_recommended
from config.schema import SETTING_NAMES
from config.template import settings_template
from config.toml_file import SettingsFile, read_settings_file, show_path, toml_literal
from sensenova_cli.atomic import create_file, replace_file

app = typer.Typer(help="Show, make and check settings files.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_profiles(as_json: Json = False) -> None:
    """List the profiles that --profile knows by name: what for, and where they are.

    With --json one object a line.
    """
    readable: dict[str, SettingsFile] = {}
    problems: list[SettingsError] = []
    for name, path in profile_files().items():
        try:
            readable[name] = read_settings_file(path)
        except SettingsError as problem:
            problems.append(problem)
    if as_json:
        for name, file in readable.items():
            typer.echo(json.dumps({"name": name, "description": file.description, "path": str(file.path)}))
    else:
        _print_table([(name, file.description, _where(file.path)) for name, file in readable.items()])
    if problems:
        raise join_problems(problems)


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="Profile, by name or path.", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint folder, to include what it recommends.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show every setting, its value and the layer the value comes from.

    Examples:

        sensenova profile show

        sensenova profile show draft --model ./SenseNova-U1-8B-MoT
    """
    resolved = _resolve_with_checkpoint(name, model)
    if as_json:
        values = resolved.settings.model_dump(mode="json")
        layers = {key: {"value": values[key], "layer": resolved.origins[key]} for key in SETTING_NAMES}
        typer.echo(json.dumps(layers, ensure_ascii=False))
        return
    rows = []
    for key in SETTING_NAMES:
        value = getattr(resolved.settings, key)
        rows.append((key, "(none)" if value is None else toml_literal(value), resolved.origins[key]))
    _print_table(rows, dim="default")


@app.command()
def path(
    name: Annotated[str | None, typer.Argument(help="Profile, by name or path.", show_default=False)] = None,
) -> None:
    """Print the file of a profile; without a name, where the settings files are or would be.

    Example:

        $EDITOR "$(sensenova profile path mine)"
    """
    if name is not None:
        typer.echo(find_profile(name))
        return
    places = {
        "user file": user_file(),
        "project file": PROJECT_FILE.absolute(),
        "user profiles": user_folder() / "profiles",
        "built-in profiles": BUILT_IN_FOLDER,
    }
    _print_table([(kind, str(place), "" if place.exists() else "not there yet") for kind, place in places.items()])


@app.command()
def init(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|PATH",
            help="A name makes a profile of your own, a path that file; without either, the user file.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a settings file that lists and explains every setting, and print its path.

    The name of a built-in profile makes your own copy of it, which takes its place.

    Examples:

        sensenova profile init

        sensenova profile init ./sensenova.toml

        sensenova profile init mine && $EDITOR "$(sensenova profile path mine)"
    """
    file = _target_file(target)
    built_in = BUILT_IN_FOLDER / f"{target}.toml"
    source = read_settings_file(built_in) if target and built_in.is_file() else None
    text = settings_template(source.values, source.description) if source else settings_template({})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if force:
            # The file itself, not a link to it that a user keeps elsewhere.
            replace_file(file.resolve(), text.encode())
            created: Path | None = file
        else:
            created = create_file([file], text.encode())
    except OSError as error:
        raise SenseNovaError(f"{show_path(file)} cannot be written: {error.strerror}", "name another place") from None
    if created is None:
        raise SettingsError(f"{show_path(file)} is there already", "add -f to replace it")
    typer.echo(created)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Settings files.", show_default=False)],
) -> None:
    """Check settings files; the exit code is 2 when one has a mistake.

    Example:

        sensenova profile check sensenova.toml profiles/*.toml
    """
    problems: list[SettingsError] = []
    for file in files:
        try:
            read_settings_file(file)
        except SettingsError as problem:
            problems.append(problem)
        else:
            typer.echo(f"{file}: ok")
    if problems:
        raise join_problems(problems)


def _resolve_with_checkpoint(profile: str | None, model: str | None) -> Resolved:
    """All layers; with the checkpoint's where the model is a folder on this machine."""
    resolved = resolve({"model": model}, profile=profile)
    checkpoint = resolved.settings.model
    if checkpoint is None:
        return resolved
    folder = Path(checkpoint).expanduser()
    try:
        is_folder = folder.is_dir()
    except OSError:
        # A name too long for the file system: no folder, and the note below says so.
        is_folder = False
    if not is_folder:
        typer.echo(f"note: {checkpoint} is no folder here, so what it recommends is not shown", err=True)
        return resolved
    return resolve({"model": model}, profile=profile, recommended=read_recommended(folder))


def _target_file(target: str | None) -> Path:
    if target is None:
        return user_file()
    if is_profile_path(target):
        return Path(target).expanduser()
    if not re.fullmatch(r"\w[\w.-]*", target):
        raise SettingsError(
            f"{target!r} is no name for a profile",
            "use letters, digits, - and _, or give a path ending in .toml",
        )
    return user_profile(target)


def _where(file: Path) -> str:
    return "built-in" if file.parent == BUILT_IN_FOLDER else show_path(file)


def _print_table(rows: Sequence[tuple[str, str, str]], dim: str | None = None) -> None:
    """Three aligned columns on stdout, never cut; on a terminal rows ending in `dim` are dim."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    widths = [max(map(cell_len, column)) for column in list(zip(*rows, strict=True))[:2]]
    console = Console(highlight=False, soft_wrap=True)
    for row in rows:
        padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row[:2], widths, strict=True)]
        line = "  ".join([*padded, row[2]]).rstrip()
        console.print(Text(line, style="dim" if row[2] == dim else ""))
