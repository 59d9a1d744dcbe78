"""Settings: the type, bounds, default and help text of each, declared once.

Command-line flags, environment variables, TOML files, recommended settings of checkpoints and the library's requests
take their names, defaults and checks from these declarations.
"""

import re
import unicodedata
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from config.errors import SettingsError
from config.model_names import full_name
from config.sizes import MAX_PIXELS, format_size, parse_aspect, parse_size
from config.step_cache import PRESETS, CacheOptions, CachePreset
from config.units import parse_memory

MAX_SEED = 2**63 - 1
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Quantization = Literal["off", "fp8", "fp8-all", "int8", "int8-all"]
PreviewChoice = Literal["auto", "kitty", "iterm2", "sixel", "blocks", "off"]
PictureFormat = Literal["png", "jpeg", "webp"]
NotifyChoice = Literal["off", "bell", "desktop"]


@dataclass(frozen=True)
class Scope:
    """Annotation of a setting's use, beside its type: `Annotated[str, Scope(recorded=True)]`.

    Attributes:
        recorded: pictures' records contain the setting. All picture settings are recorded and need no annotation.
        session: `/set` can change the setting for the following turns of a session. If False, another command can.
    """

    recorded: bool = False
    session: bool = True


class SettingsGroup(BaseModel):
    """Base class of all groups. They are frozen and refuse unknown keys, NaN and infinity."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        defer_build=True,  # validators are built on first use, so `--help` never builds them
    )

    @classmethod
    def part_of(cls, settings: "SettingsGroup") -> Self:
        """Return this group's settings from a larger group."""
        return cls.model_construct(**{name: getattr(settings, name) for name in cls.model_fields})

    @classmethod
    def changed_in(cls, settings: "SettingsGroup") -> dict[str, Any]:
        """Return this group's settings of a larger group that differ from their defaults, by name, as JSON values."""
        values = {name: getattr(settings, name) for name in cls.model_fields}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != cls.model_fields[name].default
        }


class SeedSettings(SettingsGroup):
    """The setting that picture and text settings share."""

    seed: Seed = 42
    """Random seed. Picture k (from 0) of several uses seed + k."""


