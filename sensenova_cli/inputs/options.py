"""Declarations of all options. Options that are settings get their names and help from config.declarations.

A command lists the names of its options and receives the typed values as one `Flags`:

    @with_options(*IMAGE_OPTIONS, *ENGINE_OPTIONS, "profile")
    def generate(prompt: str, flags: Flags) -> None: ...
"""

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any

import typer

from config.declarations import DECLARATIONS, IMAGE, LOAD, OUTPUT, PROMPT, SERVE, TEXT, Declaration
from config.step_cache import DEFAULT_PRESET
from config.task_defaults import INTERLEAVE_ONLY, WITHOUT_EFFECT
from sensenova_cli.inputs.completion import complete_loras, complete_models, complete_profiles
from sensenova_cli.inputs.flags import SIZE_OPTIONS, collect_flags, off_option

IMAGE_OPTIONS = (*SIZE_OPTIONS, *(name for name in IMAGE if name != "size"), "cache_backend")
TEXT_OPTIONS = tuple(name for name in TEXT if name not in INTERLEAVE_ONLY)
INTERLEAVE_OPTIONS = (
    *(name for name in IMAGE_OPTIONS if name not in WITHOUT_EFFECT["interleave"]),
    *TEXT,
)
ENGINE_OPTIONS = tuple(LOAD)
OUTPUT_OPTIONS = tuple(OUTPUT)
FILES_ONLY = {"output": DECLARATIONS["output"].help.removesuffix("; or - for stdout.") + "."}
"""Help of `output` in commands that write no picture to stdout."""
DESKTOP_OPTIONS = ("open", "copy")
PROMPT_OPTIONS = tuple(PROMPT)
VERIFY_OPTIONS = (
    *(name for name in ENGINE_OPTIONS if name not in ("weights", "check_weights", "quantization", "lora")),
    "output",
    "metadata",
    "force",
)
"""Options of a verification. It draws with the settings of its pictures, and checks a checkpoint's own weights."""
REMOTE_OPTIONS = ("server", "server_key_file")
"""Options that find a server. All others of the engine describe a model on this machine."""
SERVE_OPTIONS = tuple(SERVE)
COMMON_OPTIONS = ("profile", "json", "quiet", "debug", "no_color")
HELP_ALL = "help_all"
RUN_OPTIONS = ("dry_run", "events", "timings", *COMMON_OPTIONS)
"""Common options of the commands that run requests."""
BATCH_OPTIONS = ("variables", "skip_existing", "max_errors")
"""Options of commands that make a picture of each of several prompts."""

USUAL_OPTIONS = frozenset(
    (
        *("prompt_text", "prompt_file", "replay_file", "image", "vary", "files"),
        *(
            "size",
            "aspect",
            "seed",
            "num_images",
            "num_steps",
            "cfg_scale",
            "img_cfg_scale",
            "think",
            off_option("think"),
        ),
        *("max_tokens", "max_images", "do_sample", "temperature"),
        *("model", "quantization", "profile", "server"),
        *("output", "sheet", "force", "skip_existing", "dry_run", "json", "quiet"),
        *("host", "port", "api_key_file", off_option("key"), "loras"),
    )
)
"""Options that most people use: `--help` shows them, and the ones that a command declares itself. `--help-all` shows
all others, too."""

_PANELS = (
    ("Picture", IMAGE),
    ("Input", PROMPT),
    ("Answer", TEXT),
    ("Model", LOAD),
    ("Output", OUTPUT),
    ("Server", SERVE),
)
Declarations = Mapping[str, Declaration]
_OTHER_NAMES = {"output": ("-o",), "num_images": ("-n",), "num_steps": ("--steps",), "negative": ("--negative-prompt",)}
_KINDS: dict[str, Any] = {"cfg_interval": tuple[str, str], "lora": list[str]}
"""Parser types of options that take several words or may be repeated."""
_METAVARS = {
    "size": "WxH",
    "cfg_interval": "LO HI",
    "input_pixels": "auto|native|N",
    "model": "FOLDER|HUB_ID",
    "weights": "FILE|off",
    "lora": "FILE|HUB_ID[:STRENGTH]",
    "device": "DEVICE",
    "gpu_memory": "SIZE",
    "gpus": "N|all",
    "output": "FILE",
    "enhance_with": "URL|off",
    "enhance_model": "NAME",
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


def with_options(
    *names: str,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    helps: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the named options, and `--help-all`. It receives their values as its argument `flags`,
    and the parser's context if it has an argument `context`.

    Args:
        defaults: settings whose defaults differ for this command, for its help.
        helps: settings that mean something else for this command → their help.

    Raises (when the command runs):
        UsageError: options contradict each other, or an option is not supported.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        declared = _declarations(names, defaults, helps)
        parameters = inspect.signature(command).parameters
        own = [parameter for parameter in parameters.values() if parameter.name not in ("flags", "context")]
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])
            for name, (kind, default, info) in _parameters(dict.fromkeys((*names, HELP_ALL)), declared)
        ]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        @functools.wraps(command)
        def run(*, context: typer.Context, **values: Any) -> None:
            typed = {option.name: values.pop(option.name) for option in options}
            if "context" in parameters:
                values["context"] = context
            command(**values, flags=replace(collect_flags(typed), words=tuple(context.obj or ())))

        run.own_defaults = {name: declared[name].default for name in (*defaults, *INTERLEAVE_ONLY & set(names))}  # type: ignore[attr-defined]
        # Typer reads the parameters of a command through inspect.signature.
        run.__signature__ = inspect.Signature([*own, context, *options])  # type: ignore[attr-defined]
        return run

    return decorate


