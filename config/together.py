"""Settings that exclude each other: found out before anything heavy is imported, for the program and the library."""

from typing import Literal

from config.errors import SettingsError


def require_compatible(
    *,
    device: str,
    offload: str,
    gpu_memory: object,
    tensor_parallel_size: int,
    cfg_parallel_size: int,
    gpus: int | Literal["all"] = 0,
    cache: str = "off",
) -> None:
    """Raise SettingsError where settings of how the model runs contradict each other.

    The arguments are those of `config.schema.EngineSettings`. How many `all` GPUs are is not known here: what does not
    go together with several is found out where they are counted.
    """
    if gpus != "all" and (isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 0):
        raise SettingsError(f"gpus {gpus!r}: must be all or a whole number from 0 on", "leave it out, which is 0")
    size = tensor_parallel_size * cfg_parallel_size
    asked = f"tensor_parallel_size {tensor_parallel_size}, cfg_parallel_size {cfg_parallel_size}"
    if gpus != 0:
        if size > 1:
            raise SettingsError(
                f"gpus {gpus} chooses the sizes itself, and {asked} are given",
                "leave `gpus` out, or the other two; `gpus=0` takes back what a profile says",
            )
        asked = f"gpus {gpus}"
        if gpus == "all" and ":" in device:
            raise SettingsError(
                f"{asked}: `device` {device} is one GPU", "use `device=cuda`; CUDA_VISIBLE_DEVICES says which there are"
            )
        size = 1 if gpus == "all" else gpus
    if size == 1:
        return
    if device == "mps":
        take_back = "leave it out" if gpus else "set both to 1"
        raise SettingsError(f"{asked}: Apple's GPU is one", f"{take_back}, or use `device=cpu`")
    if ":" in device:
        raise SettingsError(
            f"{asked}: `device` {device} is one GPU, and {size} are asked for",
            "use `device=cuda`; CUDA_VISIBLE_DEVICES says which GPUs there are",
        )
    if offload not in ("auto", "off"):
        raise SettingsError(
            f"{asked}: with several GPUs all weights stay on them; `offload` {offload} is for one",
            "leave one of them out, or use `offload=off`",
        )
    if cache != "off":
        raise SettingsError(
            f"{asked}: `cache` {cache} is for one GPU: each would decide for itself which layers to skip",
            "leave one of them out; `cache=off` takes back what a profile says",
        )
    if gpu_memory is not None:
        raise SettingsError(
            f"{asked}: `gpu_memory` is for one GPU",
            "leave one of them out; `gpu_memory=all` takes back what a profile says",
        )
