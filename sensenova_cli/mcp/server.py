"""The protocol: lists the tools, runs calls on the worker, and sends their progress and results."""

import asyncio
import base64
import io
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import mcp.types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from PIL import Image

from config.errors import SenseNovaError
from sensenova_cli import __version__
from sensenova_cli.mcp.arguments import read_task
from sensenova_cli.mcp.tools import tool_schemas
from sensenova_cli.mcp.worker import Progress, Result, Worker
from sensenova_cli.system.interrupts import Stop
from sensenova_cli.system.unicode import printable, valid_unicode
from sensenova_cli.turns.tasks import Task

MAX_CONTENT = 700_000
"""Most bytes of a picture in a result: many clients refuse results of more than a megabyte in base64."""
REDUCED_SIDES = (1536, 1024, 768, 512)
"""Longer sides, in pixels, to which a picture is reduced until it is short enough."""
INSTRUCTIONS = (
    "Draws, changes and describes pictures with a SenseNova-U1 model on the user's machine. Pictures are returned in "
    "the result, large ones reduced, and written to files. The file of a result can be an input of the next call."
)


async def serve(worker: Worker, folders: Sequence[Path]) -> None:
    """Answer one client over standard input and output, until it closes its end.

    Args:
        folders: the folders whose files the client may name, without links.
    """
    server = _build_server(worker, folders)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def _build_server(worker: Worker, folders: Sequence[Path]) -> Server[Any]:
    schemas = tool_schemas()

    async def list_tools(
        context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """List the tools."""
        tools = [
            types.Tool(
                name=name,
                description=description,
                input_schema=schema,
                annotations=types.ToolAnnotations(
                    read_only_hint=name == "describe", destructive_hint=False, open_world_hint=False
                ),
            )
            for name, (description, schema) in schemas.items()
        ]
        return types.ListToolsResult(tools=tools)

    async def call_tool(
        context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """Run a call. Its errors are results, so that the client's model can read them."""
        if params.name not in schemas:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name[:100]!r}")
        try:
            task = await anyio.to_thread.run_sync(read_task, params.name, params.arguments or {}, folders)
            result = await _run(worker, task, context)
            return await anyio.to_thread.run_sync(_content, result)
        except SenseNovaError as error:
            return _error(error)
        except KeyboardInterrupt:  # the server is closing
            return _error(SenseNovaError("the call was stopped"))
        except Exception as error:
            traceback.print_exception(error, file=sys.stderr)
            return _error(SenseNovaError(f"unexpected {type(error).__name__}", "see the server's messages"))

    return Server(
        "sensenova",
        version=__version__,
        title="SenseNova",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


@dataclass
class _Newest:
    """The newest progress of a call. The ones before it are not sent if the client is slower."""

    progress: Progress | None = None


async def _run(worker: Worker, task: Task, context: ServerRequestContext[Any]) -> Result:
    """Run a task, and send its progress meanwhile. If the call is cancelled, stop the task."""
    loop, stop = asyncio.get_running_loop(), Stop()
    arrived, newest = asyncio.Event(), _Newest()

    def tell() -> None:
        with suppress(RuntimeError):  # the server has closed its loop, so nobody needs the progress
            loop.call_soon_threadsafe(arrived.set)

    def post(progress: Progress) -> None:
        newest.progress = progress
        tell()

    future = worker.submit(task, stop, post)
    future.add_done_callback(lambda _: tell())
    try:
        sent = -1.0
        while True:
            is_last = future.done()
            progress = newest.progress
            if progress is not None and progress.done > sent:  # the protocol wants growing numbers
                sent = progress.done
                await context.session.report_progress(progress.done, progress.total, progress.message)
            if is_last:
                return future.result()
            await arrived.wait()
            arrived.clear()
    finally:
        stop.request()


def _content(result: Result) -> types.CallToolResult:
    """Return the pictures of a result, and a text about them, or the answer."""
    notes = [f"note: {printable(notice)}" for notice in result.notices]
    if not result.pictures:
        text = "\n".join([valid_unicode(printable(result.text)), *notes])
        return types.CallToolResult(content=[types.TextContent(text=text)])
    content: list[Any] = []
    lines: list[str] = []
    facts: list[dict[str, Any]] = []
    for picture, path in result.pictures:
        data, kind, size = _encoded(picture.image)
        content.append(types.ImageContent(data=base64.b64encode(data).decode("ascii"), mime_type=kind))
        settings = picture.settings
        is_reduced = size != picture.image.size
        reduced = f"; shown here at {size[0]}x{size[1]}" if is_reduced else ""
        where = f"{valid_unicode(str(path.absolute()))}: " if path is not None else ""
        lines.append(f"{where}{settings.size}, seed {settings.seed}{reduced}")
        facts.append(
            {
                "path": valid_unicode(str(path.absolute())) if path is not None else None,
                "size": settings.size,
                "seed": settings.seed,
            }
        )
    content.append(types.TextContent(text="\n".join([*lines, *notes])))
    structured = {"pictures": facts, "prompt": valid_unicode(result.prompt), "notices": result.notices}
    return types.CallToolResult(content=content, structured_content=structured)


def _encoded(image: Image.Image) -> tuple[bytes, str, tuple[int, int]]:
    """Return a picture as PNG if that is short enough, else reduced as JPEG; with its media type and size."""
    png = io.BytesIO()
    image.save(png, "PNG")
    if png.tell() <= MAX_CONTENT:
        return png.getvalue(), "image/png", image.size
    for side in (max(image.size), *REDUCED_SIDES):
        smaller = image.copy()
        smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
        jpeg = io.BytesIO()
        smaller.save(jpeg, "JPEG", quality=88)
        if jpeg.tell() <= MAX_CONTENT:
            break
    return jpeg.getvalue(), "image/jpeg", smaller.size


def _error(error: SenseNovaError) -> types.CallToolResult:
    text = printable("\n".join(filter(None, (error.what, error.hint)))).replace("`", "")
    return types.CallToolResult(content=[types.TextContent(text=valid_unicode(text))], is_error=True)
