"""`sensenova doctor`: once as a process that measures this CPU, else with given rates."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from config.settings import LoadSettings
from config.sizes import Size
from model.bench import Ceilings, Examination, Supply, examine
from sensenova_cli.app import app
from sensenova_cli.render.doctor import forecast_json, print_forecasts, supply_line

CEILINGS = Ceilings(gemm=1e12, copy=1e10)
NO_SUPPLY = Supply(link=None, files=None, note=None)
"""What is measured for a built-in shape on a CPU: there is no link and there are no files."""
LARGE: Size = (2048, 2048)


def examined(gpu_memory: str | None, *sizes: Size) -> Examination:
    """An 8B without files, on the CPU."""
    settings = LoadSettings(device="cpu", gpu_memory=gpu_memory)
    return examine("u1-8b", settings, sizes, ceilings=CEILINGS, supply=NO_SUPPLY)


def test_the_demo_stays_in_memory_as_a_whole() -> None:
    """The ceilings are measured in float32, which every CPU multiplies fast."""
    command = [sys.executable, "-m", "sensenova_cli", "doctor", "--device", "cpu", "--dtype", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("python 3.")
    chosen = [line.split() for line in done.stdout.splitlines() if line.startswith("*")]
    assert [line[1:4] for line in chosen] == [["256x256", "off", "yes"]]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much memory as is asked for, whatever else this machine is doing."""
    monkeypatch.setattr("model.bench.doctor.usable_memory", lambda device, limit: limit)


@pytest.mark.usefixtures("room")
def test_an_8b_is_placed_by_the_memory_there_is() -> None:
    found = json.loads(json.dumps(forecast_json(examined("20GiB", LARGE, (512, 512)), "u1-8b", "bfloat16")))
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


@pytest.mark.usefixtures("room")
def test_too_little_for_anything(capsys: pytest.CaptureFixture[str]) -> None:
    print_forecasts(examined("1GiB", LARGE), "u1-8b", "bfloat16")
    printed = capsys.readouterr().out
    assert " yes " not in printed
    assert (
        "nothing of this fits: take a smaller picture (--size), more memory (--gpu-memory), or a larger device"
        in printed
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "3x3"], "both sides must be multiples of 32"),
        (["--gpu-memory", "much"], "gpu_memory 'much' is not understood\nhint: write it like 8GiB or 7.5GB; or all"),
    ],
)
def test_what_was_typed_wrong(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu", *words])
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_host_without_page_locked_memory_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    supply = Supply(link=2e9, files=None, note="the host gives none")
    monkeypatch.setattr("model.bench.doctor.measure_ceilings", lambda *_: CEILINGS)
    monkeypatch.setattr("model.bench.doctor.measure_supply", lambda *_: supply)
    done = CliRunner().invoke(app, ["doctor", "--model", "u1-8b", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "link 2 GB/s" in done.stdout
    assert done.stderr == "note: the host gives none\n"


def test_sizes_of_a_shape_and_rates_that_were_given() -> None:
    found = examined(None)
    assert {each.size for each in found.forecasts} == {(1024, 1024), LARGE}
    assert "matrix product 1 TFLOP/s · copy 10 GB/s" in supply_line(found)