def _declarations(names: Collection[str], defaults: Mapping[str, Any], helps: Mapping[str, str]) -> Declarations:
    """Return the declarations of the settings that a command may name. `max_images` is a setting of answers, and for
    `sensenova serve` one of the server."""
    if set(SERVE) <= set(names):
        return {**DECLARATIONS, **SERVE}
    own = {name: DECLARATIONS[name]._replace(default=default) for name, default in defaults.items()}
    own |= {name: own.get(name, DECLARATIONS[name])._replace(help=text) for name, text in helps.items()}
    return {**SERVE, **DECLARATIONS, **own}


def is_usual(name: str) -> bool:
    """Return whether `--help` shows the option with this parameter name; `--help-all` shows all of them."""
    setting = name.removeprefix(off_option(""))
    is_known = setting in DECLARATIONS or setting in SERVE or name in _EXTRA
    return not is_known or name in (*USUAL_OPTIONS, HELP_ALL)


def _parameters(names: Iterable[str], declarations: Declarations) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    """Yield (parameter name, (type, default, typer.Option)) for each option.

    A bool setting also has a --no- form, so that a flag can override a profile. Help shows the form that changes the
    default and hides the other one. A setting with a value `off` has a --no- form, too.
    """
    for name in names:
        declared = declarations.get(name)
        if declared is None or declared.kind != "bool":
            yield name, _option(name, declared)
            if declared is not None and "off" in declared.choices:
                flag, panel = name.replace("_", "-"), _panel(name, declared)
                yield off_option(name), _flag(f"--no-{flag}", help=f"The same as --{flag} off.", panel=panel)
            continue
        flag, on, text = name.replace("_", "-"), declared.default, declared.help
        panel = _panel(name, declared)
        yield name, _flag(f"--{flag}", help=text, panel=panel, hidden=on)
        yield (
            off_option(name),
            _flag(f"--no-{flag}", help=f"Do not {text[0].lower()}{text[1:]}", panel=panel, hidden=not on),
        )


def _panel(name: str, declared: Declaration) -> str:
    """Return the heading of a setting; `declared` tells the two settings apart that are called `max_images`."""
    groups = [title for title, group in _PANELS if name in group]
    return "Server" if SERVE.get(name) == declared else groups[0]


def _option(name: str, declared: Declaration | None) -> tuple[Any, Any, Any]:
    """Return type, default and typer.Option of one option."""
    if name in _EXTRA:
        return _EXTRA[name]
    assert declared is not None
    text = declared.help
    if declared.choices:
        text += f" One of {', '.join(declared.choices)}."
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        *_OTHER_NAMES.get(name, ()),
        help=text,
        metavar=_METAVARS.get(name) or _metavar(declared),
        rich_help_panel=_panel(name, declared),
        show_default=False,
        autocompletion=_completion(name, declared),
    )
    return _KINDS.get(name, str) | None, None, option


def _metavar(declared: Declaration) -> str:
    return "NAME" if declared.choices else {"int": "N", "float": "X"}.get(declared.kind, "TEXT")


def _completion(name: str, declared: Declaration) -> Callable[[str], list[str]] | None:
    if name in ("model", "lora"):
        return complete_models if name == "model" else complete_loras
    if not declared.choices:
        return None
    return lambda incomplete: [word for word in declared.choices if word.startswith(incomplete)]


def _flag(*names: str, help: str, panel: str, hidden: bool = False) -> tuple[Any, Any, Any]:
    return bool, False, typer.Option(*names, help=help, rich_help_panel=panel, hidden=hidden, metavar=" ")


def _value(
    *names: str,
    help: str,
    panel: str,
    metavar: str,
    kind: Any = str,
    hidden: bool = False,
    autocompletion: Callable[[str], list[str]] | None = None,
) -> tuple[Any, Any, Any]:
    option = typer.Option(
        *names,
        help=help,
        rich_help_panel=panel,
        metavar=metavar,
        show_default=False,
        hidden=hidden,
        autocompletion=autocompletion,
    )
    return kind | None, None, option


