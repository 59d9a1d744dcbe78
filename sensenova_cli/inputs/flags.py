"""Flags of a command: the options that the user typed, merged and checked against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from config.declarations import DECLARATIONS, SERVE
from config.sizes import format_size, parse_aspect
from config.step_cache import DEFAULT_PRESET
from sensenova_cli.errors import UsageError

if TYPE_CHECKING:
    from config.settings import ServeSettings
    from config.sources import Layers

SIZE_OPTIONS = ("size", "aspect", "width", "height")
"""The options that set `size`."""

UNSUPPORTED_OPTIONS = ("deploy_config", "step_execution")
"""Options of vLLM-Omni's example script that are not supported. `sensenova run` parses them to give the reason."""


@dataclass(frozen=True)
class Flags:
    """The options that the user typed.

    Attributes:
        settings: the typed settings by name, as text or bool; size options are merged into `size`.
        width, height: a side in pixels that was typed without the other one. The other side keeps its value.
        profile: the value of --profile.
        prompt: the value of --prompt.
        prompt_file: the value of --prompt-file.
        replay_file: the picture file of --from.
        trust_record: load the model and open the files that this picture names.
        image: the picture files of --image.
        vary: the values of --vary, such as `seed=1..4`.
        files: the picture files of --files.
        sheet: file of a sheet, for commands that make one.
        before_after: file for a sheet of inputs and results.
        force: replace existing files.
        open: show the picture with the desktop's viewer.
        copy: copy the picture or the answer to the clipboard.
        json: print results as JSON.
        quiet: show no progress and no notices.
        serve: the typed settings of `sensenova serve` by name, as text or bool.
        timings: print how long each phase of the run took.
        variables: the values of --var, such as `color=red,blue`.
        can_go_on: whether the command has the option `--skip-existing`.
        skip_existing: make only the pictures that do not exist yet.
        max_errors: number of failed items after which a run ends.
        events: print every event as JSON.
        dry_run: print what would be made, and make nothing.
        drawn_seed: the number that was drawn for `--seed random`; None without it.
        words: the command line as it was typed, without the name of the program.
    """

    settings: Mapping[str, Any]
    width: int | None = None
    height: int | None = None
    profile: str | None = None
    prompt: str | None = None
    prompt_file: str | None = None
    replay_file: str | None = None
    trust_record: bool = False
    image: Sequence[str] = ()
    vary: Sequence[str] = ()
    files: Sequence[str] = ()
    sheet: str | None = None
    before_after: str | None = None
    force: bool = False
    open: bool = False
    copy: bool = False
    json: bool = False
    quiet: bool = False
    serve: Mapping[str, Any] = field(default_factory=dict)
    timings: bool = False
    variables: Sequence[str] = ()
    can_go_on: bool = False
    skip_existing: bool = False
    max_errors: int = 1
    events: bool = False
    dry_run: bool = False
    drawn_seed: str | None = None
    words: Sequence[str] = ()

    def layers(self, record: Mapping[str, Any] | None = None, record_label: str = "picture") -> "Layers":
        """Read all layers of settings and these flags; arguments and errors as for config.sources.read_layers."""
        from config.sources import read_layers  # defines the settings' models, which help does not need

        return read_layers(self.settings, profile=self.profile, record=record, record_label=record_label)

    def serve_settings(self) -> "ServeSettings":
        """Merge the settings of `sensenova serve` with these flags; errors as for `read_serve_settings`."""
        from config.sources import read_serve_settings  # as above

        return read_serve_settings(self.serve, profile=self.profile)


def off_option(name: str) -> str:
    """Return the name of the option that turns the setting `name` off."""
    return f"no_{name}"


