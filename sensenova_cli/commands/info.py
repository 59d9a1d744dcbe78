"""`sensenova info`: prints how a picture was made or what a checkpoint is, without loading a model."""

import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from config.errors import SenseNovaError
from config.model_names import full_name, short_name
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import with_options
from sensenova_cli.system.streams import CLIPBOARD, STDIN
from sensenova_cli.system.unicode import json_text

DEMO = "demo"
"""The built-in demo, by its name. A file or folder of that name is `./demo`."""
WEIGHTS = (".gguf", ".safetensors")
"""Endings of files of weights."""


class NoRecordError(SenseNovaError):
    """An error for a picture without a record.

    Attributes:
        facts: what is known about it nevertheless; empty if nothing is.
    """

    facts: Mapping[str, Any] = MappingProxyType({})


@with_options("server", "server_key_file", "json", "debug", "no_color")
def info(
    flags: Flags,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="Pictures made by sensenova (- reads one from standard input), checkpoint folders, demo, or files of "
            "weights.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print how a picture was made, or what a checkpoint or a server is. No model is loaded.

    Examples
      sensenova info a-cute-cat-42.png
      sensenova info demo                      # what the built-in demo knows
      sensenova info --json *.png | jq .settings.seed
      sensenova info --server http://gpu-box:8642

    Of a picture that another program made, the text is printed in which that
    program describes it, if there is one. The exit code is 1 if a picture has
    no record of sensenova, 2 if it cannot be read, and 3 if a checkpoint is
    damaged. The other files are printed in any case.
    """
    problems: list[SenseNovaError] = []
    printed = 0
    facts: Mapping[str, Any]
    if files and "server" in flags.settings:
        raise UsageError("--server and FILE contradict each other", "give one of them")
    if not files and "server" not in flags.settings:
        raise UsageError(
            "there is nothing to describe", "name a picture, a checkpoint folder, a file of weights or a --server"
        )
    described: list[str | None] = [*files] if files else [None]
    for file in described:
        try:
            facts = _server_facts(flags) if file is None else _facts(file)
        except SenseNovaError as problem:
            problems.append(problem)
            if not isinstance(problem, NoRecordError) or not problem.facts:
                continue
            facts = problem.facts
        if flags.json:
            typer.echo(json_text(facts if file is None else {"path": file, **facts}))
        else:
            typer.echo(("\n" if printed else "") + "\n".join(map(_wrapped, _lines(facts))))
        printed += 1
    if problems:
        raise _joined(problems)


def _server_facts(flags: Flags) -> dict[str, Any]:
    from model import read_server_facts

    return read_server_facts(flags.layers().load)


def _facts(file: str) -> dict[str, Any]:
    if file != STDIN and not os.path.exists(file) and short_name(file) is None:  # noqa: PTH110  # for any name
        file = full_name(file)  # an alias
    if file == DEMO:
        from model import DEMO_CHECKPOINT

        return {"checkpoint": file, **_checkpoint_facts(DEMO_CHECKPOINT)}
    if (published := short_name(file)) is not None and not Path(file).exists():
        from model import CheckpointError, local_checkpoint

        folder = local_checkpoint(file)
        if folder is None:
            raise CheckpointError(
                f"{published} ({full_name(file)}) is not on this machine",
                f"to see whether it would run here: sensenova doctor --model {published}",
            )
        return {"checkpoint": file, **_checkpoint_facts(folder)}
    if file != STDIN and os.path.isdir(file):  # noqa: PTH112  # pathlib raises an error for a name that is too long
        return {"checkpoint": file, **_checkpoint_facts(Path(file))}
    if file != STDIN and file.endswith(WEIGHTS) and os.path.isfile(file):  # noqa: PTH113
        return {"weights": file, **_weights_facts(Path(file))}
    from sensenova_cli.inputs.pictures import read_content, shown_name
    from sensenova_cli.outputs.picture_files import read_parameters, read_record

    name = shown_name(file)
    source = read_content(file) if file in (STDIN, CLIPBOARD) else file
    record = read_record(source, name)
    if record is not None:
        return {"picture": name, **record.model_dump(mode="json")}
    parameters = read_parameters(source, name)
    if parameters is None:
        raise NoRecordError(
            f"{name} has no record of how it was made, and cannot be repeated",
            "only files written by sensenova have one, unless --no-metadata was given or another tool removed it",
        )
    problem = NoRecordError(
        f"{name} was described by another program, and cannot be repeated byte for byte",
        "draw it again with its prompt",
    )
    problem.facts = {"picture": name, "parameters": parameters}
    raise problem


def _weights_facts(file: Path) -> dict[str, Any]:
    from model import describe_weights

    facts = describe_weights(file)
    return {
        "weight_format": facts.formats,
        "weight_bytes": facts.nbytes,
        "tensors": facts.tensors,
        "writes_text": facts.has_head,
        "note": facts.note,
    }


def _checkpoint_facts(folder: Path) -> dict[str, Any]:
    from config.sizes import format_size
    from model import read_facts

    facts = asdict(read_facts(folder))
    recommended = facts.pop("recommended")
    world = recommended.world
    known: dict[str, Any] = {}
    if world is not None:
        known = {"shapes": [*world.shapes], "objects": [*world.objects], "colors": [*world.colors]}
        known["answers_with_pictures"] = recommended.answers_with_pictures
    return {
        **known,
        **facts,
        "experts": facts["experts"] or None,
        "trained_sizes": [format_size(size) for size in recommended.trained_sizes],
        "recommended_settings": recommended.settings or None,
    }


def _lines(facts: Mapping[str, Any]) -> list[str]:
    """Return `key: value` lines; the settings of a picture are listed under their own names."""
    lines = []
    for key, value in facts.items():
        if value is None or value in ([], ()) or key == "defaults":  # a server's, of all settings: for programs
            continue
        if key == "settings":
            lines += _lines(value)
        elif key == "inputs":
            lines += [f"input: {_printable(picture['path'])}" for picture in value]
        elif key == "answer":
            lines += _answer_lines(value)
        elif key == "weight_bytes":
            lines.append(f"{key}: {value:,}")
        elif key == "made_by":
            lines.append(f"made_by: {_printable(value)}; it cannot be repeated byte for byte")
        else:
            lines.append(f"{key}: {_text(value)}")
    return lines


def _answer_lines(answer: Mapping[str, Any]) -> list[str]:
    """Return lines about the interleaved answer that a picture belongs to."""
    lines = [f"picture of the answer: {answer['index'] + 1}"]
    lines += _lines({name: value for name, value in answer["settings"].items() if name != "seed"})
    if answer["system"] is not None:
        lines.append(f"system: {_text(answer['system'])}")
    if answer["history"]:
        lines.append(f"earlier turns: {len(answer['history'])}")
    return lines


def _wrapped(line: str) -> str:
    """Break a long line at words if people read it. Programs get one line for each key."""
    if not sys.stdout.isatty():
        return line
    width = max(40, shutil.get_terminal_size().columns)
    return "\n".join(
        textwrap.fill(each, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for each in line.split("\n")
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items() if part is not None)
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return _printable(str(value)).replace("\n", "\n  ")


def _printable(text: str) -> str:
    """Make control characters visible: a stranger's picture could contain escape sequences for the terminal."""
    return "".join(
        repr(char)[1:-1] if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" else char for char in text
    )


def _joined(problems: Sequence[SenseNovaError]) -> SenseNovaError:
    """Join the errors of all files into one error of the type with the highest exit code."""
    from sensenova_cli.errors import exit_code

    worst = max(problems, key=exit_code)
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    return type(worst)("\n".join(problem.what for problem in problems), "\n".join(hints))
