"""Settings that exclude each other: found out before anything heavy is imported, for the program and the library."""

from config.errors import SettingsError


def require_compatible(
    *,
    device: str,
    offload: str,
    gpu_memory: object,
    tensor_parallel_size: int,
    cfg_parallel_size: int,
    cache: str = "off",
) -> None:
    """Raise SettingsError where settings of how the model runs contradict each other.

    The arguments are those of `config.schema.EngineSettings`.
    """
    size = tensor_parallel_size * cfg_parallel_size
    if size == 1:
        return
    asked = f"tensor_parallel_size {tensor_parallel_size}, cfg_parallel_size {cfg_parallel_size}"
    if device == "mps":
        raise SettingsError(f"{asked}: Apple's GPU is one", "set both to 1, or use --device cpu")
    if ":" in device:
        raise SettingsError(
            f"{asked}: --device {device} is one GPU, and {size} are asked for",
            "use --device cuda; CUDA_VISIBLE_DEVICES says which GPUs there are",
        )
    if offload not in ("auto", "off"):
        raise SettingsError(
            f"{asked}: with several GPUs all weights stay on them; --offload {offload} is for one",
            "leave one of them out, or use --offload off",
        )
    if cache != "off":
        raise SettingsError(
            f"{asked}: --cache {cache} is for one GPU: each would decide for itself which layers to skip",
            "leave one of them out; --cache off takes back what a profile says",
        )
    if gpu_memory is not None:
        raise SettingsError(
            f"{asked}: --gpu-memory is for one GPU",
            "leave it out; SENSENOVA_GPU_MEMORY= clears the variable",
        )
