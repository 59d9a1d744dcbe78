"""Template of a settings file: all settings with their help texts, ready to be edited."""

import textwrap
from collections.abc import Mapping
from typing import Any

from config.settings import GROUPS, SETTING_NAMES, ServeSettings, Settings, SettingsGroup
from config.toml_file import SERVE_TABLE, toml_literal
from config.validation import expected

EXAMPLES: Mapping[str, Any] = {
    "model": "SenseNova/SenseNova-U1-8B-MoT",
    "weights": "u1-8b-Q8_0.gguf",
    "lora": "style.safetensors:0.8",
    "gpu_memory": "8GiB",
    "enhance_with": "http://localhost:11434/v1",
    "enhance_model": "qwen3:8b",
    "server": "http://gpu-box:8642",
    "server_key_file": "server.key",
    "output": "pictures/{slug}-{seed}.png",
    "cache_threshold": 0.24,
    "cache_warmup_steps": 4,
    "cache_longest_run": 3,
    "cache_first_layers": 1,
    "cache_last_layers": 0,
    "cache_taylor_order": 1,
    "api_key_file": "~/.sensenova-key",
    "served_name": "u1",
    "loras": "pixel=./pixel.safetensors:0.8",
    "allow_host": "pictures.example.org",
    "cors_origin": "https://app.example.org",
}
"""Example values of the settings without a default."""

INTRODUCTION = """\
# Settings of sensenova. Remove the # before a setting to set it; the values shown are the defaults.
# `sensenova profile check FILE` checks this file, `sensenova profile show` prints what is in effect.
"""
SERVE_HEADING = f"""
# --- sensenova serve ---

# Settings below this line are in the table [{SERVE_TABLE}]. All others must stay above it.
[{SERVE_TABLE}]
"""


def settings_template(values: Mapping[str, Any], description: str = "", serve: Mapping[str, Any] | None = None) -> str:
    """Return TOML text with all settings. The given ones are set; the others are comments with their defaults.

    Args:
        values: settings to set.
        description: text for `sensenova profile list`.
        serve: settings of `sensenova serve` to set.
    """
    lines = [INTRODUCTION]
    if description:
        lines.append(f"description = {toml_literal(description)}\n")
    listed: set[str] = set()
    for title, group in GROUPS:
        lines.append(f"\n# --- {title} ---\n")
        for name in SETTING_NAMES:
            if name in group.model_fields and name not in listed:
                listed.add(name)
                lines.append(_entry(name, values, Settings))
    lines.append(SERVE_HEADING)
    lines += [_entry(name, serve or {}, ServeSettings) for name in ServeSettings.model_fields]
    return "\n".join(lines)


def _entry(name: str, values: Mapping[str, Any], group: type[SettingsGroup]) -> str:
    field = group.model_fields[name]
    comments = textwrap.wrap(str(field.description), 100)
    if not (field.annotation is bool or field.examples or field.default is None):
        comments.append(f"Values: {expected(name, group)}.")
    default = EXAMPLES[name] if field.default is None else field.default
    comment_sign = "" if name in values else "#"
    line = f"{comment_sign}{name} = {toml_literal(values.get(name, default))}"
    return "".join(f"# {comment}\n" for comment in comments) + line + "\n"
