"""Declarations of all options. Options that are settings get their names and help from config.settings.

A command lists the names of its options and receives the typed values as one `Flags`:

    @with_options(*IMAGE_OPTIONS, *ENGINE_OPTIONS, "profile")
    def generate(prompt: str, flags: Flags) -> None: ...
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from config.settings import (
    ImageSettings,
    LoadSettings,
    OutputSettings,
    ServeSettings,
    Settings,
    TextSettings,
)
from config.step_cache import DEFAULT_PRESET
from sensenova_cli.inputs.flags import SIZE_OPTIONS, collect_flags, off_option

IMAGE_OPTIONS = (*SIZE_OPTIONS, *(name for name in ImageSettings.model_fields if name != "size"), "cache_backend")
EDIT_ONLY = frozenset(("img_cfg_scale", "input_pixels"))
TEXT_OPTIONS = tuple(TextSettings.model_fields)
ENGINE_OPTIONS = tuple(LoadSettings.model_fields)
OUTPUT_OPTIONS = tuple(OutputSettings.model_fields)
VERIFY_OPTIONS = (
    *(name for name in ENGINE_OPTIONS if name not in ("check_weights", "quantization", "lora")),
    "output",
    "metadata",
    "force",
)
"""Options of a verification. It draws with the settings of its pictures, and checks a checkpoint's own weights."""
SERVE_OPTIONS = tuple(ServeSettings.model_fields)
COMMON_OPTIONS = ("profile", "json", "quiet", "debug", "no_color")
RUN_OPTIONS = ("timings", *COMMON_OPTIONS)
"""Common options of the commands that run requests."""

_PANELS = (
    ("Picture", frozenset(ImageSettings.model_fields)),
    ("Answer", frozenset(TextSettings.model_fields)),
    ("Model", frozenset(LoadSettings.model_fields)),
    ("Output", frozenset(OutputSettings.model_fields)),
    ("Server", frozenset(ServeSettings.model_fields)),
)
_FIELDS = {**Settings.model_fields, **ServeSettings.model_fields}
"""Declarations of all settings that are options."""
_SHORT = {"output": ("-o",), "num_images": ("-n",)}
_KINDS: dict[str, Any] = {"cfg_interval": tuple[str, str], "lora": list[str]}
"""Parser types of options that take several words or may be repeated."""
_METAVARS = {
    "size": "WxH",
    "cfg_interval": "LO HI",
    "input_pixels": "auto|native|N",
    "model": "FOLDER|HUB_ID",
    "lora": "FILE|HUB_ID[:STRENGTH]",
    "device": "DEVICE",
    "gpu_memory": "SIZE",
    "gpus": "N|all",
    "output": "FILE",
    "server": "URL|local|off",
    "server_key_file": "FILE",
    "host": "ADDRESS",
    "api_key_file": "FILE",
    "served_name": "NAME",
    "loras": "NAME=FILE,…",
    "keep_memory": "SIZE",
    "allow_host": "NAME,…",
    "cors_origin": "ORIGIN,…",
}


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the named options. It receives their values as its argument `flags`.

    Raises (when the command runs):
        UsageError: options contradict each other, or an option is not supported.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [parameter for parameter in inspect.signature(command).parameters.values() if parameter.name != "flags"]
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])
            for name, (kind, default, info) in _parameters(dict.fromkeys(names))
        ]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            typed = {option.name: values.pop(option.name) for option in options}
            command(**values, flags=collect_flags(typed))

        # Typer reads the parameters of a command through inspect.signature.
        run.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        return run

    return decorate


def _parameters(names: Iterable[str]) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    """Yield (parameter name, (type, default, typer.Option)) for each option.

    A bool setting also has a --no- form, so that a flag can override a profile. Help shows the form that changes the
    default and hides the other one. A setting with a value `off` has a --no- form, too.
    """
    for name in names:
        if name not in _FIELDS or _FIELDS[name].annotation is not bool:
            yield name, _option(name)
            if name in _FIELDS and "off" in get_args(_FIELDS[name].annotation):
                flag = name.replace("_", "-")
                yield off_option(name), _flag(f"--no-{flag}", help=f"The same as --{flag} off.", panel=_panel(name))
            continue
        flag, on = name.replace("_", "-"), _FIELDS[name].default
        text = _FIELDS[name].description or ""
        panel = _panel(name)
        yield name, _flag(f"--{flag}", help=text, panel=panel, hidden=on)
        yield (
            off_option(name),
            _flag(f"--no-{flag}", help=f"Do not {text[0].lower()}{text[1:]}", panel=panel, hidden=not on),
        )


def _panel(name: str) -> str:
    return next(title for title, group in _PANELS if name in group)