def _show_all_help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        from sensenova_cli.render.help import help_text

        typer.echo(help_text(context))
        raise typer.Exit


_EXTRA: dict[str, tuple[Any, Any, Any]] = {
    "prompt_text": _value("--prompt", "-p", help="The prompt; - reads standard input.", panel="Input", metavar="TEXT"),
    "prompt_file": _value(
        "--prompt-file",
        help="Prompts, one a line, # for comments; a .jsonl file has objects like "
        '{"prompt": "a cat", "seed": 7}, whose keys win over flags. - reads standard input.',
        panel="Input",
        metavar="FILE",
    ),
    "replay_file": _value(
        "--from",
        help="Make this picture again from its metadata; other options override settings.",
        panel="Input",
        metavar="FILE",
    ),
    "trust_record": _flag(
        "--trust-record",
        help="With --from: also use the model, the LoRAs and the input files that the picture names.",
        panel="Input",
    ),
    "variables": _value(
        "--var",
        help="Values of {NAME} in prompts, like --var color=red,blue: one picture for each. It may be repeated.",
        panel="Input",
        metavar="NAME=A,B,…",
        kind=list[str],
    ),
    "image": _value(
        "--image",
        help="Input picture; repeatable. - reads standard input, clipboard the clipboard.",
        panel="Input",
        metavar="FILE...",
        kind=list[str],
    ),
    "vary": _value(
        "--vary",
        help="What differs between the pictures, like cfg_scale=2,4,6 or seed=1..4, or animal=cat,dog with {animal} in "
        "the prompt. It may be given twice.",
        panel="Input",
        metavar="NAME=VALUES",
        kind=list[str],
    ),
    "files": _value(
        "--files",
        help="Existing pictures for the sheet, instead of new ones; several may follow.",
        panel="Input",
        metavar="FILE...",
        kind=list[str],
    ),
    "aspect": _value("--aspect", help="Picture size by its ratio, like --size 16:9.", panel="Picture", metavar="W:H"),
    "width": _value(
        "--width",
        help="Picture width in pixels; if given alone, the height is unchanged.",
        panel="Picture",
        metavar="N",
    ),
    "height": _value(
        "--height",
        help="Picture height in pixels; if given alone, the width is unchanged.",
        panel="Picture",
        metavar="N",
    ),
    "force": _flag("--force", "-f", help="Replace existing files.", panel="Output"),
    "skip_existing": _flag(
        "--skip-existing",
        help="Make only pictures that do not exist yet; goes on with a run that ended.",
        panel="Output",
    ),
    "max_errors": _value(
        "--max-errors",
        help="Report a failed picture and go on, until N have failed; without it the first one ends the run.",
        panel="Output",
        metavar="N",
    ),
    "events": _flag(
        "--events", help="Print every event of the run, such as each step, as a JSON line.", panel="Output"
    ),
    "dry_run": _flag(
        "--dry-run", help="Print what would be made, where, and how long it takes; make nothing.", panel="Output"
    ),
    "sheet": _value("--output", "-o", help="File of the sheet, like sheet.png.", panel="Output", metavar="FILE"),
    "before_after": _value(
        "--before-after",
        help="Also write a sheet with the input pictures beside the results to this file.",
        panel="Output",
        metavar="FILE",
    ),
    "open": _flag(
        "--open", help="Show the picture with the desktop's viewer, or the folder of several.", panel="Output"
    ),
    "copy": _flag("--copy", help="Copy the picture or the answer to the clipboard.", panel="Output"),
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
        autocompletion=complete_profiles,
    ),
    # app.py acts on these two before the parser runs. They are declared here so that the parser accepts them.
    "debug": _flag("--debug", help="Show the traceback of an error.", panel="General"),
    "no_color": _flag("--no-color", help="Use no colors, as with NO_COLOR set.", panel="General"),
    "enable_cpu_offload": _flag("--enable-cpu-offload", help="The same as --offload module.", panel="Model"),
    "cache_backend": _value(
        "--cache-backend",
        help=f"cache_dit is the same as --cache {DEFAULT_PRESET}, off as --cache off.",
        panel="Picture",
        metavar="NAME",
    ),
    # Options of the example script that are not supported. They are declared to refuse them with the reason.
    "deploy_config": _value("--deploy-config", help="Not supported.", panel="Model", metavar="YAML", hidden=True),
    "step_execution": _flag("--step-execution", help="Not supported.", panel="Model", hidden=True),
    HELP_ALL: (
        bool,
        False,
        typer.Option(
            "--help-all",
            help="Show all options, also the less common ones.",
            rich_help_panel="General",
            callback=_show_all_help,
            is_eager=True,
            metavar=" ",
        ),
    ),
}
