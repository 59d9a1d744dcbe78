"""`sensenova bench`: its output and exit codes."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from model.bench import bench as measuring
from model.bench.energy import Energy, Meter
from model.checkpoint import random_weights as synthetic
from sensenova_cli.app import app

TINY_SHAPE = {**synthetic.EIGHT_B, "hidden": 64, "layers": 5, "heads": 2, "kv_heads": 1, "head_dim": 32, "ffn": 96}
TINY_SHAPE |= {"vocabulary": 300, "vision_hidden": 32}
QUICK = ("--size", "64x64", "--steps", "2", "--tokens", "3")


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small ceilings, tiny built-in shapes, and no settings of the user."""
    monkeypatch.setattr("model.bench.ceilings.GEMM_SIDE", {"cpu": 64})
    monkeypatch.setattr("model.bench.ceilings.COPY_BYTES", {"cpu": 2**16})
    monkeypatch.setitem(synthetic.SHAPES, "u1-8b", {**TINY_SHAPE, "convolutional_head": False})
    monkeypatch.setitem(synthetic.SHAPES, "u1.5-8b", {**TINY_SHAPE, "convolutional_head": True})
    monkeypatch.setitem(synthetic.SHAPES, "a3b", {**TINY_SHAPE, "convolutional_head": False, "experts": (10, 9)})
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path))
    for name in ("SENSENOVA_MODEL", "SENSENOVA_DTYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def bench(*words: str) -> Result:
    return CliRunner().invoke(app, ["bench", *words, "--device", "cpu"], catch_exceptions=False)


def works(report: dict[str, Any]) -> list[str]:
    return [figure["work"] for figure in report["figures"]]


def test_all_measurements_of_a_checkpoint_one_per_line(tiny_checkpoint: Path) -> None:
    result = bench("--model", str(tiny_checkpoint), *QUICK)
    assert result.exit_code == 0, result.stderr
    ceilings, *lines = result.stdout.splitlines()
    assert "matrix product" in ceilings and "copy" in ceilings and "FLOP/s" in ceilings
    assert [line.split("  ")[0] for line in lines] == [
        "guided step 64x64",
        "unguided step 64x64",
        "500-token prompt read, both branches",
        "500-token prompt to first step 64x64",
        "token written",
        "loading 4 MB",
    ]
    assert all(" s " in line and "peak" in line for line in lines)
    assert "its own weights" in result.stderr and str(tiny_checkpoint) in result.stderr


def test_json_is_one_object_with_consistent_rates(tiny_checkpoint: Path) -> None:
    result = bench("--model", str(tiny_checkpoint), *QUICK, "--json", "-q")
    assert result.exit_code == 0 and result.stderr == ""
    report = json.loads(result.stdout)
    assert report["dtype"] in ("bfloat16", "float32") and report["steps"] == 2 and report["tokens"] == 3
    guided, unguided, read, first, token, load = report["figures"]
    ceiling = report["ceilings"]["gemm_flops_per_second"]
    assert guided["share_of_ceiling"] == pytest.approx(guided["rate"] / ceiling)
    assert token["share_of_ceiling"] == pytest.approx(token["rate"] / report["ceilings"]["copy_bytes_per_second"])
    # Two branches are about twice the arithmetic of one; their prefixes differ in length.
    assert 1.2 < (guided["rate"] * guided["seconds"]) / (unguided["rate"] * unguided["seconds"]) < 2
    assert first["rate"] is None and first["seconds"] > 0 and read["seconds"] > 0
    size = sum(file.stat().st_size for file in tiny_checkpoint.glob("*.safetensors"))
    assert load["rate"] * load["seconds"] == pytest.approx(size)
    assert all(figure["peak_memory_bytes"] > 0 for figure in report["figures"])


def test_energy_is_beside_each_figure(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A meter of a GPU that uses 100 W takes the place of the real one."""

    class Constant(Meter):
        measures = True

        def stop(self, count: int) -> Energy | None:
            return Energy(200.0 / count, 100.0, 1500.0, 2.0)

    monkeypatch.setattr(measuring, "open_meter", lambda device: Constant())
    words = ("denoise", "decode", "--model", str(tiny_checkpoint), *QUICK, "--energy")
    lines = bench(*words).stdout.splitlines()
    ends = [line.split("GiB")[-1].split("MiB")[-1].strip() for line in lines]
    steps, picture, token = "100 J  100 W  1500 MHz", "200 J  100 W  1500 MHz", "66.7 J  100 W  1500 MHz"
    assert [end for end in ends[1:] if end] == [steps, steps, picture, token]
    figures = json.loads(bench(*words, "--json", "-q").stdout)["figures"]
    assert works({"figures": figures})[2] == "guided picture 64x64, 2 steps"
    assert figures[0]["energy"] == {"joules": 100, "watts": 100, "sm_clock_mhz": 1500, "measured_seconds": 2}
    assert figures[3]["energy"] is None, "a prefill is too short"


@pytest.mark.slow
def test_startup_is_measured_in_new_processes(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSENOVA_DATA_DIR", str(tmp_path / "data"))
    # Without the processes that are not timed: they only fill caches.
    monkeypatch.setattr("sensenova_cli.commands.startup.range", lambda stop: range(1, stop), raising=False)
    words = ("startup", "--model", str(tiny_checkpoint), "--size", "64x64", "--dtype", "float32", "--runs", "1")
    result = bench(*words, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["size"], report["dtype"], report["model"]) == ("64x64", "float32", str(tiny_checkpoint))
    figures = {figure["work"]: figure for figure in report["figures"]}
    assert all(figure["runs"] == [figure["seconds"]] for figure in figures.values())
    first, end = (f"sensenova generate, Enter to the {moment}" for moment in ("first step", "end"))
    assert 0 < figures[first]["seconds"] < figures[end]["seconds"]
    assert {
        "sensenova --help",
        "import typer, rich, pydantic",
        "  of it, imports",
        "  of it, first_step",
        "sensenova describe, Enter to the first token",
        "loading, with the imports",
        "reading of the weights",
        "second picture, to its first step",
        "first think token",
    } <= set(figures)
    assert not (tmp_path / "data").exists(), "the measured requests are not logged"


@pytest.mark.slow
def test_a_process_that_fails_is_reported(tmp_path: Path, tiny_checkpoint: Path) -> None:
    damaged = Path(shutil.copytree(tiny_checkpoint, tmp_path / "damaged"))
    (damaged / "tokenizer.json").unlink()
    result = bench("startup", "--model", str(damaged), "--runs", "1")
    assert result.exit_code == 1
    assert "a measured process failed" in result.stderr and "sensenova --help" in result.stdout


@pytest.mark.parametrize(
    ("model", "quantization"), [("u1-8b", "off"), ("u1.5-8b", "off"), ("a3b", "off"), ("a3b", "int8-all")]
)
def test_random_weights_need_no_files(
    model: str, quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    result = bench("--model", model, "--load-format", "dummy", "--quantization", quantization, *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["weights"] == "random" and report["model"] == model
    assert len(works(report)) == 6
    assert not list(scratch.iterdir()), "the temporary checkpoint is still there"


def test_a_published_model_that_is_not_here_is_measured_with_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded."""
    monkeypatch.setattr("sensenova_cli.turns.downloads.local_checkpoint", lambda model: None)
    result = bench("denoise", "--model", "SenseNova/SenseNova-U1-8B-MoT", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["model"], report["weights"]) == ("u1-8b", "random")
    assert "is not on this machine: measuring random weights of its shape (u1-8b)" in result.stderr


def test_only_the_named_parts_in_a_fixed_order(tiny_checkpoint: Path) -> None:
    result = bench("load", "decode", "--model", str(tiny_checkpoint), "--tokens", "2", "--json")
    assert [work.split()[0] for work in works(json.loads(result.stdout))] == ["token", "loading"]


def test_loading_quantizes_as_asked(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "int8"
    made = CliRunner().invoke(app, ["convert", str(tiny_checkpoint), str(copy), "--quantization", "int8-all", "-q"])
    assert made.exit_code == 0, made.stderr
    result = bench("load", "--model", str(copy), "--quantization", "int8-all", "--json")
    report = json.loads(result.stdout)
    assert (works(report), report["quantization"]) == (["loading 3 MB"], "int8-all")
    refused = bench("load", "--model", str(copy), "--quantization", "fp8", "--dtype", "bfloat16")
    assert refused.exit_code != 0 and "tensors are int8 already" in refused.stderr


def test_an_interleaved_answer(tiny_checkpoint: Path) -> None:
    for model in (("--model", str(tiny_checkpoint)), ("--model", "u1-8b", "--load-format", "dummy")):
        made = bench("interleave", *model, *QUICK, "--json")
        assert made.exit_code == 0, made.stderr
        report = json.loads(made.stdout)
        assert works(report) == [
            "interleaved picture 64x64, 2 steps",
            "token between pictures",
            "picture 64x64 read back",
            "answer of 3 pictures and 8 tokens",
        ]
        picture, token, read, answer = (figure["seconds"] for figure in report["figures"])
        assert read >= 0 and answer > 3 * min(picture, token) > 0


def test_several_sizes(tiny_checkpoint: Path) -> None:
    sizes = ("--size", "64x64", "--size", "96x64")
    report = json.loads(bench("denoise", "--model", str(tiny_checkpoint), *sizes, "--steps", "1", "--json").stdout)
    assert [work for work in works(report) if work.startswith("guided")] == ["guided step 64x64", "guided step 96x64"]


def test_without_a_model_the_demo_is_measured_at_its_own_size() -> None:
    result = bench("denoise", "--steps", "1", "--dtype", "float32")
    assert "guided step 256x256" in result.stdout and "demo, its own weights" in result.stderr


@pytest.mark.parametrize(("words", "expected", "code"), [
    (("speed",), "there is no measurement 'speed': name some of denoise, decode, load", 2),
    (("startup", "load"), "startup is measured alone", 2),
    (("startup", "--runs", "0"), "invalid value for '--runs'", 2),
    (("--load-format", "fast"), "there is no load format 'fast': use auto or dummy", 2),
    (("--load-format", "dummy"), "no random weights without a model: with --load-format dummy, use --model u1-8b", 2),
    (("--load-format", "dummy", "--model", "./mine"), "no random weights for ./mine: with --load-format dummy", 2),
    (("startup", "--energy"), "startup has no energy to measure", 2),
    (("--energy", "--device", "cpu"), "this measurement runs on cpu: measure without energy", 2),
    (("--energy", "--server", "localhost:1"), "--energy is measured on this machine, not on the server", 2),
    (("--size", "wide"), "size 'wide' is not understood: write it like 2048x2048", 2),
    (("--size", "100x100"), "both sides must be multiples of 32", 2),
    (("--steps", "0"), "invalid value for '--steps'", 2),
    (("--device", "cuda:9"), "is not there", 2),
    (("--model", "./nowhere"), "nowhere", 3),
])  # fmt: skip
def test_wrong_arguments(words: tuple[str, ...], expected: str, code: int) -> None:
    result = CliRunner().invoke(app, ["bench", *words])
    message = " ".join(result.stderr.split()).replace(" hint: ", ": ")
    assert expected in message.replace("error: ", ""), message
    assert result.exit_code == code
    assert not result.stdout


def test_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(measuring, "random_network", too_large)
    result = bench("--model", "u1-8b", "--load-format", "dummy", *QUICK)
    assert result.exit_code == 4
    assert "out of memory" in result.stderr and "--size 512x512" in result.stderr


def test_no_disk_space_for_the_temporary_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(measuring, "write_checkpoint", full)
    result = bench("load", "--model", "u1-8b", "--load-format", "dummy")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr and "TMPDIR" in result.stderr