def collect_flags(typed: dict[str, Any]) -> Flags:
    """Build Flags from the parser's values by option name.

    Raises:
        UsageError: options contradict each other, or an option is not supported.
    """
    if typed.get("deploy_config") is not None:
        raise _unsupported("--deploy-config", "use --tensor-parallel-size and --cfg-parallel-size")
    if typed.get("step_execution"):
        raise _unsupported("--step-execution", "one request runs at a time")
    if typed.get("events") and typed.get("json"):
        raise UsageError("--events and --json both print JSON on stdout", "give one of them")
    if typed.get("trust_record") and typed.get("replay_file") is None:
        raise UsageError("--trust-record needs --from", "name the picture: --from FILE")
    settings = {name: typed[name] for name in DECLARATIONS if name != "size" and typed.get(name) not in (None, False)}
    if typed.get("enable_cpu_offload"):
        other = "off" if typed.get(off_option("offload")) else settings.setdefault("offload", "module")
        if other != "module":
            raise UsageError(f"--enable-cpu-offload is --offload module, not {other}", "give one of them")
    if settings.get("enhance_with", "off") != "off" and not typed.get(off_option("enhance")):
        settings["enhance"] = True
    if "lora" in settings:  # --lora may be repeated
        settings["lora"] = ", ".join(settings["lora"])
    for name, declared in DECLARATIONS.items():
        if typed.get(off_option(name)):
            if typed[name]:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} and --no-{flag} contradict each other", "give one of them")
            settings[name] = False if declared.kind == "bool" else "off"
    if typed.get("cache_backend") is not None:
        settings["cache"] = _preset_of_backend(typed["cache_backend"], settings.get("cache"))
    size, width, height = _size(*(typed.get(name) for name in SIZE_OPTIONS))
    return Flags(
        settings=settings if size is None else {**settings, "size": size},
        width=width,
        height=height,
        profile=typed.get("profile"),
        prompt=typed.get("prompt_text"),
        prompt_file=typed.get("prompt_file"),
        replay_file=typed.get("replay_file"),
        trust_record=typed.get("trust_record", False),
        image=tuple(typed.get("image") or ()),
        vary=tuple(typed.get("vary") or ()),
        files=tuple(typed.get("files") or ()),
        sheet=typed.get("sheet"),
        before_after=typed.get("before_after"),
        force=typed.get("force", False),
        open=typed.get("open", False),
        copy=typed.get("copy", False),
        json=typed.get("json", False),
        quiet=typed.get("quiet", False),
        serve=_typed_serve(typed),
        timings=typed.get("timings", False),
        variables=tuple(typed.get("variables") or ()),
        can_go_on="skip_existing" in typed,
        skip_existing=typed.get("skip_existing", False),
        max_errors=_max_errors(typed.get("max_errors")),
        events=typed.get("events", False),
        dry_run=typed.get("dry_run", False),
    )


def _max_errors(text: str | None) -> int:
    count = _whole_number("--max-errors", text, "of failures", "10")
    if count is not None and count < 1:
        raise UsageError(f"--max-errors {count}: must be at least 1", "1, the default, ends the run at the first error")
    return count or 1


def _typed_serve(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the typed settings of `sensenova serve`. A flag and its --no- form contradict each other."""
    given = {name: typed[name] for name in SERVE if typed.get(name) not in (None, False)}
    for name in SERVE:
        if typed.get(off_option(name)):
            if given.get(name):
                raise UsageError(f"--{name} and --no-{name} contradict each other", "give one of them")
            given[name] = False
    return given


def _preset_of_backend(backend: str, preset: str | None) -> str:
    """Return the value of the setting `cache` for --cache-backend, given the preset of --cache or None."""
    if backend == "tea_cache":
        raise _unsupported("--cache-backend tea_cache", "steps are cached by cache_dit")
    if backend not in ("cache_dit", "off"):
        raise UsageError(f"--cache-backend {backend} is unknown", "it is cache_dit or off")
    if preset is not None and (preset == "off") != (backend == "off"):
        raise UsageError(f"--cache-backend {backend} and --cache {preset} contradict each other", "give one of them")
    return preset or (DEFAULT_PRESET if backend == "cache_dit" else "off")


def _size(
    size: str | None, aspect: str | None, width: str | None, height: str | None
) -> tuple[str | None, int | None, int | None]:
    """Merge the size options into (size, width, height); width or height only if the other side is not given."""
    typed = [
        f"--{name}"
        for name, value in zip(SIZE_OPTIONS, (size, aspect, width, height), strict=True)
        if value is not None
    ]
    if len(typed) > 1 and typed != ["--width", "--height"]:
        raise UsageError(f"{' and '.join(typed)} cannot be combined", "give --size WxH alone, or --width and --height")
    if aspect is not None and parse_aspect(aspect) is None:
        raise UsageError(f"--aspect {aspect} is not a ratio", "write it like --aspect 16:9")
    wide = _whole_number("--width", width, "of pixels", "2048")
    high = _whole_number("--height", height, "of pixels", "2048")
    if wide is not None and high is not None:
        return format_size((wide, high)), None, None
    return (aspect if size is None else size), wide, high


def _whole_number(flag: str, text: str | None, unit: str, example: str) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{flag} {text}: must be a whole number {unit}", f"try {flag} {example}") from None


def _unsupported(option: str, instead: str) -> UsageError:
    return UsageError(f"{option} is not supported: {instead}", f"leave {option.split()[0]} out")
