"""Edits of single settings keep the rest of a file, byte for byte."""

import tomllib
from typing import Any

import pytest

from config.template import settings_template
from config.toml_edit import set_setting, unset_setting

FILE = """\
# My settings.
description = "mine"

num_steps = 20   # few "#" steps
"lora" = "a#b.safetensors" # a file
cfg_interval = [
  0.1,  # low
  0.6,
]
prompt = '''
seed = 9
'''

[serve]
# The port.
port = 1 # mine
"""


def lines_that_differ(before: str, after: str) -> tuple[list[str], list[str]]:
    old, new = before.splitlines(), after.splitlines()
    return [line for line in old if line not in new], [line for line in new if line not in old]


@pytest.mark.parametrize(
    ("name", "value", "removed", "added"),
    [
        ("num_steps", 30, ['num_steps = 20   # few "#" steps'], ['num_steps = 30   # few "#" steps']),
        ("lora", "c#d", ['"lora" = "a#b.safetensors" # a file'], ['lora = "c#d" # a file']),
        (
            "cfg_interval",
            (0.2, 0.5),
            ["cfg_interval = [", "  0.1,  # low", "  0.6,", "]"],
            ["cfg_interval = [0.2, 0.5]"],
        ),
        ("think", True, [], ["think = true"]),
        ("seed", 3, [], ["seed = 3"]),
    ],
)
def test_one_setting_changes(name: str, value: Any, removed: list[str], added: list[str]) -> None:
    after = set_setting(FILE, name, value)
    assert lines_that_differ(FILE, after) == (removed, added)
    expected = {**tomllib.loads(FILE), name: list(value) if isinstance(value, tuple) else value}
    assert tomllib.loads(after) == expected


def test_a_setting_of_the_server_changes_in_its_table() -> None:
    after = set_setting(FILE, "port", 2, serve=True)
    assert lines_that_differ(FILE, after) == (["port = 1 # mine"], ["port = 2 # mine"])
    after = set_setting(FILE, "host", "0.0.0.0", serve=True)
    assert after == FILE + 'host = "0.0.0.0"\n'


@pytest.mark.parametrize(
    ("before", "serve", "after"),
    [
        ("", False, "seed = 1\n"),
        ("", True, "[serve]\nseed = 1\n"),
        ("think = true", False, "think = true\nseed = 1\n"),
        ("think = true\n\n\n", False, "think = true\nseed = 1\n\n\n"),
        ("think = true", True, "think = true\n\n[serve]\nseed = 1\n"),
        ("[serve]\nport = 1", False, "seed = 1\n[serve]\nport = 1\n"),
        ("[serve]", True, "[serve]\nseed = 1\n"),
        ("# seed = 42\nthink = true\n", False, "# seed = 42\nseed = 1\nthink = true\n"),
    ],
)
def test_the_place_of_a_new_setting(before: str, serve: bool, after: str) -> None:
    assert set_setting(before, "seed", 1, serve=serve) == after


def test_a_new_setting_goes_below_its_explanation_in_a_template() -> None:
    before = settings_template({})
    after = set_setting(before, "num_steps", 9)
    assert "#num_steps = 50\nnum_steps = 9\n" in after
    assert unset_setting(after, "num_steps") == before


def test_a_setting_is_removed_with_all_its_lines() -> None:
    after = unset_setting(unset_setting(FILE, "cfg_interval"), "port", serve=True)
    assert tomllib.loads(after) == {
        name: {} if name == "serve" else value for name, value in tomllib.loads(FILE).items() if name != "cfg_interval"
    }
    assert "# My settings." in after and "# The port." in after
    assert unset_setting(FILE, "seed") == FILE and unset_setting(FILE, "num_steps", serve=True) == FILE
