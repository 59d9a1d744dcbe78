"""`sensenova info`: its output for pictures and checkpoints, and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner, Result

from config.settings import ImageSettings
from sensenova_cli.commands.info import NoRecordError, info
from sensenova_cli.errors import UsageError, exit_code
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.replay import read_replay
from sensenova_cli.outputs.picture_files import png_info
from sensenova_cli.outputs.picture_record import InputFile, PictureRecord

RECORD = PictureRecord(
    task="edit",
    prompt="make it 红色\nand bright",
    settings=ImageSettings(size="64x32", seed=7, cfg_scale=1 / 3),
    model="SenseNova/SenseNova-U1-8B-MoT",
    dtype="bfloat16",
    inputs=(InputFile(path="in/cat.png", sha256="ab" * 32),),
    think_text="Red.\n\nBright.",
    version="0.1.0",
)

CONFIG: dict[str, Any] = {
    "model_type": "neo_chat",
    "use_pixel_head": True,
    "noise_scale": 1.0,
    "noise_scale_base_image_seq_len": 64,
    "noise_scale_max_value": 16.0,
    "llm_config": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 508,
        "rope_theta": 5000000.0,
        "rope_theta_hw": 10000.0,
        "rms_norm_eps": 1e-06,
    },
    "vision_config": {"hidden_size": 32, "patch_size": 16},
}
MIXTURE = {
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 48,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "gen_num_experts": 4,
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture(name: str, record: PictureRecord | None = RECORD) -> str:
    image = Image.new("RGB", (64, 32), "teal")
    image.save(name, "PNG", pnginfo=png_info(record) if record else None)
    return name


def checkpoint(folder: str, config: dict[str, Any], recommended: dict[str, Any] | None = None) -> str:
    Path(folder).mkdir()
    Path(folder, "config.json").write_text(json.dumps(config))
    Path(folder, "model-00001-of-00002.safetensors").write_bytes(bytes(1000))
    Path(folder, "model-00002-of-00002.safetensors").write_bytes(bytes(234))
    if recommended is not None:
        Path(folder, "recommended_settings.json").write_text(json.dumps(recommended))
    return folder


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    app = typer.Typer()
    app.command()(info)
    return CliRunner().invoke(app, list(arguments), input=stdin)


def test_picture() -> None:
    done = run(picture("cat.png"))
    assert done.exit_code == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:4] == ["picture: cat.png", "task: edit", "prompt: make it 红色", "  and bright"]
    for line in (
        "size: 64x32",
        "seed: 7",
        "num_steps: 50",
        "cfg_scale: 0.3333333333333333",
        "cfg_interval: 0.0, 1.0",
        "think: false",
        "model: SenseNova/SenseNova-U1-8B-MoT",
        "dtype: bfloat16",
        "input: in/cat.png",
        "think_text: Red.",
        "  Bright.",
        "version: 0.1.0",
    ):
        assert line in lines


def test_json() -> None:
    done = run("--json", picture("a.png"), picture("b.png"))
    assert done.exit_code == 0
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first.pop("picture"), second.pop("picture")) == ("a.png", "b.png")
    assert (first.pop("path"), second.pop("path")) == ("a.png", "b.png")
    assert first == second == RECORD.model_dump(mode="json")


def test_standard_input() -> None:
    done = run("-", stdin=Path(picture("a.png")).read_bytes())
    assert done.exit_code == 0
    assert "picture: standard input" in done.stdout
    assert "seed: 7" in done.stdout


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(info)
    monkeypatch.setattr("sensenova_cli.system.streams.sys.stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        app(["-"], standalone_mode=False)


def test_file_names_that_are_not_utf8() -> None:
    source = InputFile(path="/in/caf\udce9.png", sha256="ab" * 32)
    name = picture("caf\udce9.png", RECORD.model_copy(update={"inputs": (source,)}))
    assert "input: /in/caf\\udce9.png\n" in run(name).stdout
    facts = json.loads(run("--json", name).stdout)
    assert (facts["picture"], facts["inputs"][0]["path"]) == (name, source.path)


def test_escape_sequences_do_not_reach_the_terminal() -> None:
    changes = {"prompt": "a\x1b]0;owned\x07 cat\r", "model": "m\x9b31m"}
    evil = PictureRecord.model_validate({**RECORD.model_dump(), **changes})
    done = run(picture("evil.png", evil))
    assert "prompt: a\\x1b]0;owned\\x07 cat\\r\n" in done.stdout
    assert not any(char in done.stdout for char in "\x1b\x07\x9b\r")
    assert json.loads(run("--json", "evil.png").stdout)["prompt"] == evil.prompt


def test_picture_without_a_record() -> None:
    done = run(picture("plain.png", None))
    assert isinstance(done.exception, NoRecordError)
    assert "plain.png has no record" in done.exception.what
    assert done.exception.hint
    assert exit_code(done.exception) == 1


FOREIGN = "a cat \x1b]0;owned\x07 at dusk\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, Seed: 7, Size: 64x32"


def foreign(name: str) -> str:
    """Write a picture as A1111's web UI and similar programs do."""
    chunks = PngInfo()
    chunks.add_text("parameters", FOREIGN)
    Image.new("RGB", (64, 32), "teal").save(name, "PNG", pnginfo=chunks)
    return name


