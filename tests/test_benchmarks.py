"""What benchmarks share: result files."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import Bar


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
