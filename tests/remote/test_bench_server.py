"""`sensenova bench --server`: a server as its clients see it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli.harness import Outcome, Program
from tests.remote.fake_omni import MODEL, FakeOmni, serving
from tests.serve.conftest import Served, home, serve, served  # noqa: F401  # fixtures

pytestmark = pytest.mark.usefixtures("home")

SMALL = ("--size", "64x64", "--steps", "2", "--tokens", "9")
PICTURES = 1 + 3 + 4 * 2 + 16 * 2
"""One that is not measured, then those of 1, 4 and 16 clients."""


@pytest.fixture
def omni() -> Iterator[FakeOmni]:
    with serving("VO30") as fake:
        yield fake


def bench(url: str, *words: str) -> Outcome:
    return Program()("bench", "--server", url, *words)


def test_figures_of_our_own_server(served: Served) -> None:  # noqa: F811
    outcome = bench(served.url, *SMALL)
    assert outcome.code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "request to first event, 64x64, 2 steps",
        "picture 64x64, 2 steps, 1 client",
        "picture 64x64, 2 steps, 4 clients",
        "picture 64x64, 2 steps, 16 clients",
        "question to first token",
        "answer of 4 tokens",
    ]
    assert all(" s" in line for line in lines)
    assert [line.endswith("pictures/min") for line in lines] == [False, True, True, True, False, False]
    pictures = [request.prompt for request in served.engine.requests[:-1]]
    assert len(pictures) == len(set(pictures)) == PICTURES
    assert served.engine.requests[0].settings.num_steps == 2
    assert served.engine.requests[-1].settings.max_tokens == 9


def test_a_small_queue_gets_a_notice(serve: Callable[..., Served], served: Served) -> None:  # noqa: F811
    """Its clients wait between attempts, which their times contain. A queue of 16 is enough."""
    small = serve(max_queue=2)
    outcome = bench(small.url, *SMALL, "--runs", "1")
    assert outcome.code == 0, outcome.stderr
    assert "queue takes 2 requests" in outcome.stderr and "--max-queue 16" in outcome.stderr
    assert len(small.engine.requests) == 1 + 1 + 4 + 16 + 1, "--runs counts the pictures of each client"
    assert "queue" not in bench(served.url, *SMALL, "--runs", "1").stderr


def test_json(served: Served) -> None:  # noqa: F811
    outcome = bench(served.url, *SMALL, "--json", "-q")
    assert outcome.code == 0 and outcome.stderr == ""
    report: dict[str, Any] = json.loads(outcome.stdout)
    assert (report["steps"], report["tokens"]) == (2, 9) and served.url in report["server"]
    first, one, *_ = report["figures"]
    assert (first["rate"], first["unit"]) == (None, None) and 0 < first["seconds"] <= one["seconds"]
    assert all(figure["unit"] == "pictures/min" and figure["rate"] > 0 for figure in report["figures"][1:4])


def test_the_size_of_the_model_and_several_sizes(served: Served) -> None:  # noqa: F811
    outcome = bench(served.url, "--steps", "1")
    assert "picture 64x64, 1 step, 16 clients" in outcome.stdout
    outcome = bench(served.url, "--steps", "1", "--size", "64x64", "--size", "96x64")
    assert outcome.stdout.count("16 clients") == 2 and "picture 96x64" in outcome.stdout


def test_vllm_omni_has_no_events_and_no_tokens(omni: FakeOmni) -> None:
    outcome = bench(omni.url, *SMALL)
    assert outcome.code == 0, outcome.stderr
    names = [line.split("  ")[0] for line in outcome.stdout.splitlines()]
    assert names == [f"picture 64x64, 2 steps, {clients}" for clients in ("1 client", "4 clients", "16 clients")] + [
        "answer"
    ]
    assert "a vLLM-Omni server at" in outcome.stderr
    assert "so there is no time to a first event" in outcome.stderr and "so there is no rate" in outcome.stderr
    assert json.loads(bench(omni.url, *SMALL, "--json").stdout)["model"] == MODEL


def test_a_failure_ends_all_clients(omni: FakeOmni) -> None:
    def fail(arguments: dict[str, Any]) -> None:
        if len(omni.drawn) >= 6:
            raise RuntimeError("boom")

    omni.fault = fail
    outcome = bench(omni.url, *SMALL)
    assert outcome.code == 1 and "Image generation failed: boom" in outcome.stderr
    assert "1 client" in outcome.stdout and "4 clients" not in outcome.stdout
    assert "Traceback" not in outcome.stderr and len(omni.bodies) < PICTURES


@pytest.mark.parametrize(("words", "message"), [
    (("load",), "load is measured on this machine, not on the server"),
    (("--load-format", "dummy"), "--load-format dummy is measured on this machine"),
    (("--device", "cpu"), "--device is about loading a model here"),
    (("--size", "100x100"), "both sides must be multiples of 32"),
])  # fmt: skip
def test_wrong_arguments(omni: FakeOmni, words: tuple[str, ...], message: str) -> None:
    outcome = bench(omni.url, *words)
    assert outcome.code == 2 and message in " ".join(outcome.stderr.split()), outcome.stderr
    assert omni.bodies == []


def test_a_server_that_is_not_there(omni: FakeOmni) -> None:
    outcome = bench("127.0.0.1:9", *SMALL)
    assert outcome.code == 1 and "cannot be reached" in outcome.stderr
