"""`sensenova models`: lists, downloads, removes and names models."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.completion import complete_models
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import with_options
from sensenova_cli.inputs.questions import require_yes
from sensenova_cli.system.unicode import for_terminal, json_text

if TYPE_CHECKING:
    from sensenova_cli.models.listing import ListedModel

# Functions import what they use, because that defines the settings' models and imports the Hub's library.

app = typer.Typer(no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Hub id, short name such as u1-8b, alias, or folder.",
        show_default=False,
        autocompletion=complete_models,
    ),
]


@app.callback()
@with_options("debug", "no_color")
def models(flags: Flags) -> None:
    """List, download, remove and name models.

    Examples
      sensenova models list
      sensenova models pull u1-8b
      sensenova models alias fast ./u1-int8
      sensenova models default fast
      sensenova models rm u1-8b
    """


@app.command("list")
@with_options("json", "debug", "no_color")
def list_models(flags: Flags) -> None:
    """List models and LoRAs: those on this machine, and the published ones.

    Examples
      sensenova models list
      sensenova models list --json | jq -r 'select(.nbytes > 1e9) | .name'

    These are the demo, aliases, published models, the Hub cache, and folders that
    were used lately. * marks the model that commands use without --model.
    """
    from sensenova_cli.models import listing

    found = listing.list_models(_default(flags), _used_folders())
    if flags.json:
        for each in found:
            typer.echo(json_text(each.as_json()))
        return
    _print_models(found)


@app.command()
@with_options("quiet", "debug", "no_color")
def pull(
    flags: Flags,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Hub ids or short names; owner/name/FILE for one file.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.", metavar=" ")] = False,
) -> None:
    """Download models, and print their folders. An interrupted download continues.

    Examples
      sensenova models pull demo
      sensenova models pull u1-8b --yes
      sensenova models pull u1-8b-8step
      sensenova models pull owner/name@revision

    A download of more than 1 GB starts after you have agreed, or with --yes.
    """
    from config.model_names import full_name
    from config.units import format_bytes
    from model import find_checkpoint, find_weights_file, is_hub_id
    from sensenova_cli.render.turn_view import TurnView
    from sensenova_cli.turns.downloads import require_consent
    from sensenova_cli.turns.model_source import download_notice

    view, load = TurnView(quiet=flags.quiet), flags.layers().load
    load = load.model_copy(update={"yes": yes or load.yes})
    for name in names:
        target = full_name(name)
        fetched = 0

        def on_plan(plan: Any) -> None:
            nonlocal fetched
            view.notice(download_notice(plan))
            require_consent(plan, load)
            fetched = plan.bytes_to_fetch

        with view.bytes_progress(f"downloading {name}") as bar:
            is_file = Path(target).suffix in (".safetensors", ".gguf") and not is_hub_id(target)
            find = find_weights_file if is_file else find_checkpoint
            try:
                path = find(target, on_plan=on_plan, on_progress=bar.update)
            except KeyboardInterrupt:
                view.notice(f"to continue the download: sensenova models pull {name}")
                raise
        view.notice(f"{name}: {format_bytes(fetched)} fetched" if fetched else f"{name} is already on this machine")
        typer.echo(for_terminal(path))


@app.command()
@with_options("debug", "no_color")
def rm(
    flags: Flags,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Hub ids, short names or aliases of downloaded models.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.", metavar=" ")] = False,
) -> None:
    """Remove downloaded models from the Hub cache. It says what that frees, and asks.

    Examples
      sensenova models rm u1-8b
      sensenova models rm -y owner/name owner/other

    A folder of yours is not removed, and an alias is kept.
    """
    from config.units import format_bytes
    from model import remove_cached_model

    found = list({each.hub_id: each for each in map(_downloaded, names)}.values())
    default = _default(flags)
    for each in found:
        lost = ", your default model," if each.hub_id == default.partition("@")[0] else ""
        typer.echo(f"{each.hub_id}{lost} is {format_bytes(each.nbytes)} in {each.folder}", err=True)
    total = format_bytes(sum(each.nbytes for each in found))
    if not yes:
        require_yes(f"Remove {'it' if len(found) == 1 else f'these {len(found)} models'} and free {total}?")
    for each in found:
        remove_cached_model(each)
        typer.echo(for_terminal(each.hub_id))
    typer.echo(f"note: freed {total}", err=True)


@app.command()
@with_options("debug", "no_color")
def default(
    flags: Flags,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Hub id, short name, alias, folder or demo; without it, print the default.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ] = None,
) -> None:
    """Choose the model for commands without --model, in the user file.

    Examples
      sensenova models default
      sensenova models default demo
      sensenova models default u1.5-8b

    The project file, a profile and SENSENOVA_MODEL override it.
    """
    from config.model_names import full_name

    if name is None:
        typer.echo(for_terminal(_default(flags)))
        return
    from model import CheckpointError, find_checkpoint, is_hub_id, local_checkpoint
    from sensenova_cli.commands.config import change_setting

    target = full_name(name)
    if Path(target).expanduser().exists() or not is_hub_id(target) or target.startswith("."):
        find_checkpoint(target)  # raises an error that explains what is wrong with the folder
    elif local_checkpoint(target) is None:
        typer.echo(f"note: {target} is not on this machine yet: sensenova models pull {name}", err=True)
    change_setting("model", _absolute(name))
    try:
        in_use = _default(flags)
    except CheckpointError:
        return
    if in_use != full_name(_absolute(name)):
        typer.echo(f"note: {in_use} is used here nevertheless: sensenova profile show names the reason", err=True)


@app.command()
@with_options("debug", "no_color")
def alias(
    flags: Flags,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The new name.", show_default=False)] = None,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="What it stands for: Hub id, short name, folder, or file of a LoRA or weights.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.", metavar=" ")] = False,
) -> None:
    """Give a model, a LoRA or a file of weights a name of your own. Without arguments, list the names.

    Examples
      sensenova models alias
      sensenova models alias mine demo
      sensenova models alias pixel ./pixel.safetensors
      sensenova models alias --remove mine

    The name works wherever a model is named: --model, --lora, --weights, in
    settings files, in sessions, and in commands such as info and verify.
    """
    from config.aliases import aliases_file, aliases_text, read_aliases
    from sensenova_cli.commands.config import write_settings_file
    from sensenova_cli.system.settings_lock import changing_settings

    aliases = read_aliases()
    if name is None:
        for each, meant in aliases.items():
            typer.echo(for_terminal(f"{each} = {meant}"))
        if not aliases:
            typer.echo("note: there are no aliases", err=True)
        return
    if name not in aliases and (remove or target is None):
        hint = f"to make it: sensenova models alias {name} TARGET"
        known = f"known aliases: {', '.join(aliases) or 'none'}"
        raise UsageError(f"there is no alias {name}", known if remove else hint)
    if remove and target is not None:
        raise UsageError("--remove takes a name only", f"to remove it: sensenova models alias --remove {name}")
    if not remove and target is None:
        typer.echo(for_terminal(aliases[name]))
        return
    if not remove:
        _require_free(name)
    full = None if target is None else _checked_target(name, target)
    with changing_settings():
        aliases = read_aliases()  # again: another process may have changed them before this one had the lock
        if full is None:
            aliases.pop(name, None)
        else:
            aliases[name] = full
        write_settings_file(aliases_file(), aliases_text(aliases))
    if full is not None:
        typer.echo(for_terminal(f"{name} = {full}"))


def _require_free(name: str) -> None:
    """Raise UsageError if a name cannot be an alias, because it means something else already."""
    from config.aliases import ALIAS
    from config.model_names import HUB_IDS, LORAS
    from model import DEMO_MODEL

    hint = "choose another name"
    if not ALIAS.fullmatch(name) or name.endswith((".safetensors", ".gguf")) or name in ("off", "none"):
        raise UsageError(f"{name!r} is not allowed as an alias", "use letters, digits, - _ and dots, without a slash")
    if name == DEMO_MODEL:
        raise UsageError(f"{name} is the built-in demo, which an alias would hide", hint)
    if name in HUB_IDS or name in LORAS:
        raise UsageError(f"{name} is the short name of {(HUB_IDS | LORAS)[name]}, which an alias would hide", hint)
    if os.path.lexists(name):
        raise UsageError(f"{name} is a file or folder here, which an alias would hide", hint)


def _checked_target(name: str, target: str) -> str:
    """Return the full name behind a target: an absolute path, or a name on the Hub."""
    from config.model_names import full_name
    from model import DEMO_MODEL, is_hub_id

    full = full_name(target)
    if full == DEMO_MODEL:
        return full
    path = Path(full).expanduser()
    if path.exists():
        return str(path.absolute())
    repository = "/".join(full.split("/")[:2])
    if not is_hub_id(repository) or full.startswith((".", "~", "/")):
        raise UsageError(
            f"{target} is neither a file or folder here nor a Hub id", f"for example: models alias {name} owner/name"
        )
    return full


def _downloaded(name: str) -> Any:
    """Return the downloaded model with a name.

    Raises:
        UsageError: the name means no downloaded model.
    """
    from config.model_names import full_name
    from model import DEMO_MODEL, cached_model

    target = full_name(name)
    if target == DEMO_MODEL:
        raise UsageError("the demo is part of the program, and cannot be removed", "name a downloaded model")
    if Path(target).expanduser().exists():
        raise UsageError(
            f"{name} is a folder or file of yours, which this command does not remove", f"to remove it: rm -r {target}"
        )
    repository = "/".join(target.partition("@")[0].split("/")[:2])
    found = cached_model(repository)
    if found is None:
        raise UsageError(f"{name} is not in the Hub cache", "see: sensenova models list")
    return found


def _default(flags: Flags) -> str:
    """Return the full name of the model that commands use without --model."""
    from model import DEMO_MODEL

    return flags.layers().load.model or DEMO_MODEL


def _absolute(name: str) -> str:
    """Return the absolute path of a folder, because the user file applies in every folder; other names as they are."""
    from config.model_names import full_name

    path = Path(name).expanduser()
    return str(path.absolute()) if full_name(name) == name and path.is_dir() else name


def _used_folders() -> tuple[str, ...]:
    """Return the models of the log that are folders; none if the log cannot be read."""
    from sensenova_cli.errors import LogError
    from sensenova_cli.log.store import Log

    try:
        return tuple(Log(lambda notice: None).models())
    except LogError:
        return ()


def _print_models(found: "list[ListedModel]") -> None:
    from rich.text import Text

    from sensenova_cli.render.table import plain_table, print_table

    table = plain_table("", "name", "kind", "format", "size", "recommended", "state")
    for each in found:
        cells = ("*" if each.is_default else "", each.name, each.kind, each.format, _size(each), _settings(each))
        table.add_row(*map(Text, (*cells, _state(each))))
    print_table(table)


def _size(model: "ListedModel") -> str:
    from config.units import format_bytes

    if model.nbytes:
        return format_bytes(model.nbytes)
    return f"about {model.about_bytes / 1e9:g} GB" if model.about_bytes else ""


def _settings(model: "ListedModel") -> str:
    settings = model.settings or {}
    parts = [str(settings.get("size", ""))]
    parts += [f"{settings[name]:g} {word}" for name, word in (("num_steps", "steps"),) if name in settings]
    parts += [f"cfg {settings['cfg_scale']:g}"] if "cfg_scale" in settings else []
    return ", ".join(filter(None, parts))


def _state(model: "ListedModel") -> str:
    from config.model_names import HUB_IDS, LORAS

    state = "not here" if model.state == "missing" and not Path(model.target).is_absolute() else model.state
    verified = f", verified {model.verified}" if model.verified else ""
    is_known = model.name in HUB_IDS or model.name in LORAS or model.name == model.target
    return f"{state}{verified}" + ("" if is_known else f" → {model.target}")