def _option(name: str) -> tuple[Any, Any, Any]:
    """Return type, default and typer.Option of one option."""
    if name in _EXTRA:
        return _EXTRA[name]
    field = _FIELDS[name]
    flag = "--" + name.replace("_", "-")
    text = (field.description or "").replace("[", "\\[")
    if get_origin(field.annotation) is Literal:
        text += f" One of {', '.join(get_args(field.annotation))}."
    kind: Any = _KINDS.get(name, str)
    option = typer.Option(
        flag,
        *_SHORT.get(name, ()),
        help=text + _default_note(field.default),
        metavar=_METAVARS.get(name) or _metavar(field.annotation),
        rich_help_panel=_panel(name),
        show_default=False,
        autocompletion=_completion(field.annotation),
    )
    return kind | None, None, option


def _default_note(default: Any) -> str:
    if default is None:
        return ""
    shown = " ".join(f"{part:g}" for part in default) if isinstance(default, tuple) else str(default)
    return f" \\[{shown}]"


def _metavar(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "NAME"
    if NoneType in get_args(annotation):  # Annotated[int, …] | None
        annotation = get_args(get_args(annotation)[0])[0] if get_origin(get_args(annotation)[0]) else str
    return {int: "N", float: "X"}.get(annotation, "TEXT")


def _completion(annotation: Any) -> Callable[[str], list[str]] | None:
    if get_origin(annotation) is not Literal:
        return None
    return lambda incomplete: [word for word in get_args(annotation) if word.startswith(incomplete)]


def _flag(*names: str, help: str, panel: str, hidden: bool = False) -> tuple[Any, Any, Any]:
    return bool, False, typer.Option(*names, help=help, rich_help_panel=panel, hidden=hidden, metavar=" ")


def _value(*names: str, help: str, panel: str, metavar: str, kind: Any = str) -> tuple[Any, Any, Any]:
    option = typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, show_default=False)
    return kind | None, None, option


_UNSUPPORTED = "Options of the example script that are not supported yet"

_EXTRA: dict[str, tuple[Any, Any, Any]] = {
    "prompt_text": _value("--prompt", "-p", help="The prompt; - reads standard input.", panel="Input", metavar="TEXT"),
    "prompt_file": _value(
        "--prompt-file",
        help="Prompts, one a line, # for comments; in a .jsonl file objects like "
        '{"prompt": "a cat", "seed": 7}, whose keys win over flags. - reads either from standard input.',
        panel="Input",
        metavar="FILE",
    ),
    "replay_file": _value(
        "--from",
        help="Make this picture again from its metadata; other options override single settings.",
        panel="Input",
        metavar="FILE",
    ),
    "trust_record": _flag(
        "--trust-record",
        help="With --from: also use the model, the LoRAs and the input files that the picture names.",
        panel="Input",
    ),
    "image": _value(
        "--image",
        help="Input picture; several may follow, or repeat --image. - reads standard input.",
        panel="Input",
        metavar="FILE...",
        kind=list[str],
    ),
    "aspect": _value("--aspect", help="Picture size by its ratio, like --size 16:9.", panel="Picture", metavar="W:H"),
    "width": _value(
        "--width",
        help="Picture width in pixels; without --height, the height stays as it is set.",
        panel="Picture",
        metavar="N",
    ),
    "height": _value(
        "--height",
        help="Picture height in pixels; without --width, the width stays as it is set.",
        panel="Picture",
        metavar="N",
    ),
    "force": _flag("--force", "-f", help="Replace existing files.", panel="Output"),
    "json": _flag("--json", help="Print one JSON object per result.", panel="Output"),
    "quiet": _flag("--quiet", "-q", help="Show errors only.", panel="Output"),
    "timings": _flag(
        "--timings", help="Print the seconds of each phase, from imports to the first step.", panel="Output"
    ),
    "profile": _value(
        "--profile",
        help="Settings file, by name or path; see: sensenova profile list.",
        panel="Model",
        metavar="NAME|PATH",
    ),
    # app.py acts on these two before the parser runs. They are declared here so that the parser accepts them.
    "debug": _flag("--debug", help="Show the traceback of an error.", panel="Output"),
    "no_color": _flag("--no-color", help="Use no colours, as with NO_COLOR set.", panel="Output"),
    "enable_cpu_offload": _flag("--enable-cpu-offload", help="The same as --offload module.", panel="Model"),
    "cache_backend": _value(
        "--cache-backend",
        help=f"cache_dit is the same as --cache {DEFAULT_PRESET}, off as --cache off.",
        panel="Picture",
        metavar="NAME",
    ),
    "deploy_config": _value(
        "--deploy-config", help="Spread the model over stages.", panel=_UNSUPPORTED, metavar="YAML"
    ),
    "step_execution": _flag("--step-execution", help="Batch steps of several requests.", panel=_UNSUPPORTED),
}