def test_picture_of_another_program() -> None:
    done = run(foreign("other.png"))
    assert done.stdout.splitlines() == [
        "picture: other.png",
        "parameters: a cat \\x1b]0;owned\\x07 at dusk",
        "  Negative prompt: dog",
        "  Steps: 20, Sampler: Euler a, Seed: 7, Size: 64x32",
    ]
    assert isinstance(done.exception, NoRecordError) and exit_code(done.exception) == 1
    assert done.exception.what == "other.png was described by another program, and cannot be repeated byte for byte"


def test_picture_of_another_program_as_json_and_beside_others() -> None:
    done = run("--json", picture("a.png"), foreign("other.png"), picture("plain.png", None), picture("b.png"))
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert second == {"path": "other.png", "picture": "other.png", "parameters": FOREIGN}
    assert (first["picture"], third["picture"]) == ("a.png", "b.png")
    assert "other.png" in str(done.exception) and "plain.png" in str(done.exception)
    assert exit_code(done.exception) == 1  # type: ignore[arg-type]


def test_picture_of_another_program_cannot_be_replayed() -> None:
    with pytest.raises(UsageError, match="only the text of another program, and cannot be repeated") as caught:
        read_replay(foreign("other.png"), "generate")
    assert caught.value.hint == "see the text: sensenova info other.png"


def test_picture_that_another_program_computed() -> None:
    content = {**RECORD.model_dump(mode="json"), "made_by": "vLLM-Omni (vLLM 0.30.0)"}
    done = run(picture("omni.png", PictureRecord.model_validate(content)))
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert "made_by: vLLM-Omni (vLLM 0.30.0); it cannot be repeated byte for byte" in lines
    assert "model: SenseNova/SenseNova-U1-8B-MoT" in lines
    assert not any(line.startswith(("dtype", "quantization", "lora", "enforce_eager")) for line in lines)
    layers = read_replay("omni.png", "edit").layers(Flags({}, trust_record=True))
    assert layers.load.model == "SenseNova/SenseNova-U1-8B-MoT"
    assert not layers.origins.get("dtype", "").startswith("picture"), "how that program loads its model is not known"


def test_unreadable_file_has_its_own_exit_code() -> None:
    done = run("none.png")
    assert "there is no file none.png" in str(done.exception)
    assert exit_code(done.exception) == 2  # type: ignore[arg-type]


