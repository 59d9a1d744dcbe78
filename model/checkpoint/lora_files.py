"""LoRA files: find them, and read the settings that their metadata recommend, without PyTorch."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from config.recommended import Recommended
from model.checkpoint.download import download_file
from model.checkpoint.hub import is_hub_id
from model.checkpoint.lora_scaling import ADAPTER_CONFIG
from model.checkpoint.named_lora import NamedLora
from model.checkpoint.safetensors_header import read_header
from model.checkpoint.weights_file import local_weights_file
from model.errors import CheckpointError


def find_lora(name: str) -> Path:
    """Return the file of a LoRA. Download one from the Hub if it is not in the Hub cache.

    Args:
        name: a file, a folder with one safetensors file, a Hub id `owner/name` or `owner/name@revision` of such a
            folder, or one of its files: `owner/name/FILE.safetensors`.

    Raises:
        CheckpointError: there is no such file, or several files match.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return path / _only_one([file.name for file in path.glob("*.safetensors")], name)
    if is_hub_id(name) and path.suffix != ".safetensors":
        return _download_lora(name)
    owner, _, file = name.rpartition("/")
    if is_hub_id(owner) and path.suffix == ".safetensors" and not name.startswith((".", "~")):
        return local_weights_file(name) or download_file(owner, lambda names: file)
    raise CheckpointError(f"there is no LoRA file {name}", "name a .safetensors file, or a Hub id like owner/name")


def _download_lora(name: str) -> Path:
    """Download a LoRA, and PEFT's description of it if there is one."""
    with_description = False

    def choose(names: Sequence[str]) -> str:
        nonlocal with_description
        with_description = ADAPTER_CONFIG in names
        return _only_one(names, name)

    file = download_file(name, choose)
    if with_description:
        download_file(name, lambda names: ADAPTER_CONFIG)
    return file


def _only_one(names: Sequence[str], where: str) -> str:
    files = sorted(name for name in names if name.endswith(".safetensors"))
    if len(files) != 1:
        listed = ", ".join(files) or "none"
        raise CheckpointError(f"{where} has {len(files)} safetensors files ({listed})", "name the file of the LoRA")
    return files[0]


def recommended_with_loras(recommended: Recommended, loras: Sequence[NamedLora]) -> Recommended:
    """Return a checkpoint's recommendations, overridden by those of LoRAs; errors as for `find_lora`."""
    return override_settings(recommended, [read_lora_settings(find_lora(lora.name)) for lora in loras])


def override_settings(recommended: Recommended, others: Sequence[Mapping[str, Any]]) -> Recommended:
    """Return recommendations with other settings above them. Later ones win."""
    return recommended.overridden_by({name: value for settings in others for name, value in settings.items()})


def read_lora_settings(file: Path) -> dict[str, Any]:
    """Read the settings that a LoRA's metadata recommend."""
    with opened_lora(file, "np") as stored:
        return recommended_settings(stored.metadata() or {}, file)


@contextmanager
def opened_lora(file: Path, framework: Literal["np", "pt"]) -> Iterator[Any]:
    """Open a LoRA file, with tensors of NumPy or of PyTorch.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with safe_open(file, framework=framework) as stored:
            yield stored
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{file} cannot be read as a LoRA: {reason}", "check its permissions") from error
    except SafetensorError as error:
        read_header(file)  # says more clearly what is wrong, if it is the header
        raise CheckpointError(f"{file} is damaged, and cannot be read as a LoRA", "fetch the file again") from error


def recommended_settings(metadata: Mapping[str, str], file: Path) -> dict[str, Any]:
    """Return recommended settings from a file's metadata: keys of diffusers, or JSON with our settings."""
    found: dict[str, Any] = {}
    readers: dict[str, tuple[str, Callable[[str], Any]]] = {
        "num_inference_steps": ("num_steps", int),
        "guidance_scale": ("cfg_scale", float),
    }
    try:
        for key, (setting, read) in readers.items():
            if key in metadata:
                found[setting] = read(metadata[key])
        if "recommended_settings" in metadata:
            found.update(json.loads(metadata["recommended_settings"]))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{file}: its metadata are damaged: {error}", "fetch the file again") from error
    return found
