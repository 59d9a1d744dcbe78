"""What benchmarks share, which is result files, and those of pictures in fewer passes, in a tiny form."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import fewer_passes, fewer_passes_time, harness
from benchmarks.harness import Bar


def run(module: ModuleType, arguments: list[str], file: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a benchmark on the CPU and return its result."""
    words = [str(module.__file__), *arguments, "--device", "cpu", "--dtype", "float32", "--output", str(file)]
    monkeypatch.setattr(sys, "argv", words)
    module.main()
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def test_times_of_pictures_in_fewer_passes(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--model", str(tiny_checkpoint), "--size", "64x64", "--steps", "8"]
    rows = run(fewer_passes_time, arguments, tmp_path / "times.json", monkeypatch)["results"]["64x64"]
    passes = {name: row["passes"] for name, row in rows.items()}
    assert passes == dict(zip(fewer_passes_time.VARIANTS, (16, 14, 10, 16, 14), strict=True))
    assert rows["full run"]["share_of_time"] == 1 and all(row["seconds"] > 0 for row in rows.values())


def test_pictures_in_fewer_passes(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets = tmp_path / "sheets"
    arguments = ["--model", str(tiny_checkpoint), "--pictures", "2", "--steps", "8", "--save", str(sheets)]
    found = run(fewer_passes, arguments, tmp_path / "pictures.json", monkeypatch)["against_full_run"]
    assert found["cfg_every 2"]["share_of_passes"] == 14 / 16
    assert found["half_size_until 0.3"]["share_of_passes"] == 1 > found["half_size_until 0.3"]["share_of_computations"]
    assert len(list(sheets.glob("*.png"))) == len(found) == len(fewer_passes.VARIANTS)


def test_a_result_begins_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results" / "speed.json"
    monkeypatch.setattr(sys, "argv", ["/x/benchmarks/speed.py", "--device", "cpu", "--output", str(file)])
    options = harness.parser("Measure speed.", device="auto").parse_args()
    bars = [Bar("step", 0.2, 0.3, "s"), Bar("decoding", 150.0, 190.0, "tok/s", at_least=True), Bar("load", None, 1.0)]
    harness.finish(options, {"seconds": 0.2}, harness.bars_table(bars), options.device)
    result = json.loads(file.read_text())
    assert next(iter(result.items())) == ("command", f"python -m benchmarks.speed --device cpu --output {file}")
    assert result["seconds"] == 0.2 and result["device"].partition(",")[0].endswith(" cpu") and result["torch"]
    assert [bar.met for bar in bars] == [True, False, False]
    printed = capsys.readouterr().out
    assert "not measured" in printed and "not met" in printed
