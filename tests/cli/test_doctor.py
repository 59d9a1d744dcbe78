"""`sensenova doctor`, run for real on this CPU."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from model.bench import forecast
from sensenova_cli.app import app


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sensenova_cli", "doctor", "--device", "cpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_demo_stays_in_memory_as_a_whole() -> None:
    done = doctor()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("python 3.")
    chosen = [line.split() for line in done.stdout.splitlines() if line.startswith("*")]
    assert [line[1:4] for line in chosen] == [["256x256", "off", "yes"]]


def test_an_8b_is_placed_by_the_memory_there_is() -> None:
    done = doctor("--model", "u1-8b", "--gpu-memory", "20GiB", "--size", "2048x2048", "--size", "512x512", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["usable_bytes"] == 20 * 2**30
    table = {(each["size"], each["offload"], each["layers"]): each for each in found["forecasts"]}
    # Measured on an H100 (benchmarks/results/offload_u1-8b_h100.json), the first two within 10 %.
    assert table["2048x2048", "off", None]["peak_bytes"] == pytest.approx(35.1 * 2**30, rel=0.1)
    assert table["2048x2048", "module", 42]["peak_bytes"] == pytest.approx(18.9 * 2**30, rel=0.1)
    assert not table["2048x2048", "off", None]["fits"]
    assert [key[:2] for key, each in table.items() if each["chosen"]] == [
        ("2048x2048", "module"),
        ("512x512", "module"),
    ]


def test_too_little_for_anything() -> None:
    done = doctor("--model", "u1-8b", "--gpu-memory", "1GiB", "--size", "2048x2048")
    assert done.returncode == 0
    assert " yes " not in done.stdout
    assert (
        "nothing of this fits: take a smaller picture (--size), more memory (--gpu-memory), or a larger device"
        in done.stdout
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "3x3"], "both sides must be multiples of 32"),
        (["--gpu-memory", "much"], "gpu_memory 'much' is not understood\nhint: write it like 8GiB or 7.5GB; or all"),
    ],
)
def test_what_was_typed_wrong(words: list[str], said: str) -> None:
    done = doctor(*words)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_host_without_page_locked_memory_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "measure_supply", lambda *_: forecast.Supply(2e9, None, "the host gives none"))
    done = CliRunner().invoke(app, ["doctor", "--model", "u1-8b", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "link 2 GB/s" in done.stdout
    assert done.stderr == "note: the host gives none\n"
