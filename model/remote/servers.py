"""Finding out what a server is, waiting until it is ready, and opening its engine."""

import time
from collections.abc import Callable
from typing import Any

from config.settings import LoadSettings
from model.checkpoint.card import Card
from model.checkpoint.named_lora import parse_loras
from model.engine import Engine
from model.errors import ServerError
from model.events import LoadProgress
from model.remote.address import find_address
from model.remote.http import Connection, Refused
from model.remote.native import ServerEngine
from model.remote.omni import OmniEngine

POLL_SECONDS = 0.3


def open_server(settings: LoadSettings, on_progress: Callable[[LoadProgress], None] | None = None) -> Engine:
    """Return the engine of the server that the settings name. If its model is loading, wait for it.

    Args:
        on_progress: called while the server is loading. An exception that it raises ends the waiting.

    Raises:
        RequestError: the address, the key or the model's name is wrong.
        ServerError: the server cannot be reached, or is not one for these models.
    """
    connection = Connection(find_address(settings))
    try:
        kind, name = _probe(connection, on_progress)
        engine: Engine
        if kind == "vllm":
            engine = OmniEngine(connection, settings, name)
        else:
            engine = ServerEngine(connection, settings, connection.get("/v1/sensenova/info"))
        engine.use_loras(parse_loras(settings.lora))
        return engine
    except BaseException:
        connection.close()
        raise


def read_server_card(settings: LoadSettings, on_progress: Callable[[LoadProgress], None] | None = None) -> Card:
    """Return the card of a server's model; arguments and errors as for `open_server`."""
    engine = open_server(settings, on_progress)
    engine.close()
    return engine.card


def _probe(connection: Connection, on_progress: Callable[[LoadProgress], None] | None) -> tuple[str, str]:
    """Return the kind of a server, `sensenova` or `vllm`, and the name of its first model."""
    url = connection.address.url
    try:
        models = connection.get("/v1/models")
        first = models["data"][0]
        kind, name = first.get("owned_by"), str(first["id"])
    except Refused as refused:
        if refused.status == 404:
            raise ServerError(f"{url} is not a server for these models", "check the address and the port") from None
        raise
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ServerError(f"{url} is not a server for these models", "check the address and the port") from None
    if kind not in ("sensenova", "vllm"):
        raise ServerError(
            f"{url} is a server of {str(kind)[:50]}", "only `sensenova serve` and vLLM-Omni have these models"
        )
    if kind == "sensenova":
        _wait_until_loaded(connection, on_progress)
    return kind, name


def _wait_until_loaded(connection: Connection, on_progress: Callable[[LoadProgress], None] | None) -> None:
    while (state := connection.state()).get("status") != "ok":
        if state.get("status") != "loading":
            raise ServerError(
                f"the server at {connection.address.url} cannot answer: {state.get('status')}", "look at its log"
            )
        progress = state.get("progress", {})
        if on_progress is not None:
            on_progress(LoadProgress(int(progress.get("done", 0)), int(progress.get("total", 0))))
        time.sleep(POLL_SECONDS)


def read_server_facts(settings: LoadSettings) -> dict[str, Any]:
    """Return what a server says about itself and its model, as JSON values; errors as for `open_server`."""
    connection = Connection(find_address(settings))
    try:
        kind, name = _probe(connection, None)
        about = {"server": connection.address.url, "kind": "sensenova" if kind == "sensenova" else "vLLM-Omni"}
        if kind == "vllm":
            return {**about, "model": name}
        return {**about, **connection.get("/v1/sensenova/info")}
    finally:
        connection.close()
