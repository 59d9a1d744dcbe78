"""`weights`: a file of another program draws the picture of the numbers in it, in every way to hold the weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.errors import SettingsError
from config.settings import ImageSettings
from model import AnswerRequest, Engine, GenerateRequest, Notice, Picture
from model.checkpoint.weights_file import HEAD, describe_weights, find_weights_file
from model.errors import CheckpointError, RequestError
from tests.model.checkpoint.foreign_files import (
    is_linear,
    official_tensors,
    rotated_int8,
    scaled_fp8,
    write_gguf,
    write_safetensors,
)
from tests.model.checkpoint.test_lora import write_lora

REQUEST = GenerateRequest("a cat", ImageSettings(size="64x64", num_steps=2))


def q8(name: str) -> str:
    """The tiny model's rows are blocks of Q8_0, and no K blocks."""
    return "Q8_0" if is_linear(name) else "F32"


def drawn(engine: Engine) -> bytes:
    try:
        return next(event for event in engine.run(REQUEST) if isinstance(event, Picture)).image.tobytes()
    finally:
        engine.close()


def load(folder: Path, **settings: Any) -> Engine:
    return Engine.load(folder, device="cpu", requests=[REQUEST], **({"dtype": "float32"} | settings))


@pytest.fixture(scope="module")
def files(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of each kind, `NAME.gguf` or `NAME.safetensors`, and folders `NAME` with the same numbers."""
    root = tmp_path_factory.mktemp("weights")
    tensors = official_tensors(tiny_checkpoint)
    numbers = {"q8": write_gguf(root / "q8.gguf", tensors, q8, "model.diffusion_model.")}
    pruned = {name: tensor for name, tensor in tensors.items() if name != HEAD}
    write_gguf(root / "pruned.gguf", pruned, q8)
    stored, numbers["fp8"] = scaled_fp8(tensors)
    write_folder(tiny_checkpoint, root / "fp8-stored", stored)
    shutil.move(root / "fp8-stored" / "model.safetensors", root / "fp8.safetensors")
    write_folder(tiny_checkpoint, root / "int8-stored", rotated_int8(tensors, lambda columns: 64))
    shutil.move(root / "int8-stored" / "model.safetensors", root / "int8.safetensors")
    for name, values in numbers.items():
        write_folder(tiny_checkpoint, root / name, values)
    return root


def write_folder(source: Path, folder: Path, tensors: dict[str, Any]) -> None:
    shutil.copytree(source, folder)
    write_safetensors(folder, tensors)


@pytest.mark.parametrize("name", ["q8.gguf", "fp8.safetensors"])
@pytest.mark.parametrize(
    "settings", [{}, {"offload": "layers"}, {"offload": "module"}], ids=["all", "layers", "module"]
)
def test_the_picture_of_the_numbers(name: str, settings: dict[str, Any], files: Path, tiny_checkpoint: Path) -> None:
    expected = drawn(load(files / name.partition(".")[0]))
    assert drawn(load(tiny_checkpoint, weights=str(files / name), **settings)) == expected


@pytest.mark.parametrize("settings", [{}, {"offload": "layers"}], ids=["all", "layers"])
def test_int8_draws_the_same_resident_and_streamed(
    settings: dict[str, Any], files: Path, tiny_checkpoint: Path
) -> None:
    weights = str(files / "int8.safetensors")
    kept = drawn(load(tiny_checkpoint, weights=weights, quantization="int8"))
    assert drawn(load(tiny_checkpoint, weights=weights, quantization="int8", **settings)) == kept
    assert drawn(load(tiny_checkpoint, weights=weights)) != drawn(load(tiny_checkpoint))


def test_loras_of_a_session(files: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """They are merged into the file's numbers, and leave them as they were."""
    name = "language_model.model.layers.1.mlp_mot_gen.down_proj"
    lora = write_lora(tmp_path / "lora.safetensors", {name: (128, 320)}, rank=2)
    merged = drawn(load(files / "q8", lora=str(lora)))
    plain = drawn(load(files / "q8"))
    for settings in ({}, {"offload": "layers"}):
        engine = load(tiny_checkpoint, weights=str(files / "q8.gguf"), lora=str(lora), **settings)
        first = next(event for event in engine.run(REQUEST) if isinstance(event, Picture)).image.tobytes()
        engine.use_loras(())
        assert (first, drawn(engine)) == (merged, plain) and merged != plain


@pytest.mark.slow
def test_two_ranks(files: Path, tiny_checkpoint: Path) -> None:
    one = drawn(load(files / "q8", tensor_parallel_size=2))
    assert drawn(load(tiny_checkpoint, weights=str(files / "q8.gguf"), tensor_parallel_size=2)) == one


@pytest.mark.parametrize("settings", [{}, {"offload": "layers"}], ids=["all", "layers"])
def test_without_lm_head(settings: dict[str, Any], files: Path, tiny_checkpoint: Path) -> None:
    """It draws. Requests for text are refused, before the weights are read if they are known then."""
    weights = str(files / "pruned.gguf")
    engine = load(tiny_checkpoint, weights=weights, **settings)
    thinking = GenerateRequest("a cat", ImageSettings(size="64x64", think=True))
    for request in (AnswerRequest("hello"), thinking):
        with pytest.raises(RequestError, match="this file cannot write text: it has no lm_head"):
            list(engine.run(request))
        with pytest.raises(RequestError, match="this file cannot write text"):
            Engine.load(tiny_checkpoint, device="cpu", weights=weights, requests=[request])
    assert len(drawn(engine)) == 64 * 64 * 3


def test_a_folder_without_weights_of_its_own(files: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "small", ignore=shutil.ignore_patterns("model*")))
    assert drawn(load(folder, weights=str(files / "q8.gguf"))) == drawn(load(files / "q8"))


