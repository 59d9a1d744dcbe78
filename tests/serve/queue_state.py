"""Requests that run and wait in a server, for tests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from sensenova_cli.serve.jobs import Job
from tests.serve.conftest import Served
from tests.serve.raw import connect, post
from tests.serve.test_native import events
from tests.waiting import until

RUN = "/v1/sensenova/run"
GENERATIONS = "/v1/images/generations"
CAT = {"request": "generate", "prompt": "a cat", "settings": {"num_steps": 5}}


def jobs(served: Served) -> list[Job]:
    """Return all jobs that the server knows."""
    return list(served.service._jobs.values())


def run_to_its_end(served: Served) -> str:
    """Run a request and return its id."""
    found = list(events(served.client(), CAT))
    return str(found[0]["id"])


def waiting(served: Served) -> int:
    """Return the number of waiting jobs."""
    return len(served.service.scheduler.waiting)


@contextmanager
def running(served: Served) -> Iterator[httpx2.Response]:
    """Enclose a request that runs until the gate opens."""
    served.gate.clear()
    with served.client().stream("POST", RUN, json=CAT) as response:
        assert response.status_code == 200
        until(lambda: served.service.scheduler.running is not None)
        yield response
        served.gate.set()


@contextmanager
def queued(served: Served, count: int) -> Iterator[list[Any]]:
    """Enclose waiting requests."""
    sockets = []
    before = waiting(served)
    for number in range(count):
        sockets.append(connect(served.url))
        sockets[-1].sendall(post(RUN, json.dumps(CAT).encode()))
        until(lambda: waiting(served) == before + number + 1)  # noqa: B023  # it is called at once
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()
