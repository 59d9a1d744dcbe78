import os
from pathlib import Path

import pytest

from config.errors import SettingsError
from config.toml_file import read_settings_file, show_path, toml_literal

FILE = Path("sensenova.toml")


def _read_error(text: str | bytes) -> SettingsError:
    FILE.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SettingsError) as raised:
        read_settings_file(FILE)
    return raised.value


def test_values_have_their_types() -> None:
    FILE.write_text(
        'description = "Wide."\nsize = "16:9"\ncfg_scale = 4\nthink = true\n'
        "cfg_interval = [0, 0.5]\ninput_pixels = 4096\n"
    )
    file = read_settings_file(FILE)
    assert file.description == "Wide."
    assert file.values == {
        "size": "16:9",
        "cfg_scale": 4.0,
        "think": True,
        "cfg_interval": (0.0, 0.5),
        "input_pixels": 4096,
    }


def test_byte_order_mark_is_ignored() -> None:
    FILE.write_bytes(b"\xef\xbb\xbfseed = 7\n")
    assert read_settings_file(FILE).values == {"seed": 7}


@pytest.mark.parametrize(
    ("text", "place", "reason", "hint"),
    [
        # syntax
        ("seed = 1\nthink = True\n", "2:9", "invalid value", "write think = true"),
        ("dtype = bfloat16", "1:9", "invalid value", 'put text in quotes: dtype = "bfloat16"'),
        ("cfg_scale = .5", "1:13", "invalid value", "write cfg_scale = 0.5"),
        ("seed = 1\nseed = 2\n", "2:9", "overwrite", "remove one"),
        ("seed\n", "1:5", "expected '='", 'size = "2048x2048"'),
        ("seed = 1\nsize = ", "2:8", "invalid value", 'size = "2048x2048"'),
        # unknown names
        ("seed = 1\n\n  cfg_scal = 3", "3:3", "unknown setting cfg_scal", "did you mean cfg_scale?"),
        ("num-steps = 3", "1:1", "unknown setting num-steps", "did you mean num_steps?"),
        ("descripton = 'x'", "1:1", "unknown setting descripton", "did you mean description?"),
        ("width = 3", "1:1", "unknown setting width", 'use size = "2048x2048"'),
        ("aspect = '16:9'", "1:1", "unknown setting aspect", 'use size = "16:9"'),
        ("zzz = 3", "1:1", "unknown setting zzz", "profile init"),
        # types
        ('num_steps = "20"', "1:1", 'num_steps = "20": must be a whole number', "num_steps = 20 without quotes"),
        ("num_steps = 1.5", "1:1", "num_steps = 1.5: must be a whole number", "the default is num_steps = 50"),
        ("num_steps = true", "1:1", "num_steps = true: must be a whole number", "the default is num_steps = 50"),
        ("think = 1", "1:1", "think = 1: must be true or false", "the default is think = false"),
        ("size = 2048", "1:1", "size = 2048: must be like 2048x2048, 16:9 or auto", 'size = "2048x2048"'),
        ("model = 3", "1:1", "model = 3: must be text", 'put it in quotes: model = "3"'),
        ("seed = 2026-01-01", "1:1", "seed = 2026-01-01: must be a whole number", "the default is seed = 42"),
        ("[image]\nseed = 1", "1:2", "image is a table", "without [sections]"),
        ("size.width = 3", "1:1", "size is a table", "without [sections] and dots"),
        ('model = ""', "1:1", 'model = "": must not be empty', "remove model"),
        ("description = 3", "1:1", "description = 3: must be text", "quotes"),
        ("seed = 1\nport = 9000", "2:1", "port is a setting of `sensenova serve`", "write it below [serve]"),
        ("loras = 'a=b'", "1:1", "loras is a setting of `sensenova serve`", "write it below [serve]"),
        ("seed = 1\n[serve]\nnum_steps = 8", "3:1", "num_steps is not a setting of `sensenova serve`", "above [serve]"),
        ("[serve]\nprot = 9000", "2:1", "unknown setting prot", "did you mean port?"),
        ("[serve]\nport = 'x'", "2:1", 'port = "x": must be a whole number from 0 to 65535', ""),
        ("serve = 1", "1:1", "serve = 1: must be a table", "write [serve] on its own line"),
        # bounds
        ("num_steps = 0", "1:1", "num_steps = 0: must be a whole number from 1 to 1000", "num_steps = 50"),
        ("cfg_scale = nan", "1:1", "cfg_scale = nan: must be a number from 0 to 100", "cfg_scale = 4.0"),
        ("t_eps = 0", "1:1", "t_eps = 0: must be a number above 0 and at most 1", "t_eps = 0.02"),
        ("top_k = -1", "1:1", "must be a whole number of at least 0", "top_k = 0"),
        ('dtype = "bf16"', "1:1", "must be auto, bfloat16, float16 or float32", 'did you mean dtype = "bfloat16"?'),
        ("input_pixels = 5", "1:1", "must be auto, native or a whole number from 1024 to", 'input_pixels = "auto"'),
        (
            "cfg_interval = [0.9, 0.1]",
            "1:1",
            "the low end 0.9 is above the high end 0.1",
            "the default is cfg_interval = [0.0, 1.0]",
        ),
        ("cfg_interval = 0.3", "1:1", "must be 2 values, each a number from 0 to 1", "cfg_interval = [0.0, 1.0]"),
        ('"size" = "100x100"', "1:2", "both sides must be multiples of 32", "try 96x96 or 128x128"),
    ],
)
def test_mistake_is_named_with_its_place(text: str, place: str, reason: str, hint: str) -> None:
    error = _read_error(text)
    assert error.what.startswith(f"./sensenova.toml:{place}: ")
    assert reason in error.what
    assert hint in error.hint
    assert "http" not in error.what
    assert "Input should" not in error.what


