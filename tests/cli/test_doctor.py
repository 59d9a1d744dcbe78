"""`sensenova doctor`: one test measures this CPU in a process of its own; the others use fixed rates."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from config.settings import LoadSettings
from config.sizes import Size
from model.bench import Bandwidth, Ceilings, Examination, examine
from sensenova_cli.app import app
from sensenova_cli.render.doctor import bandwidth_line, forecast_json, print_forecasts

CEILINGS = Ceilings(gemm=1e12, copy=1e10)
NO_BANDWIDTH = Bandwidth(link=None, files=None, note=None)
"""The measurement for a built-in shape on a CPU, which has neither a link nor files."""
LARGE: Size = (2048, 2048)


def examined(gpu_memory: str | None, *sizes: Size) -> Examination:
    """Examine an 8B without files on the CPU."""
    settings = LoadSettings(device="cpu", dtype="bfloat16", gpu_memory=gpu_memory)
    return examine("u1-8b", settings, sizes, ceilings=CEILINGS, bandwidth=NO_BANDWIDTH)


def test_the_demo_needs_no_offloading() -> None:
    """Uses float32, because some CPUs multiply bfloat16 slowly."""
    command = [sys.executable, "-m", "sensenova_cli", "doctor", "--device", "cpu", "--dtype", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("python 3.")
    chosen = [line.split() for line in done.stdout.splitlines() if line.startswith("*")]
    assert [line[1:4] for line in chosen] == [["256x256", "off", "yes"]]


@pytest.fixture
def enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report as much memory as the test asks for, independent of other programs."""
    monkeypatch.setattr("model.bench.doctor.usable_memory", lambda device, limit: limit)


@pytest.mark.usefixtures("enough_memory")
def test_the_offload_plan_of_an_8b_depends_on_memory() -> None:
    found = json.loads(json.dumps(forecast_json(examined("20GiB", LARGE, (512, 512)), "u1-8b")))
    assert list(found["machine"])[-2:] == ["on_gpu", "obstacle"]
    assert found["usable_bytes"] == 20 * 2**30
    assert (found["gemm_flops_per_second"], found["copy_bytes_per_second"]) == (1e12, 1e10)
    table = {(each["size"], each["offload"], each["layers"]): each for each in found["forecasts"]}
    # Measured on an H100 (benchmarks/results/offload_u1-8b_h100.json), the first two within 10 %.
    assert table["2048x2048", "off", None]["peak_bytes"] == pytest.approx(35.1 * 2**30, rel=0.1)
    assert table["2048x2048", "module", 42]["peak_bytes"] == pytest.approx(18.9 * 2**30, rel=0.1)
    assert not table["2048x2048", "off", None]["fits"]
    assert [key[:2] for key, each in table.items() if each["chosen"]] == [
        ("2048x2048", "module"),
        ("512x512", "module"),
    ]


@pytest.mark.usefixtures("enough_memory")
def test_memory_too_small_for_any_plan(capsys: pytest.CaptureFixture[str]) -> None:
    print_forecasts(examined("1GiB", LARGE), "u1-8b")
    printed = capsys.readouterr().out
    assert " yes " not in printed
    assert (
        "nothing of this fits: take a smaller picture (--size), more memory (--gpu-memory), or a larger device"
        in printed
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "3x3"], "both sides must be multiples of 32"),
        (["--gpu-memory", "much"], "--gpu-memory 'much' is not understood\nhint: write it like 8GiB or 7.5GB; or all"),
    ],
)
def test_wrong_arguments(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu", *words])
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_host_without_page_locked_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    bandwidth = Bandwidth(link=2e9, files=None, note="the host gives none")
    monkeypatch.setattr("model.bench.doctor.measure_ceilings", lambda *_: CEILINGS)
    monkeypatch.setattr("model.bench.doctor.measure_bandwidth", lambda *_: bandwidth)
    done = CliRunner().invoke(app, ["doctor", "--model", "u1-8b", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "link 2 GB/s" in done.stdout
    assert done.stderr == "note: the host gives none\n"


def test_default_sizes_of_a_shape_and_fixed_rates() -> None:
    found = examined(None)
    assert {each.size for each in found.forecasts} == {(1024, 1024), LARGE}
    assert "matrix product 1 TFLOP/s · copy 10 GB/s" in bandwidth_line(found)
