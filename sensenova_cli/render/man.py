"""The manual page, in roff, built from the help of all commands.

Each command has its usual options. Those that many commands share follow once, by group.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from config.declarations import DECLARATIONS, IMAGE, LOAD, OUTPUT, PROMPT, SERVE, TEXT
from config.profiles import PREFIX

GROUPS = (
    ("PICTURES", IMAGE),
    ("PROMPTS", PROMPT),
    ("ANSWERS", TEXT),
    ("MODEL", LOAD),
    ("OUTPUT", OUTPUT),
    ("SERVER", SERVE),
)
EXIT_CODES = (
    ("0", "done"),
    ("1", "failed while running"),
    ("2", "wrong usage, settings or input"),
    ("3", "weights missing or unreadable"),
    ("4", "out of memory"),
    ("130", "interrupted"),
)
FILES = (
    ("~/.config/sensenova/config.toml", "the user file: settings that apply in every folder"),
    ("./sensenova.toml", "the project file: settings that apply in this folder"),
    ("~/.config/sensenova/profiles/", "profiles of the user"),
    ("~/.config/sensenova/aliases.toml", "aliases of models"),
    ("~/.local/share/sensenova/sessions/", "sessions"),
    ("~/.local/share/sensenova/log/", "the log of requests"),
)
SPECIAL = ("help", "help_all", "debug", "no_color", "version", "man")
"""Options that are listed once, for all commands."""


def man_page(
    name: str,
    version: str,
    program: Any,
    commands: Mapping[str, Any],
    variables: Mapping[str, str],
    is_usual: Callable[[str], bool],
) -> str:
    """Return the page.

    Args:
        program: the parser of the program.
        commands: name → parser of every command and subcommand.
        variables: environment variables that are not settings, with their meaning.
        is_usual: returns whether most people use the option with this parameter name.
    """
    summary, _, description = inspect.cleandoc(program.help).partition("\n\n")
    lines = [
        f'.TH {name.upper()} 1 "" "{name} {version}" "User commands"',
        ".SH NAME",
        f"{name} \\- {_escaped(summary[0].lower() + summary[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {name}",
        r"\fICOMMAND\fR [\fIOPTIONS\fR]",
        ".SH DESCRIPTION",
        *_paragraphs(description),
        ".SH OPTIONS OF ALL COMMANDS",
    ]
    general = {each.name: each for parser in (program, *commands.values()) for each in parser.params}
    lines += _item(r"\fB\-h\fR, \fB\-\-help\fR", "Show the help of a command.")
    for each in SPECIAL:
        if each in general:
            lines += _option(general[each])
    lines.append(".SH COMMANDS")
    for command, parser in commands.items():
        lines += _command(f"{name} {command}", parser, is_usual)
    lines += _settings()
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES:
        lines += _item(rf"\fB{code}\fR", meaning)
    lines += [".SH ENVIRONMENT", *_plain(f"Every setting has a variable: {PREFIX} and its name in capitals.")]
    for variable, meaning in variables.items():
        lines += _item(rf"\fB{_escaped(variable)}\fR", meaning)
    lines.append(".SH FILES")
    for path, meaning in FILES:
        lines += _item(rf"\fI{_escaped(path)}\fR", meaning)
    return "\n".join(lines) + "\n"


def _command(title: str, parser: Any, is_usual: Callable[[str], bool]) -> Iterator[str]:
    """Yield the section of one command: its form, its description with examples, and its usual options."""
    arguments = [each for each in parser.params if each.param_type_name == "argument"]
    shown = [_placeholder(each) if each.required else f"[{_placeholder(each)}]" for each in arguments]
    last = ["COMMAND"] if hasattr(parser, "commands") else []
    yield f'.SS "{_escaped(" ".join([title, "[OPTIONS]", *shown, *last]))}"'
    yield from _paragraphs(inspect.cleandoc(parser.help or ""))
    for each in parser.params:
        is_listed = not getattr(each, "hidden", False) and each.name not in SPECIAL and is_usual(each.name)
        if is_listed and (each.param_type_name != "argument" or each.help):
            yield from _option(each)


def _settings() -> Iterator[str]:
    """Yield the sections of the options that are settings, with their defaults."""
    for title, group in GROUPS:
        yield f'.SH "SETTINGS: {title}"'
        for name, declared in group.items():
            flag = name.replace("_", "-")
            forms = [rf"\fB\-\-{_escaped(flag)}\fR"]
            if declared.kind == "bool":
                forms.append(rf"\fB\-\-no\-{_escaped(flag)}\fR")
            text = declared.help + (f" One of {', '.join(declared.choices)}." if declared.choices else "")
            default = _default(declared.default)
            yield from _item(", ".join(forms), f"{text}{f' Default: {default}.' if default else ''}")


def _default(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(f"{part:g}" for part in value) if isinstance(value, list) else str(value)


def _option(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return _item(rf"\fI{_escaped(_placeholder(parameter))}\fR", parameter.help or "")
    names = sorted(parameter.opts, key=lambda name: name.startswith("--"))
    forms = ", ".join(rf"\fB{_escaped(name)}\fR" for name in names)
    value = "" if parameter.is_flag else rf" \fI{_escaped(_placeholder(parameter))}\fR"
    default = DECLARATIONS[parameter.name].default if parameter.name in DECLARATIONS else None
    shown = "" if default is None or isinstance(default, bool) or default == "" else f" Default: {_default(default)}."
    return _item(forms + value, f"{parameter.help or ''}{shown}")


def _item(term: str, text: str) -> list[str]:
    return [".TP", term, *_plain(text)]


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the lines of a docstring: paragraphs are filled, and examples keep their lines."""
    for paragraph in filter(None, text.split("\n\n")):
        first, *rest = paragraph.splitlines()
        if first == "Examples":
            yield from (
                ".PP",
                "Examples:",
                ".PP",
                ".nf",
                ".RS 4",
                *(_line(line.strip()) for line in rest),
                ".RE",
                ".fi",
            )
        else:
            yield from (".PP", *_plain(" ".join((first, *rest))))


def _plain(text: str) -> list[str]:
    return [_line(re.sub(r"\s+", " ", text).strip())] if text.strip() else []


def _line(text: str) -> str:
    """Escape a line of text; a first dot or apostrophe would make it a request."""
    escaped = _escaped(text)
    return rf"\&{escaped}" if escaped[:1] in (".", "'") else escaped


def _escaped(text: str) -> str:
    return (
        text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq").replace("'", r"\(aq").replace("`", r"\(ga")
    )


def _placeholder(parameter: Any) -> str:
    return (parameter.metavar or str(parameter.name).upper()).strip()


def commands_of(names: Sequence[str], load: Callable[[str], Any]) -> dict[str, Any]:
    """Return name → parser of every command and subcommand."""
    found: dict[str, Any] = {}
    for name in names:
        found[name] = load(name)
        found |= {f"{name} {inner}": parser for inner, parser in getattr(found[name], "commands", {}).items()}
    return found