def test_all_mistakes_of_a_file_are_listed() -> None:
    error = _read_error("num_steps = 0\nseed = 1\ncfg_scal = 3\nthink = 2")
    places = [line.split(": ")[0] for line in error.what.splitlines()]
    assert places == ["./sensenova.toml:1:1", "./sensenova.toml:3:1", "./sensenova.toml:4:1"]


def test_a_line_inside_long_text_is_not_a_key() -> None:
    error = _read_error('description = """\nnum_steps = 3\n"""\nnum_steps = 0\n')
    assert error.what.startswith("./sensenova.toml:4:1: ")


def test_long_value_is_cut() -> None:
    error = _read_error(f'dtype = "{"x" * 5000}"')
    assert len(error.what) < 200


def test_a_binary_file() -> None:
    error = _read_error(b"seed = 1\n\xff\xfe")
    assert "./sensenova.toml: byte 9 is not UTF-8" in error.what


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        read_settings_file(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings_file(tmp_path)


def test_paths_are_shown_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert show_path(tmp_path / "a" / "b.toml") == str(Path("~/a/b.toml"))
    assert show_path(Path("a.toml")) == "./a.toml"
    assert show_path(Path("/elsewhere/a.toml")) == "/elsewhere/a.toml"


@pytest.mark.parametrize("value", [True, False, 3, 0.25, 'a "quoted" \\ line\nand 猫', [0.1, 0.6], 1e-07])
def test_literals_are_toml(value: object) -> None:
    import tomllib

    assert tomllib.loads(f"x = {toml_literal(value)}") == {"x": value}


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """It could be read only once, and settings are read again in a session."""
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(SettingsError, match="is not a regular file"):
        read_settings_file(tmp_path / "pipe.toml")


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text("#" * (2**20 + 1))
    with pytest.raises(SettingsError, match="has more than 1,048,576 bytes"):
        read_settings_file(tmp_path / "long.toml")
