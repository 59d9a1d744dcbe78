"""Every command of the page of vLLM-Omni's example script (examples/offline_inference/sensenova_u1) and of its recipe.

The commands run on the demo. Options at their ends make the pictures small: the last one of two equal options wins.
"""

import os
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sensenova_cli.app import app

PORTRAIT = "--prompt 'Close portrait of an elderly woman by a farmhouse window, textured skin, gentle smile'"
OIL = "--prompt 'Turn this into an oil painting' --image input.png"
DESCRIBE = "--modality img2text --prompt 'Describe this image in detail' --image photo.jpg"
ALL = "--seed 42 --num-steps 50 --cfg-scale 4.0 --timestep-shift 3.0 --cfg-norm none --think --print-think"
PICTURES = [
    "--prompt 'A cute cat' --think",
    f"{OIL} --think",
    "--prompt 'A futuristic cityscape at sunset' --width 2048 --height 1024 --think",
    f"{PORTRAIT} --width 1536 --height 2720 --think --print-think",
    "--prompt 'Add a sunset sky in the background' --image photo.jpg --width 2048 --height 2048 --think",
    "--prompt 'Combine the style of Image-1 with the content of Image-2' --image style_ref.png content_ref.png "
    "--width 2048 --height 2048 --think",
    "--prompt 'Make the person smile' --image portrait.jpg --cfg-scale 4.0 --img-cfg-scale 2.0 --think",
    "--prompt 'A cute cat sitting on a windowsill' --width 2048 --height 2048 --enable-cpu-offload --think",
    f"{OIL} --width 2048 --height 2048 --enable-cpu-offload --think",
    f"{PORTRAIT} --width 1536 --height 2720 {ALL} --output outputs",
    f"{OIL} --width 2048 --height 2048 {ALL} --img-cfg-scale 1.0 --output outputs",
    f"{OIL} --width 2560 --height 1669 {ALL} --img-cfg-scale 1.0",
    "--prompt 'A cute cat' --t-eps 0.02 --enforce-eager --tensor-parallel-size 1 --cfg-parallel-size 1",
    "--prompt 'A cute cat' --cache-backend cache_dit --enable-cache-dit-summary",
]
TEXTS = [
    DESCRIBE,
    f"{DESCRIBE} --enable-cpu-offload",
    f"{DESCRIBE} --max-tokens 512",
    "--modality text2text --prompt 'What is the capital of France?'",
    "--modality text2text --prompt 'Explain the theory of relativity in simple terms' --max-tokens 256",
    "--modality text2text --prompt 'hello' --do-sample --temperature 0.7",
]
REFUSED = {
    "--prompt 'A cute cat' --deploy-config vllm_omni/deploy/sensenova_u1.yaml": "--deploy-config",
    f"{PORTRAIT} --width 1536 --height 2720 --deploy-config vllm_omni/deploy/sensenova_u1.yaml": "--deploy-config",
    "--prompt 'A cute cat' --cache-backend tea_cache": "--cache-backend tea_cache",
    "--prompt 'A cute cat' --step-execution": "--step-execution",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with the pictures of the page. The demo is the model."""
    for name in [name for name in os.environ if name.startswith("SENSENOVA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("SENSENOVA_DTYPE", "float32")
    monkeypatch.setenv("SENSENOVA_MODEL", "demo")
    monkeypatch.chdir(tmp_path)
    for name in ("input.png", "photo.jpg", "style_ref.png", "content_ref.png", "portrait.jpg"):
        Image.new("RGB", (96, 64), "red").save(name)
    return tmp_path


def run(line: str, *more: str) -> Result:
    return CliRunner().invoke(app, ["run", *shlex.split(line), *more], catch_exceptions=False)


@pytest.mark.parametrize("line", PICTURES)
def test_pictures(home: Path, line: str) -> None:
    result = run(line, "--num-steps", "1", "--width", "97", "--height", "63")
    assert result.exit_code == 0, result.stderr
    folder = home / "outputs" if "--output" in line else home
    assert Image.open(folder / "sensenova_u1_output_0.png").size == (96, 64)
    assert "note: 97 is rounded to 96, a multiple of 32" in result.stderr


@pytest.mark.parametrize("line", TEXTS)
def test_texts(line: str) -> None:
    result = run(line)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize("line", REFUSED)
def test_refused_by_name(line: str) -> None:
    result = run(line)
    assert result.exit_code == 2
    assert f"{REFUSED[line]} is not supported" in result.stderr
