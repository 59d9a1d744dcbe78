"""Rules between settings, checked before anything heavy is imported, for the program and the library."""

from config.errors import SettingsError
from config.settings import LoadSettings


def require_compatible(load: LoadSettings, cache: str = "off") -> None:
    """Refuse load settings that contradict each other.

    Args:
        cache: the picture setting of that name; the step cache excludes several GPUs.

    Raises:
        SettingsError: names the settings and what to change. With `gpus = "all"` the number of GPUs is not known here:
            `model.loading` calls this again with the number.
    """
    size = load.tensor_parallel_size * load.cfg_parallel_size
    asked = f"tensor_parallel_size {load.tensor_parallel_size}, cfg_parallel_size {load.cfg_parallel_size}"
    if load.gpus != 0:
        if size > 1:
            raise SettingsError(
                f"gpus {load.gpus} chooses the sizes itself, and {asked} are given",
                "leave `gpus` out, or the other two; `gpus=0` takes back what a profile says",
            )
        asked = f"gpus {load.gpus}"
        if load.gpus == "all" and ":" in load.device:
            raise SettingsError(
                f"{asked}: `device` {load.device} is one GPU",
                "use `device=cuda`; CUDA_VISIBLE_DEVICES says which there are",
            )
        size = 1 if load.gpus == "all" else load.gpus
    if size == 1:
        return
    if load.device == "mps":
        take_back = "leave it out" if load.gpus else "set both to 1"
        raise SettingsError(f"{asked}: Apple's GPU is one", f"{take_back}, or use `device=cpu`")
    if ":" in load.device:
        raise SettingsError(
            f"{asked}: `device` {load.device} is one GPU, and {size} are asked for",
            "use `device=cuda`; CUDA_VISIBLE_DEVICES says which GPUs there are",
        )
    if load.offload not in ("auto", "off"):
        raise SettingsError(
            f"{asked}: with several GPUs all weights stay on them; `offload` {load.offload} is for one",
            "leave one of them out, or use `offload=off`",
        )
    if cache != "off":
        raise SettingsError(
            f"{asked}: `cache` {cache} is for one GPU: each would decide for itself which layers to skip",
            "leave one of them out; `cache=off` takes back what a profile says",
        )
    if load.gpu_memory_bytes is not None:
        raise SettingsError(
            f"{asked}: `gpu_memory` is for one GPU",
            "leave one of them out; `gpu_memory=all` takes back what a profile says",
        )