class ImageSettings(SeedSettings):
    """Settings of generating and editing pictures."""

    size: Annotated[str, Field(examples=["2048x2048", "16:9", "auto"])] = "auto"
    """WxH in pixels (multiples of 32), an aspect ratio like 16:9, or auto (default size; edits: the input's ratio)."""
    num_images: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of pictures, with seeds seed, seed + 1, …"""
    num_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Number of denoising steps."""
    cfg_scale: Annotated[float, Field(ge=0, le=100)] = 4.0
    """Guidance scale: how strongly the picture follows the prompt; 1 turns guidance off."""
    img_cfg_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Edits and interleaved answers: how strongly a picture follows those before it; 1 turns image guidance off."""
    negative: Annotated[str, Field(examples=["blurry, watermark"])] = ""
    """What the picture should not show; needs guidance, and for edits and interleaved answers img_cfg_scale above 1."""
    cfg_norm: Literal["none", "global", "channel", "cfg_zero_star"] = "none"
    """Normalization of guidance, against oversaturated pictures; cfg_zero_star does not work for edits."""
    cfg_interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Interval of denoising time in which guidance is applied, ends included; 0 is noise, 1 is the picture."""
    cfg_every: Annotated[int, Field(ge=1, le=1000)] = 1
    """After four guided steps, compute all branches in every Nth one only; the others reuse their last difference."""
    cfg_stop: Fraction = 0.0
    """End guidance when its branches differ by less than this fraction; 0 guides until the end."""
    half_size_until: Fraction = 0.0
    """Draft the picture at half its size until this denoising time, then continue at full size; 0 turns it off."""
    timestep_shift: Annotated[float, Field(ge=0.01, le=100)] = 3.0
    """Shift of the noise schedule: above 1, more steps are spent at high noise."""
    t_eps: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Lower bound of 1 - t, the divisor in the velocity."""
    think: bool = False
    """Let the model write a plan before it draws."""
    max_think_tokens: Annotated[int, Field(ge=1, le=32768)] = 1024
    """Maximum number of think tokens."""
    input_pixels: Literal["auto", "native"] | Annotated[int, Field(ge=32 * 32, le=MAX_PIXELS)] = "auto"
    """Edits only: resize input pictures to the output's number of pixels (auto), to N pixels, or not (native)."""
    noise: Literal["device", "cpu"] = "device"
    """Where the starting noise is generated: device (published seeds) or cpu (the same on every device)."""
    cache: CachePreset = "off"
    """Step cache: skip layers in denoising steps that change little, by a preset (needs cache-dit)."""
    cache_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """Overrides the cache preset: skip layers if the first layers' output changes by less than this fraction."""
    cache_warmup_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Overrides the cache preset: number of first steps of each guidance branch that compute all layers."""
    cache_longest_run: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Overrides the cache preset: maximum number of consecutive steps that skip layers."""
    cache_first_layers: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Overrides the cache preset: number of first layers that every step computes."""
    cache_last_layers: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Overrides the cache preset: number of last layers that every step computes."""
    cache_taylor_order: Annotated[int, Field(ge=0, le=4)] | None = None
    """Overrides the cache preset: order of the Taylor series for skipped layers; 0 repeats their last output."""

    @property
    def cache_options(self) -> CacheOptions | None:
        """Options of the step cache: the preset with the settings that override it; None if the cache is off."""
        if self.cache == "off":
            return None
        overrides = {field.name: getattr(self, f"cache_{field.name}") for field in fields(CacheOptions)}
        return replace(PRESETS[self.cache], **{name: value for name, value in overrides.items() if value is not None})

    @field_validator("size")
    @classmethod
    def _canonical_size(cls, text: str) -> str:
        """Normalize a size. Errors are SettingsErrors, whose messages already suggest what to type."""
        text = text.strip().lower()
        size = parse_size(text)
        if size is not None:
            return format_size(size)
        if text != "auto" and parse_aspect(text) is None:
            raise SettingsError(f"size {text!r} is not understood", "write it like 2048x2048, 16:9 or auto")
        return text

    @field_validator("negative")
    @classmethod
    def _visible(cls, words: str) -> str:
        """Return the words, or no words if the text has only spaces and invisible characters."""
        return words if any(unicodedata.category(letter)[0] not in "CZ" for letter in words) else ""

    @field_validator("cfg_interval", mode="before")
    @classmethod
    def _two_numbers(cls, value: Any) -> Any:
        """Accept lists, as TOML and JSON write them, and text like `0.1,0.6` or `0.1 0.6`."""
        if isinstance(value, str):
            value = re.split(r"[\s,]+", value.strip())
        return tuple(value) if isinstance(value, list) else value

    @field_validator("cfg_interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if interval[0] > interval[1]:
            raise ValueError(f"the low end {interval[0]:g} is above the high end {interval[1]:g}")
        return interval


class TextSettings(SeedSettings):
    """Settings of generating text."""

    max_tokens: Annotated[int, Field(ge=1, le=32768)] = 512
    """Maximum number of tokens of an answer."""
    do_sample: bool = False
    """Sample tokens at random instead of taking the most likely one."""
    temperature: Annotated[float, Field(ge=0.01, le=10)] = 0.7
    """With do_sample: sampling temperature; higher is more varied, lower is more predictable."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With do_sample: sample from the smallest set of tokens whose probabilities sum to this."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """With do_sample: sample from the k most likely tokens; 0 for all tokens."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Above 1, tokens that the answer already contains become less likely."""
    max_images: Annotated[int, Field(ge=1, le=1000)] = 10
    """Interleaved answers only: maximum number of pictures of an answer."""


class PromptSettings(SettingsGroup):
    """Settings of rewriting prompts before pictures are drawn."""

    enhance: bool = False
    """Rewrite the prompt in more detail before drawing: by the model's own chat, or by the model of enhance_with."""
    enhance_with: Annotated[str | None, Field(examples=["http://localhost:11434/v1"])] = None
    """OpenAI-compatible endpoint that rewrites prompts, by its address; off for the model's own chat."""
    enhance_model: str | None = None
    """Name of the endpoint's model that rewrites prompts; not needed if the endpoint has only one."""

    @field_validator("enhance_with")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        if url not in (None, "off") and not re.fullmatch(r"https?://[^\s?#@]+", str(url)):
            raise ValueError("must be an http or https address without name, password and query, or off")
        return url

    @field_validator("enhance_model")
    @classmethod
    def _some_model(cls, name: str | None) -> str | None:
        if name is not None and not name.strip():
            raise ValueError("must not be empty")
        return name

    @property
    def endpoint(self) -> str | None:
        """`enhance_with`; None for the model's own chat."""
        return None if self.enhance_with == "off" else self.enhance_with


class LoadSettings(SettingsGroup):
    """Settings of loading a model.

    To change one of them, the model must be loaded again. All other settings take effect with the next request.
    """

    model: Annotated[str | None, Scope(recorded=True, session=False)] = None
    """Checkpoint folder, Hub id such as SenseNova/SenseNova-U1-8B-MoT, or u1-8b, u1.5-8b, a3b; else the demo."""
    weights: Annotated[str | None, Scope(recorded=True, session=False), Field(examples=["u1-8b-Q8_0.gguf"])] = None
    """GGUF or safetensors file with other weights for the model, or owner/name/FILE on the Hub; off for its own."""
    yes: Annotated[bool, Scope(session=False)] = False
    """Download a model of gigabytes without asking."""
    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", examples=["auto", "cpu", "cuda", "cuda:1", "mps"]),
    ] = "auto"
    """Device to run on: auto, cpu, cuda, cuda:1 or mps."""
    dtype: Annotated[Literal["auto", "bfloat16", "float16", "float32"], Scope(recorded=True)] = "auto"
    """Number format of weights and arithmetic; auto: float32 on CPUs that are slow in bfloat16, else bfloat16."""
    check_weights: bool = False
    """Check all weights while loading, and refuse a checkpoint with NaN or infinity."""
    quantization: Annotated[Quantization, Scope(recorded=True)] = "off"
    """8-bit weights for image generation (int8 or fp8), or for text as well (-all)."""
    lora: Annotated[str | None, Scope(recorded=True, session=False)] = None
    """LoRA file, folder or Hub id, optionally with :STRENGTH; separate several by commas; off for none."""
    enforce_eager: Annotated[bool, Scope(recorded=True)] = False
    """Disable compilation and CUDA graphs: slower, but ready at once."""
    offload: Literal["auto", "off", "module", "layers"] = "auto"
    """Weights kept on the device: all (off), one tower at a time (module), some layers (layers); auto: the fastest."""
    gpu_memory: Annotated[str | None, Field(examples=["8GiB", "7.5GB"])] = None
    """Maximum device memory to use, like 8GiB; all for everything that is free."""
    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of GPUs that share one copy of the model; each holds a part of the weights."""
    cfg_parallel_size: Annotated[int, Field(ge=1, le=3)] = 1
    """Number of model copies for different guidance branches; each needs tensor_parallel_size GPUs."""
    gpus: Literal["all"] | Annotated[int, Field(ge=0, le=64)] = 0
    """Number of GPUs, or all: chooses both parallel sizes for the fastest result; 0 keeps the sizes as set."""
    server: Annotated[
        str | None,
        Field(pattern=r"^(off|local|(https?://)?[^\s/?#@]+(/[^\s?#]*)?)$", examples=["http://gpu-box:8642", "local"]),
    ] = None
    """Server with a loaded model, by address; local for one on this machine; off to load the model here."""
    server_key_file: str | None = None
    """File with the key of the server. The variable SENSENOVA_SERVER_KEY can hold the key instead."""

    @field_validator("model", "weights", "lora")
    @classmethod
    def _some_name(cls, name: str | None) -> str | None:
        """Refuse an empty name, which as a path would mean the current folder."""
        if name is not None and not name.strip():
            raise ValueError("must not be empty")
        return name

    @field_validator("model", "weights")
    @classmethod
    def _hub_id(cls, name: str | None) -> str | None:
        """Replace a short name such as `u1-8b`, or an alias, so that records name the model in full."""
        return None if name is None else full_name(name)

    @property
    def weights_file(self) -> str | None:
        """`weights`; None for the model's own weights."""
        return None if self.weights == "off" else self.weights

    @property
    def is_remote(self) -> bool:
        """Whether the model is on a server, which has its own load settings."""
        return self.server not in (None, "off")

    @property
    def gpu_memory_bytes(self) -> int | None:
        """`gpu_memory` in bytes; None for all free memory."""
        return None if self.gpu_memory is None else parse_memory(self.gpu_memory)

    @field_validator("gpu_memory")
    @classmethod
    def _some_memory(cls, amount: str | None) -> str | None:
        if amount not in (None, "all") and parse_memory(amount) is None:
            raise SettingsError(f"`gpu_memory` {amount!r} is not understood", "write it like 8GiB or 7.5GB; or all")
        return amount


