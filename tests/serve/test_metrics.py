"""The metrics: Prometheus can read them, and they count every end of a request."""

import math
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from model.errors import DeviceMemoryError
from tests.serve.conftest import Serve, Served
from tests.waiting import until

BODY = {"prompt": "a cat", "size": "64x64"}
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)?\}})? ([^ ]+)")


def parse(text: str) -> dict[str, float]:
    """Parse Prometheus' text format, and refuse everything that it does not allow. Return sample → value."""
    assert text.endswith("\n")
    values: dict[str, float] = {}
    types: dict[str, str] = {}
    helped: set[str] = set()
    family = ""
    for line in text.removesuffix("\n").split("\n"):
        head = re.fullmatch(rf"# (HELP|TYPE) ({NAME}) (.+)", line)
        if head is not None and head[1] == "HELP":
            assert head[2] not in helped, f"a second HELP: {line}"
            helped.add(head[2])
            family = head[2]
        elif head is not None:
            assert head[2] == family and head[2] not in types, f"TYPE in a wrong place: {line}"
            assert head[3] in ("counter", "gauge", "histogram", "summary", "untyped"), line
            types[head[2]] = head[3]
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample is not None, f"not a sample: {line!r}"
            assert sample[1] == family and family in types, f"a sample outside its family: {line}"
            name = line.rpartition(" ")[0]
            assert name not in values, f"a second sample: {line}"
            values[name] = float(sample[3])
            if types[family] == "counter":
                assert family.endswith("_total") and values[name] >= 0, line
    assert not any(map(math.isnan, values.values()))
    return values


def metrics(served: Served) -> dict[str, float]:
    """Return the metrics of a server."""
    answer = served.client().get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(answer.text)


def test_a_new_server(served: Served) -> None:
    found = metrics(served)
    assert found["sensenova_ready"] == 1
    counts = [value for name, value in found.items() if "_total" in name]
    assert len(counts) >= 9 and not any(counts)


def test_every_end_is_counted_once(serve: Serve) -> None:
    served = serve(max_queue=1)
    client = served.client()

    def ends() -> dict[str, float]:
        found = metrics(served)
        names = ("done", "failed", "cancelled", "refused")
        return {name: found[f'sensenova_requests_total{{end="{name}"}}'] for name in names}

    assert client.post("/v1/images/generations", json={**BODY, "n": 2, "think": True, "num_steps": 5}).is_success
    assert ends() == {"done": 1, "failed": 0, "cancelled": 0, "refused": 0}
    found = metrics(served)
    assert [found[f"sensenova_{name}_total"] for name in ("pictures", "steps", "tokens")] == [2, 10, 4]

    def fail(step: int) -> None:
        raise DeviceMemoryError("the GPU has too little memory", "use a smaller size")

    on_step, served.engine.on_step = served.engine.on_step, fail
    assert client.post("/v1/images/generations", json=BODY).status_code == 500
    assert ends() == {"done": 1, "failed": 1, "cancelled": 0, "refused": 0}
    served.engine.on_step = on_step

    assert client.post("/v1/images/generations", json={**BODY, "num_steps": 0}).status_code == 400
    assert ends() == {"done": 1, "failed": 1, "cancelled": 0, "refused": 0}

    served.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(served.client().post, "/v1/images/generations", json=BODY)
        until(lambda: metrics(served)["sensenova_requests_running"] == 1)
        waiting = threads.submit(served.client().post, "/v1/images/generations", json=BODY)
        until(lambda: metrics(served)["sensenova_requests_waiting"] == 1)
        assert client.post("/v1/images/generations", json=BODY).status_code == 503
        assert ends() == {"done": 1, "failed": 1, "cancelled": 0, "refused": 1}
        for job in (*served.service.scheduler.waiting, served.service.scheduler.running):
            assert job is not None
            client.delete(f"/v1/sensenova/requests/{job.id}")
        served.gate.set()
        assert [running.result().status_code, waiting.result().status_code] == [409, 409]
    until(lambda: metrics(served)["sensenova_requests_running"] == 0)
    assert ends() == {"done": 1, "failed": 1, "cancelled": 2, "refused": 1}
    assert metrics(served)["sensenova_requests_waiting"] == 0


def test_large_counters_keep_every_digit(served: Served) -> None:
    served.service.scheduler.counters.tokens = 123_456_789
    assert metrics(served)["sensenova_tokens_total"] == 123_456_789


def test_stored_pictures(served: Served) -> None:
    answer = served.client().post("/v1/images/generations", json={**BODY, "response_format": "url"})
    size = len(served.client().get(answer.json()["data"][0]["url"]).content)
    found = metrics(served)
    assert (found["sensenova_stored_pictures"], found["sensenova_stored_bytes"]) == (1, size)


@pytest.mark.parametrize(
    "text",
    [
        "a 1",
        "a 1\n",
        "# HELP a x\n# TYPE a gauge\na one\n",
        "# HELP a x\n# TYPE a gauge\na 1\na 1\n",
        "# HELP a x\n# TYPE a gauge\nb 1\n",
        "# HELP a x\n# TYPE a counter\na 1\n",
        "# HELP a x\n# TYPE a gauge\na{b=c} 1\n",
    ],
)
def test_the_parser_of_these_tests_is_strict(text: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        parse(text)
