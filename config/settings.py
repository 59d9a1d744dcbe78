"""Every setting once: its type, bounds, default and help text.

The command-line flags, the environment variables, TOML profiles, a checkpoint's recommended settings and the
library's requests all take their names, defaults and checks from here.
"""

import re
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from config.errors import SettingsError
from config.sizes import MAX_PIXELS, format_size, parse_aspect, parse_size
from config.step_cache import PRESETS, CacheOptions, CachePreset
from config.units import parse_memory

MAX_SEED = 2**63 - 1
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Quantization = Literal["off", "fp8", "fp8-all"]
PreviewChoice = Literal["auto", "kitty", "iterm2", "sixel", "blocks", "off"]


@dataclass(frozen=True)
class Scope:
    """Marks where a setting counts. It stands beside the type: `Annotated[str, Scope(recorded=True)]`.

    Attributes:
        recorded: a picture's record holds it. Picture settings are recorded as a whole and need no mark.
        session: `/set` can change it for the following turns of a session. Where False, another command does.
    """

    recorded: bool = False
    session: bool = True


class SettingsGroup(BaseModel):
    """Base of all groups: frozen, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        defer_build=True,  # validators are built when they are first used, which for `--help` is never
    )

    @classmethod
    def part_of(cls, settings: "SettingsGroup") -> Self:
        """This group's settings out of a larger group."""
        return cls.model_construct(**{name: getattr(settings, name) for name in cls.model_fields})


class SeedSettings(SettingsGroup):
    seed: Seed = 42
    """Random seed. Picture k of several uses seed + k."""