class OutputSettings(SettingsGroup):
    """Settings of files and of the terminal."""

    output: Annotated[str | None, Scope(session=False)] = None
    """Picture file, may contain {slug} {seed} {index} {count} {width} {height}; or FOLDER/; or - for stdout."""
    format: PictureFormat = "png"
    """Format of pictures whose names have no ending: in folders, on stdout, and by default."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """Quality of JPEG and WebP files; 100 makes WebP files lossless."""
    metadata: bool = True
    """Write the settings that made a picture into its file."""
    print_think: bool = False
    """Print think text on stdout."""
    hide_think: bool = False
    """Hide think text while it is generated."""
    enable_cache_dit_summary: bool = False
    """Report which steps and layers the step cache skipped, after each picture."""
    log: bool = True
    """Write the request and the paths of its results into the log (sensenova log)."""
    preview: PreviewChoice = "auto"
    """Pictures in the terminal: its best protocol (auto), a given protocol, half blocks (blocks), or none (off)."""
    notify: NotifyChoice = "off"
    """After a run of 30 seconds or more: ring the terminal's bell, or show a notification on the desktop."""

    @field_validator("format", mode="before")
    @classmethod
    def _usual_name(cls, form: object) -> object:
        return "jpeg" if form == "jpg" else form

    @field_validator("output")
    @classmethod
    def _some_output(cls, output: str | None) -> str | None:
        if output is not None and not output.strip():
            raise ValueError("must not be empty")
        return output


