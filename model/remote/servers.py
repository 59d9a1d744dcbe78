"""Detect the kind of a server, wait until its model is loaded, and open its engine."""

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
from model.remote.failures import CHECK, DamagedAnswerError, LostConnectionError, Refused
from model.remote.http import Connection
from model.remote.native import INFO, ServerEngine
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
        kind, name = _probe(connection)
        engine: Engine
        if kind == "vllm":
            engine = OmniEngine(connection, settings, name)
        else:
            _wait_until_loaded(connection, on_progress)
            engine = ServerEngine(connection, settings, _info(connection))
        if settings.lora is not None:
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


def read_server_facts(settings: LoadSettings) -> dict[str, Any]:
    """Return a server's description of itself and its model, as JSON values. Do not wait for a model that is loading.

    Raises:
        SenseNovaError: as for `open_server`.
    """
    connection = Connection(find_address(settings))
    try:
        kind, name = _probe(connection)
        about = {"server": connection.address.url, "kind": "sensenova" if kind == "sensenova" else "vLLM-Omni"}
        if kind == "vllm":
            return {**about, "model": name}
        state = connection.state()
        if state.get("status") != "ok":
            percent = _percent(_progress(state))
            return {**about, "model": name, "status": f"{state.get('status')}{percent}"}
        return {**about, **_info(connection)}
    finally:
        connection.close()


def _probe(connection: Connection) -> tuple[str, str]:
    """Return the kind of a server, `sensenova` or `vllm`, and the name of its first model."""
    url = connection.address.url
    try:
        models = connection.get("/v1/models")
        first = models["data"][0]
        kind, name = first["owned_by"], str(first["id"])
    except LostConnectionError:
        raise LostConnectionError(
            f"{url} accepts connections, but does not answer", f"{CHECK}; an address with TLS begins with https://"
        ) from None
    except Refused as refused:
        if refused.code == "host_refused":
            raise
        raise ServerError(
            f"{url} is not a server for these models: it answers with error {refused.status}", CHECK
        ) from None
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ServerError(f"{url} is not a server for these models", CHECK) from None
    if kind not in ("sensenova", "vllm"):
        raise ServerError(
            f"{url} is a server of {str(kind)[:50]}", "only `sensenova serve` and vLLM-Omni have these models"
        )
    return kind, name


def _wait_until_loaded(connection: Connection, on_progress: Callable[[LoadProgress], None] | None) -> None:
    while (state := connection.state()).get("status") != "ok":
        if state.get("status") != "loading":
            raise ServerError(
                f"the server at {connection.address.url} cannot answer: its state is {state.get('status')}",
                "look at its log",
            )
        if on_progress is not None:
            on_progress(_progress(state))
        time.sleep(POLL_SECONDS)


def _info(connection: Connection) -> dict[str, Any]:
    info = connection.get(INFO)
    if not isinstance(info, dict):
        raise DamagedAnswerError(f"the server at {connection.address.url} does not describe itself", "update it")
    return info


def _progress(state: Any) -> LoadProgress:
    progress = state.get("progress")
    numbers = [progress.get(name) if isinstance(progress, dict) else 0 for name in ("done", "total")]
    done, total = (number if isinstance(number, int) else 0 for number in numbers)
    return LoadProgress(done, total)


def _percent(progress: LoadProgress) -> str:
    return f", {100 * progress.done_bytes // progress.total_bytes} %" if progress.total_bytes else ""
