"""The state of the server: its health, its model, and its metrics in Prometheus' text format."""

import time
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response

from sensenova_cli import __version__
from sensenova_cli.serve.service import DRAW_SUFFIX, Service
from sensenova_cli.serve.streams import json_response


class StatusApi:
    """Handlers of `/health`, `/metrics` and `/v1/models`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, request: Request) -> Response:
        """Say whether requests are accepted, and how far loading is. It needs no key, so it names no model."""
        scheduler = self._service.scheduler
        if scheduler.state == "ready":
            return json_response({"status": "ok"})
        content: dict[str, object] = {"status": scheduler.state}
        if scheduler.state == "loading":
            content["progress"] = {"done": scheduler.loading.done, "total": scheduler.loading.total}
        return json_response(content, 503, {"Retry-After": "2"})

    async def models(self, request: Request) -> Response:
        """List the model twice: under its name, and under the name that draws pictures in chats."""
        return json_response({"object": "list", "data": [self._model(name) for name in self._names]})

    async def model(self, request: Request) -> Response:
        """Describe the model under one of its two names."""
        name = request.path_params["name"]
        self._service.require_model(name)
        return json_response(self._model(name))

    async def metrics(self, request: Request) -> Response:
        """Return the metrics."""
        return Response("".join(self._metrics()), media_type="text/plain; version=0.0.4; charset=utf-8")

    @property
    def _names(self) -> tuple[str, str]:
        return self._service.name, self._service.name + DRAW_SUFFIX

    def _model(self, name: str) -> dict[str, object]:
        modalities = ["image"] if name.endswith(DRAW_SUFFIX) else ["text"]
        return {
            "id": name,
            "object": "model",
            "created": int(self._service.started_at),
            "owned_by": "sensenova",
            "modalities": modalities,
        }

    def _metrics(self) -> Iterator[str]:
        scheduler, counters = self._service.scheduler, self._service.scheduler.counters
        yield _metric("info", "gauge", "Version of the program.", [(f'{{version="{__version__}"}}', 1)])
        yield _metric("ready", "gauge", "1 if requests are accepted.", [("", int(scheduler.state == "ready"))])
        yield _metric("requests_running", "gauge", "Requests that run.", [("", int(scheduler.running is not None))])
        yield _metric("requests_waiting", "gauge", "Requests in the queue.", [("", len(scheduler.waiting))])
        ends = ("done", "failed", "cancelled", "refused")
        yield _metric(
            "requests_total",
            "counter",
            "Requests by their end; refused ones found the queue full.",
            [(f'{{end="{end}"}}', getattr(counters, end)) for end in ends],
        )
        yield _metric("pictures_total", "counter", "Finished pictures.", [("", counters.pictures)])
        yield _metric("steps_total", "counter", "Denoising steps.", [("", counters.steps)])
        yield _metric("tokens_total", "counter", "Generated tokens.", [("", counters.tokens)])
        yield _metric("busy_seconds_total", "counter", "Time in which requests ran.", [("", counters.busy_seconds)])
        yield _metric("queue_seconds_total", "counter", "Time that requests waited.", [("", counters.queue_seconds)])
        yield _metric("stored_pictures", "gauge", "Pictures in the store.", [("", len(self._service.pictures))])
        yield _metric("stored_bytes", "gauge", "Bytes of the store.", [("", self._service.pictures.size)])
        yield _metric(
            "uptime_seconds", "gauge", "Time since the start.", [("", time.time() - self._service.started_at)]
        )


def _metric(name: str, kind: str, text: str, values: list[tuple[str, float]]) -> str:
    full = f"sensenova_{name}"
    lines = [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
    return "\n".join([*lines, *(f"{full}{labels} {value}" for labels, value in values), ""])