class ServeSettings(SettingsGroup):
    """Settings of `sensenova serve`. In TOML files they are in the table `[serve]`, and they have their own flags."""

    host: Annotated[str, Field(min_length=1, examples=["127.0.0.1", "0.0.0.0"])] = "127.0.0.1"
    """Address to listen on. With 127.0.0.1 only this machine can connect; with another address clients need a key."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8642
    """Port to listen on; 0 for any free one."""
    api_key_file: str | None = None
    """File with the key that clients must send. The variable SENSENOVA_SERVE_API_KEY can hold the key instead."""
    key: bool = True
    """Require a key if other machines can connect."""
    served_name: Annotated[str | None, Field(examples=["u1"])] = None
    """Name of the model for clients; the default is the last part of its folder or Hub id."""
    loras: Annotated[str | None, Field(examples=["pixel=./pixel.safetensors:0.8"])] = None
    """LoRAs that clients may choose, as comma-separated NAME=FILE[:STRENGTH]."""
    max_queue: Annotated[int, Field(ge=0, le=10_000)] = 16
    """Maximum number of waiting requests; further ones get the answer 503."""
    max_images: Annotated[int, Field(ge=1, le=1000)] = 10
    """Maximum number of pictures of a request."""
    max_pixels: Annotated[int, Field(ge=32 * 32, le=MAX_PIXELS)] = 4096 * 4096
    """Maximum number of pixels of a picture."""
    max_steps: Annotated[int, Field(ge=1, le=1000)] = 200
    """Maximum number of denoising steps of a picture."""
    max_new_tokens: Annotated[int, Field(ge=1, le=32768)] = 8192
    """Maximum number of tokens of an answer or a think text."""
    keep_memory: Annotated[str, Field(examples=["512MiB", "2GiB"])] = "512MiB"
    """Memory for uploaded pictures, and the same amount for results, which can be fetched for ten minutes."""
    allow_host: Annotated[str | None, Field(examples=["pictures.example.org"])] = None
    """Comma-separated host names under which clients reach the server; addresses and localhost always work."""
    cors_origin: Annotated[str | None, Field(examples=["https://app.example.org"])] = None
    """Comma-separated origins whose web pages may use the server."""
    ui: bool = True
    """Serve the web page."""
    warmup: bool = True
    """Warm up at the start with a small picture and a short answer, which compile the kernels."""

    @field_validator("keep_memory")
    @classmethod
    def _some_memory(cls, amount: str) -> str:
        if parse_memory(amount) is None:
            raise SettingsError(f"`keep_memory` {amount!r} is not understood", "write it like 512MiB or 2GiB")
        return amount

    @property
    def keep_bytes(self) -> int:
        """`keep_memory` in bytes."""
        amount = parse_memory(self.keep_memory)
        assert amount is not None
        return amount


class Settings(ImageSettings, PromptSettings, TextSettings, LoadSettings, OutputSettings):
    """All settings of one turn, merged from their layers (see config.sources)."""


GROUPS: tuple[tuple[str, type[SettingsGroup]], ...] = (
    ("Pictures", ImageSettings),
    ("Prompts", PromptSettings),
    ("Text answers", TextSettings),
    ("Model and device", LoadSettings),
    ("Files and output", OutputSettings),
)
"""The groups with their titles, in the order of all lists of settings. `seed` is in two groups."""

SETTING_NAMES: tuple[str, ...] = tuple(dict.fromkeys(name for _, group in GROUPS for name in group.model_fields))
"""Names of all settings, in the order of GROUPS."""


def scope_of(name: str) -> Scope:
    """Return the `Scope` of a setting."""
    annotations = Settings.model_fields[name].metadata
    return next((annotation for annotation in annotations if isinstance(annotation, Scope)), Scope())


RECORDED_LOAD_SETTINGS: tuple[str, ...] = tuple(name for name in LoadSettings.model_fields if scope_of(name).recorded)
"""Load settings in a picture's record, in the order of their declaration."""