class ImageSettings(SeedSettings):
    """How a picture is generated or edited."""

    size: Annotated[str, Field(examples=["2048x2048", "16:9", "auto"])] = "auto"
    """Picture size: WxH in pixels (multiples of 32), an aspect like 16:9 (its trained size, if near), or auto."""
    num_images: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many pictures to make, with seeds seed, seed + 1, …"""
    num_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Denoising steps."""
    cfg_scale: Annotated[float, Field(ge=0, le=100)] = 4.0
    """How strongly the picture follows the text; 1 turns text guidance off."""
    img_cfg_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Edits only: how strongly the result follows the input pictures; 1 turns image guidance off."""
    cfg_norm: Literal["none", "global", "channel", "cfg_zero_star"] = "none"
    """Keep guidance from over-driving the picture; cfg_zero_star is for generating only."""
    cfg_interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Part of the denoising time (0 noise … 1 picture, both ends included) in which guidance is applied."""
    timestep_shift: Annotated[float, Field(ge=0.01, le=100)] = 3.0
    """Above 1, spend more of the steps where there is much noise."""
    t_eps: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Smallest 1 - t that a velocity is divided by."""
    think: bool = False
    """Let the model write down its plan before it draws."""
    max_think_tokens: Annotated[int, Field(ge=1, le=32768)] = 1024
    """Most tokens of think text."""
    input_pixels: Literal["auto", "native"] | Annotated[int, Field(ge=32 * 32, le=MAX_PIXELS)] = "auto"
    """Edits only: resize pictures to the output's number of pixels (auto), to N, or leave them (native)."""
    noise: Literal["device", "cpu"] = "device"
    """Draw the starting noise on the device (published seeds), or on the CPU (the same on every device)."""
    cache: CachePreset = "off"
    """Skip layers where denoising steps change little: not at all (off), or by a preset (needs cache-dit)."""
    cache_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """With cache, instead of the preset's: how much the first layers may change in a step that is reused."""
    cache_warmup_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """With cache, instead of the preset's: steps at the start of each guidance branch that are computed in full."""
    cache_longest_run: Annotated[int, Field(ge=1, le=1000)] | None = None
    """With cache, instead of the preset's: most steps in a row that are reused."""
    cache_first_layers: Annotated[int, Field(ge=1, le=1000)] | None = None
    """With cache, instead of the preset's: layers that every step computes, from the first one on."""
    cache_last_layers: Annotated[int, Field(ge=0, le=1000)] | None = None
    """With cache, instead of the preset's: layers that every step computes, up to the last one."""
    cache_taylor_order: Annotated[int, Field(ge=0, le=4)] | None = None
    """With cache, instead of the preset's: order of the TaylorSeer series for skipped layers; 0 repeats them."""

    @property
    def cache_options(self) -> CacheOptions | None:
        """The preset with what is set beside it; None where nothing is reused."""
        if self.cache == "off":
            return None
        own = {field.name: getattr(self, f"cache_{field.name}") for field in fields(CacheOptions)}
        return replace(PRESETS[self.cache], **{name: value for name, value in own.items() if value is not None})

    @field_validator("size")
    @classmethod
    def _canonical_size(cls, text: str) -> str:
        """Bad sizes raise SettingsError, whose message already says what to type instead."""
        text = text.strip().lower()
        size = parse_size(text)
        if size is not None:
            return format_size(size)
        if text != "auto" and parse_aspect(text) is None:
            raise SettingsError(f"size {text!r} is not understood", "write it like 2048x2048, 16:9 or auto")
        return text

    @field_validator("cfg_interval", mode="before")
    @classmethod
    def _two_numbers(cls, value: Any) -> Any:
        """TOML and JSON have lists only; the environment and `/set` have text: `0.1,0.6` or `0.1 0.6`."""
        if isinstance(value, str):
            value = re.split(r"[\s,]+", value.strip())
        return tuple(value) if isinstance(value, list) else value

    @field_validator("cfg_interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if interval[0] > interval[1]:
            raise ValueError(f"the low end {interval[0]:g} lies above the high end {interval[1]:g}")
        return interval


class TextSettings(SeedSettings):
    """How an answer is written."""

    max_tokens: Annotated[int, Field(ge=1, le=32768)] = 512
    """Most tokens of an answer."""
    do_sample: bool = False
    """Draw tokens at random instead of always taking the most likely one."""
    temperature: Annotated[float, Field(ge=0.01, le=10)] = 0.7
    """With do_sample: above 1 more surprising, below 1 more predictable."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With do_sample: draw from the smallest set of tokens whose probabilities sum to this."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """With do_sample: draw from the k most likely tokens; 0 takes all."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Above 1, tokens that the answer already holds become less likely."""


class LoadSettings(SettingsGroup):
    """Settings that take effect when a model is loaded: which one, where, and in which number formats.

    A change of one of these needs the model to be loaded again; all other settings take effect with the next request.
    """

    model: Annotated[str | None, Scope(recorded=True, session=False)] = None
    """Checkpoint folder, or Hugging Face Hub id such as SenseNova/SenseNova-U1-8B-MoT; else the built-in demo."""
    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", examples=["auto", "cpu", "cuda", "cuda:1", "mps"]),
    ] = "auto"
    """Where to run: auto, cpu, cuda, cuda:1 or mps."""
    dtype: Annotated[Literal["bfloat16", "float16", "float32"], Scope(recorded=True)] = "bfloat16"
    """Number format of the weights and the arithmetic."""
    check_weights: bool = False
    """Look at every number while loading and refuse a checkpoint that holds NaN or infinity."""
    quantization: Annotated[Quantization, Scope(recorded=True)] = "off"
    """Eight-bit weights: of what draws (fp8), or of what reads and writes too (fp8-all); experts stay as they are."""
    lora: Annotated[str | None, Scope(recorded=True, session=False)] = None
    """LoRA file, folder or Hub id, perhaps with :STRENGTH; several with commas between; off for none."""
    enforce_eager: Annotated[bool, Scope(recorded=True)] = False
    """Compile nothing and capture no CUDA graphs: slower, but ready at once."""
    offload: Literal["auto", "off", "module", "layers"] = "auto"
    """What stays on the device: all (off), the towers in turn (module), layers that fit (layers); auto: the fastest."""
    gpu_memory: Annotated[str | None, Field(examples=["8GiB", "7.5GB"])] = None
    """Most memory of the device to use, like 8GiB; all: what is free."""
    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that share each network, every one of them holding a part of its weights."""
    cfg_parallel_size: Annotated[int, Field(ge=1, le=3)] = 1
    """Networks that compute guidance branches of their own: as many GPUs as the product of both."""
    gpus: Literal["all"] | Annotated[int, Field(ge=0, le=64)] = 0
    """Instead of these two: GPUs to use, shared in the way that is fastest for what is asked; 0 leaves it to them."""

    @field_validator("model", "lora")
    @classmethod
    def _some_name(cls, name: str | None) -> str | None:
        """An empty path would mean the current folder."""
        if name is not None and not name.strip():
            raise ValueError("must not be empty")
        return name

    @property
    def gpu_memory_bytes(self) -> int | None:
        """`gpu_memory` as a number; None for all that is free."""
        return None if self.gpu_memory is None else parse_memory(self.gpu_memory)

    @field_validator("gpu_memory")
    @classmethod
    def _some_memory(cls, amount: str | None) -> str | None:
        if amount not in (None, "all") and parse_memory(amount) is None:
            raise SettingsError(f"gpu_memory {amount!r} is not understood", "write it like 8GiB or 7.5GB; or all")
        return amount


class OutputSettings(SettingsGroup):
    """What is written, and what is shown."""

    output: Annotated[str | None, Scope(session=False)] = None
    """Picture file, perhaps with {slug} {seed} {index} {count} {width} {height}; FOLDER/; or - for PNG on stdout."""
    metadata: bool = True
    """Write the settings that made a picture into its PNG file."""
    print_think: bool = False
    """Print think text on stdout."""
    hide_think: bool = False
    """Do not show think text while it is written."""
    enable_cache_dit_summary: bool = False
    """Tell what was reused between denoising steps, after each picture."""
    preview: PreviewChoice = "auto"
    """How pictures are shown in a terminal: by what it can do (auto), by one protocol or half blocks, or not."""

    @field_validator("output")
    @classmethod
    def _some_output(cls, output: str | None) -> str | None:
        if output is not None and not output.strip():
            raise ValueError("must not be empty")
        return output


class Settings(ImageSettings, TextSettings, LoadSettings, OutputSettings):
    """All settings of one turn, merged from their layers (see config.sources)."""


GROUPS: tuple[tuple[str, type[SettingsGroup]], ...] = (
    ("Pictures", ImageSettings),
    ("Text answers", TextSettings),
    ("Model and device", LoadSettings),
    ("Files and output", OutputSettings),
)
"""The groups with their titles, in the order in which settings are listed; `seed` is in two of them."""

SETTING_NAMES: tuple[str, ...] = tuple(dict.fromkeys(name for _, group in GROUPS for name in group.model_fields))
"""Every setting's name, in the order of GROUPS."""


def scope_of(name: str) -> Scope:
    """The `Scope` of a setting's declaration."""
    marks = Settings.model_fields[name].metadata
    return next((mark for mark in marks if isinstance(mark, Scope)), Scope())


RECORDED_LOAD_SETTINGS: tuple[str, ...] = tuple(name for name in LoadSettings.model_fields if scope_of(name).recorded)
"""Load settings that a picture's record holds, in the order of their declaration."""

SESSION_SETTINGS: tuple[str, ...] = tuple(name for name in SETTING_NAMES if scope_of(name).session)
"""Settings that `/set` can change in a session."""


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
