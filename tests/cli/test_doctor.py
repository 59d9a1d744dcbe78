"""`sensenova doctor`: one test measures this CPU in a process of its own; the others use fixed rates."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from config.settings import LoadSettings
from config.sizes import Size
from config.units import format_memory
from model.bench import Bandwidth, Ceilings, Examination, examine
from sensenova_cli.app import app
from sensenova_cli.render.doctor import bandwidth_line, duration, forecast_json, print_findings, text_line
from tests.waiting import PATIENCE

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
    command = [sys.executable, "-m", "sensenova_cli", "doctor", "--model", "demo", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Yes: demo at 256x256 fits in ")
    assert "\npython 3." in done.stdout and "\neight bits: --quantization int8 saves memory" in done.stdout
    chosen = [line.split() for line in done.stdout.splitlines() if line.startswith("*  256")]
    assert [line[1:4] for line in chosen] == [["256x256", "off", "yes"]]


@pytest.mark.parametrize(("rate", "seconds"), [(4e12, 0.25), (0.5e12, 2.0)])
def test_eight_bits_have_a_speed_of_their_own(
    enough_memory: None, monkeypatch: pytest.MonkeyPatch, rate: float, seconds: float
) -> None:
    """The projections take as long as they were measured to take; attention as long as before."""
    monkeypatch.setattr("model.bench.doctor.projection_rate", lambda *_: rate)
    plain, int8 = (
        examine(
            "u1-8b",
            LoadSettings(device="cpu", dtype="float32", gpu_memory="40GiB", quantization=quantization),
            [(512, 512)],
            ceilings=CEILINGS,
            bandwidth=NO_BANDWIDTH,
        ).forecasts[0]
        for quantization in ("off", "int8")
    )
    assert int8.seconds / plain.seconds == pytest.approx(seconds, rel=0.1)


@pytest.fixture
def enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report as much memory as the test asks for, independent of other programs."""
    monkeypatch.setattr("model.bench.doctor.usable_memory", lambda device, limit: limit)


@pytest.mark.usefixtures("enough_memory")
def test_the_offload_plan_of_an_8b_depends_on_memory() -> None:
    found = json.loads(json.dumps(forecast_json(examined("20GiB", LARGE, (512, 512)), "u1-8b", 50)))
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
def test_text_for_which_weights_are_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    """A rate turns the bytes into seconds. With a resident understanding tower there is no such line."""
    for memory, streams in (("8GiB", True), ("20GiB", False)):
        found = examined(memory, LARGE)
        loaded = [each["text_pass_bytes"] for each in forecast_json(found, "u1-8b", 50)["forecasts"] if each["chosen"]]
        print_findings(found, "u1-8b", 50)
        assert (f"loads {format_memory(loaded[0])} of weights for each token;" in capsys.readouterr().out) == streams
        assert (loaded[0] > 0) == streams
    assert text_line(2**30, 2.0**32).endswith("for each token, which takes 0.25 s; words of the prompt take less.")


@pytest.mark.usefixtures("enough_memory")
def test_memory_too_small_for_any_plan(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings(examined("1GiB", LARGE), "u1-8b", 50)
    printed = capsys.readouterr().out
    assert " yes " not in printed
    said = " ".join(printed.split("\n\n")[0].split())
    assert said == (
        "No: u1-8b at 2048x2048 needs at least 2.2 GiB, and 1.0 GiB are usable. Use a smaller picture (--size), more "
        "memory (--gpu-memory), another machine, or a server (--server)."
    )


@pytest.mark.usefixtures("enough_memory")
def test_the_verdict_comes_first_and_times_are_per_picture(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings(examined("20GiB", (1024, 1024)), "u1-8b", 50)
    printed = capsys.readouterr().out
    said = " ".join(printed.split("\n\n")[0].split())
    assert said.startswith("Yes, but slowly: u1-8b at 1024x1024 fits in 17.")
    assert said.endswith("on this CPU. Use a GPU or a server (--server).")
    assert "a picture (50 steps)" in printed and "the choice of --offload auto" in printed
    print_findings(examined("20GiB", (1024, 1024)), "u1-8b", 1)
    assert capsys.readouterr().out.startswith("Yes: u1-8b at 1024x1024 fits in 17.")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2567, "0.26 s"), (9.4, "9.4 s"), (41.2, "41 s"), (2460, "41 min"), (123_000, "34 h"), (1_000_000, "12 days")],
)
def test_durations_have_a_unit_that_people_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


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
    assert "note: the host gives none\n" in done.stderr


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "u1-8b"),
        (["--model", "u1.5-8b"], "u1.5-8b"),
        (["--model", "SenseNova/SenseNova-U1-A3B-MoT"], "a3b"),
    ],
)
def test_published_models_need_no_files(monkeypatch: pytest.MonkeyPatch, words: list[str], name: str) -> None:
    """Without a model the answer is about the 8B, and nothing is downloaded."""
    monkeypatch.setattr("model.bench.doctor.measure_ceilings", lambda *_: CEILINGS)
    monkeypatch.setattr("model.bench.doctor.measure_bandwidth", lambda *_: NO_BANDWIDTH)
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent")
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu", "--dtype", "bfloat16", "--json", *words])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["model"], found["steps"]) == (name, 50)
    assert name in found["verdict"]
    assert found["forecasts"][0]["picture_seconds"] == 50 * found["forecasts"][0]["step_seconds"]


def test_default_sizes_of_a_shape_and_fixed_rates() -> None:
    found = examined(None)
    assert {each.size for each in found.forecasts} == {(1024, 1024), LARGE}
    assert "matrix product 1 TFLOP/s · copy 10 GB/s" in bandwidth_line(found)


def test_a_file_of_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its format and size are shown, and it is the file whose reading is measured."""
    measured: list[Path | None] = []

    def measure(device: object, folder: object, weights: Path | None) -> Bandwidth:
        measured.append(weights)
        return NO_BANDWIDTH

    monkeypatch.setattr("model.bench.doctor.measure_ceilings", lambda *_: CEILINGS)
    monkeypatch.setattr("model.bench.doctor.measure_bandwidth", measure)
    file = tmp_path / "pruned.safetensors"
    save_file({"language_model.model.norm.weight": torch.zeros(1000)}, file)
    words = ["doctor", "--model", "u1-8b", "--device", "cpu", "--weights"]
    done = CliRunner().invoke(app, [*words, str(file)])
    assert done.exit_code == 0, done.output
    assert f"weights: {file}: float32, 4 kB; without lm_head, so it draws and cannot write" in done.stdout
    found = json.loads(CliRunner().invoke(app, [*words, str(file), "--json"]).stdout)
    assert found["weights"]["kind"] == "float32" and not found["weights"]["writes_text"]
    done = CliRunner().invoke(app, [*words, "nobody/nothing/file.gguf"])
    assert "weights: nobody/nothing/file.gguf is not on this machine" in done.stdout
    assert measured == [file, file, None]