def test_unreadable_files_do_not_stop_the_others() -> None:
    done = run(picture("a.png"), "none.png", picture("plain.png", None), picture("b.png"))
    assert [line for line in done.stdout.splitlines() if line.startswith("picture")] == [
        "picture: a.png",
        "picture: b.png",
    ]
    assert "none.png" in str(done.exception) and "plain.png" in str(done.exception)
    assert exit_code(done.exception) == 2  # type: ignore[arg-type]


def test_checkpoint() -> None:
    done = run(checkpoint("u15", CONFIG, {"settings": {"num_steps": 8}, "trained_sizes": [[128, 96]]}))
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "checkpoint: u15",
        "layers: 3",
        "hidden_size: 64",
        "heads: 4",
        "kv_heads: 2",
        "pixel_head: convolutional",
        "weight_files: 2",
        "weight_bytes: 1,234",
        "trained_sizes: 128x96",
        "recommended_settings: num_steps 8",
    ]


def test_the_demo_lists_what_it_knows() -> None:
    """Without a folder; one of that name is `./demo`."""
    Path("demo").mkdir()
    lines = run("demo").stdout.splitlines()
    assert lines[0] == "checkpoint: demo"
    assert "shapes: circle, square, triangle, star, heart, ring, diamond, cross" in lines
    assert any(line.startswith("objects: cat, dog, ") and "ice cream" in line for line in lines)
    assert any(line.startswith("trained_sizes: 256x256") for line in lines)
    facts = json.loads(run("--json", "demo").stdout)
    assert len(facts["objects"]) == 64 and "red" in facts["colors"]
    assert facts["answers_with_pictures"] is False and "answers_with_pictures: false" in lines


def test_mixture_of_experts() -> None:
    config = CONFIG | {"use_pixel_head": False, "llm_config": CONFIG["llm_config"] | MIXTURE}
    facts = json.loads(run("--json", checkpoint("a3b", config)).stdout)
    assert facts["experts"] == {"understanding": 8, "generation": 4}
    assert facts["pixel_head"] == "mlp"
    assert facts["weight_bytes"] == 1234
    assert facts["trained_sizes"][0] == "2048x2048"


def test_folder_that_is_not_a_checkpoint() -> None:
    Path("pictures").mkdir()
    done = run("pictures")
    assert "config.json" in str(done.exception)
    assert exit_code(done.exception) == 3  # type: ignore[arg-type]


def test_no_model_library_is_imported() -> None:
    code = (
        "import sys, typer\n"
        "from sensenova_cli.app import app, load_command\n"
        "load_command('info')\n"
        "assert 'PIL' not in sys.modules, 'help must be quick'\n"
        "try:\n"
        "    app(['info', *sys.argv[1:]])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, picture("cat.png"), checkpoint("u1", CONFIG)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "picture: cat.png" in done.stdout and "checkpoint: u1" in done.stdout


def test_help_shows_examples_before_options() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert 0 < done.stdout.index("sensenova info a-cute-cat-42.png") < done.stdout.index("--json")


def test_files_of_weights(tmp_path: Path) -> None:
    """A file without `lm_head`, and one that is damaged."""
    from safetensors.numpy import save_file

    save_file({"language_model.model.norm.weight": np.zeros((4, 100), np.float16)}, "half.safetensors")
    done = run("half.safetensors")
    size = Path("half.safetensors").stat().st_size
    assert done.stdout.splitlines() == [
        "weights: half.safetensors",
        "weight_format: float16",
        f"weight_bytes: {size}",
        "tensors: 1",
        "writes_text: false",
    ]
    facts = json.loads(run("--json", "half.safetensors").stdout)
    assert (facts["weights"], facts["weight_bytes"], facts["note"]) == ("half.safetensors", size, None)
    Path("bad.gguf").write_bytes(b"GGUF\3\0\0\0")
    done = run("bad.gguf")
    assert "bad.gguf is not a readable GGUF file" in str(done.exception)
    assert exit_code(done.exception) == 3  # type: ignore[arg-type]
