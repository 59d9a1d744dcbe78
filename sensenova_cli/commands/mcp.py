"""`sensenova mcp`: offers the model to assistants and other programs that speak MCP."""

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from sensenova_cli.errors import OutputError, UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import ENGINE_OPTIONS, with_options

FOLDER = "mcp"
"""Folder of the results, in the user's data folder."""


@with_options(*ENGINE_OPTIONS, "enable_cpu_offload", "profile", "debug", "no_color")
def mcp(
    flags: Flags,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            help="A folder whose pictures the client may name; it may be repeated. Results can be named, too.",
            metavar="FOLDER",
            rich_help_panel="Input",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the results.",
            metavar="FOLDER/",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Offer the model to assistants and other programs that speak MCP, over standard input and output.

    Examples
      sensenova mcp --model SenseNova/SenseNova-U1-8B-MoT
      sensenova mcp --server local -o ~/Pictures/drawn/
      sensenova mcp --allow ~/Pictures --profile draft

    The client starts this command, and gets the tools generate, edit and describe. The model is loaded for the first
    call. Results are written to -o FOLDER/, by default in the user's data folder.
    """
    if importlib.util.find_spec("mcp") is None:
        raise UsageError("this command needs mcp, which is not installed", "in the checkout, run: pip install '.[mcp]'")
    layers = flags.layers()
    results = _output(output)
    folders = [_folder(name) for name in allow or ()]
    # These modules import the library and that of the protocol, which a wrong option must not wait for.
    import anyio

    from sensenova_cli.mcp.server import serve
    from sensenova_cli.mcp.worker import Worker
    from sensenova_cli.render.turn_view import TurnView

    if sys.stdin is not None and sys.stdin.isatty():
        TurnView(quiet=False).notice("a program starts this command and talks to it here, not a person; Ctrl-D ends it")
    worker = Worker(layers, f"{results}/")
    try:
        anyio.run(serve, worker, [results, *folders])
    finally:
        worker.close()


def _output(name: str | None) -> Path:
    """Return the folder of the results, without links; create it.

    Raises:
        UsageError: the name is one of a file, or the folder cannot be created.
    """
    from sensenova_cli.system.data_folder import data_folder
    from sensenova_cli.system.private_files import make_private_folder

    folder = data_folder() / FOLDER if name is None else Path(name).expanduser()
    if name is not None and (name == "-" or (folder.suffix and not name.endswith("/") and not folder.is_dir())):
        raise UsageError(f"-o {name} is not a folder", "the results need one: -o FOLDER/")
    try:
        make_private_folder(folder)
        return folder.resolve()
    except OSError as error:
        what = f"the folder {folder} cannot be created: {error.strerror}"
        raise OutputError(what, "choose another with -o FOLDER/") from None


def _folder(name: str) -> Path:
    """Return a folder without links.

    Raises:
        UsageError: it does not exist.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UsageError(f"--allow {name}: there is no such folder", "name a folder with pictures")
    return folder.resolve()