def test_few_bits_get_a_note(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tensors = official_tensors(tiny_checkpoint)
    kind = {name: "Q3_K" for name, tensor in tensors.items() if is_linear(name) and tensor.numel() % 256 == 0}
    for file, shown in (("model-Q3_K_M.gguf", "Q3_K_M"), ("a.gguf", "Q3_K")):
        write_gguf(tmp_path / file, tensors, lambda name: kind.get(name, "F16"))
        note = describe_weights(tmp_path / file).note
        assert note == f"{shown}: other pictures are to be expected than those of the original"


def test_the_format_of_eight_bit_files(files: Path) -> None:
    """Only one tower is in int8, so most numbers may have another format."""
    facts = describe_weights(files / "int8.safetensors")
    assert (facts.kind, facts.formats) == ("int8", "int8 and float32")


def test_decoded_eight_bits_get_a_note(files: Path, tiny_checkpoint: Path) -> None:
    for quantization, notes in (("off", ["`quantization=int8` keeps them"]), ("int8", [])):
        engine = load(tiny_checkpoint, weights=str(files / "int8.safetensors"), quantization=quantization)
        said = [event.text for event in engine.run(REQUEST) if isinstance(event, Notice)]
        engine.close()
        assert [text for text in said if "stored in eight bits" in text and text.endswith("keeps them")] == [
            f"the weights are stored in eight bits, and are decoded: {note}" for note in notes
        ]


def test_a_model_is_needed(files: Path) -> None:
    from config.settings import LoadSettings, require_compatible

    with pytest.raises(SettingsError, match="belongs to a model, and no model is named"):
        require_compatible(LoadSettings(weights="a.gguf"))
    require_compatible(LoadSettings(weights="off"))


def test_weights_of_another_model(files: Path, parity_checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match=r"q8\.gguf: the weights do not fit config\.json"):
        load(parity_checkpoint("u15"), weights=str(files / "q8.gguf"))


def test_names_that_are_not_files(files: Path) -> None:
    for name, hint in (
        (str(files), "`model`"),
        (str(files / "q9.gguf"), "q8.gguf"),
        ("x.gguf", "owner/name/file.gguf"),
    ):
        with pytest.raises(CheckpointError) as raised:
            find_weights_file(name)
        assert hint in f"{raised.value.what} {raised.value.hint}"