REMOTE_SETTINGS = ("server", "server_key_file")
"""Load settings that find a server. All others describe a model on this machine."""

SESSION_SETTINGS: tuple[str, ...] = tuple(name for name in SETTING_NAMES if scope_of(name).session)
"""Settings that `/set` can change in a session."""


def require_compatible(load: LoadSettings, cache: str = "off") -> None:
    """Refuse load settings that contradict each other.

    With `gpus = "all"` the number of GPUs is unknown here, so `model.loading` calls this again with the number.

    Args:
        cache: the picture setting `cache`; the step cache does not work with several GPUs.

    Raises:
        SettingsError: two settings contradict each other.
    """
    if load.weights_file is not None and load.model is None and not load.is_remote:
        raise SettingsError(
            f"`weights` {load.weights} belongs to a model, and no model is named",
            "name the folder or Hub id with its configuration and tokenizer, such as `model=u1-8b`",
        )
    size = load.tensor_parallel_size * load.cfg_parallel_size
    asked = f"`tensor_parallel_size` {load.tensor_parallel_size}, `cfg_parallel_size` {load.cfg_parallel_size}"
    if load.gpus != 0:
        if size > 1:
            raise SettingsError(
                f"`gpus` {load.gpus} chooses the sizes itself, and {asked} are given",
                "leave `gpus` out, or the other two; `gpus=0` overrides a profile",
            )
        asked = f"`gpus` {load.gpus}"
        if load.gpus == "all" and ":" in load.device:
            raise SettingsError(
                f"{asked}: `device` {load.device} is one GPU",
                "use `device=cuda`; CUDA_VISIBLE_DEVICES selects the GPUs",
            )
        size = 1 if load.gpus == "all" else load.gpus
    if size == 1:
        return
    if load.device == "mps":
        solution = "leave it out" if load.gpus else "set both to 1"
        raise SettingsError(f"{asked}: a Mac has only one GPU", f"{solution}, or use `device=cpu`")
    if ":" in load.device:
        raise SettingsError(
            f"{asked}: `device` {load.device} is one GPU, but {size} are needed",
            "use `device=cuda`; CUDA_VISIBLE_DEVICES selects the GPUs",
        )
    if load.offload not in ("auto", "off"):
        raise SettingsError(
            f"{asked}: with several GPUs all weights stay on them; `offload` {load.offload} is for one",
            "leave one of them out, or use `offload=off`",
        )
    if cache != "off":
        raise SettingsError(
            f"{asked}: `cache` {cache} is for one GPU: several GPUs could skip different layers",
            "leave one of them out; `cache=off` overrides a profile",
        )
    if load.gpu_memory_bytes is not None:
        raise SettingsError(
            f"{asked}: `gpu_memory` is for one GPU",
            "leave one of them out; `gpu_memory=all` overrides a profile",
        )
