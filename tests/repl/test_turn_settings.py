"""Settings, profiles, models and LoRAs of a session, set by lines that are piped into it."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import model.opening
from config.settings import LoadSettings
from config.sources import Layers
from model.errors import CheckpointError
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.repl.repl import Repl
from tests.repl.script import Script
from tests.repl.test_turns import session_file


def test_settings_apply_until_they_are_unset(script: Script) -> None:
    outcome = script("/set num_steps 3", "/set cfg-scale 2", "a cat", "/unset num_steps", "/again", "/set")
    assert outcome.code == 0, outcome.stderr
    first, second = script.requests
    assert (first.settings.num_steps, second.settings.num_steps) == (3, 4)
    assert first.settings.cfg_scale == second.settings.cfg_scale == 2
    assert "this session" in outcome.stderr


def test_a_cache_is_set_turn_by_turn(script: Script) -> None:
    outcome = script(
        "/set cache balanced", "a cat", "/set enable_cache_dit_summary on", "/again", "/set cache off", "/again",
        "/again --cache fast --enable-cache-dit-summary",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert [request.settings.cache for request in script.requests] == ["balanced", "balanced", "off", "fast"]
    assert outcome.stderr.count("50 % of the layers computed") == 2


def test_negative_words(script: Script) -> None:
    """They are one setting, with spaces and commas; a line's own ones win, and /again repeats them."""
    outcome = script(
        "/set negative blurry, low quality", "a cat", 'a dog --negative "cats, rain"', "/again",
        '/set negative ""', "/generate a kite", "/set negative_prompt x",
    )  # fmt: skip
    words = [request.settings.negative for request in script.requests]
    assert words == ["blurry, low quality", "cats, rain", "cats, rain", ""]
    assert 'negative = ""' in outcome.stderr and "did you mean /set negative?" in outcome.stderr


def test_a_random_seed_of_a_line(script: Script) -> None:
    """It is told, and /again goes on from it."""
    outcome = script("a cat --seed random", "/again", "a dog --seed 1..3")
    seed = int(next(line for line in outcome.stderr.splitlines() if "random seed" in line).split()[-1])
    assert [request.settings.seed for request in script.requests] == [seed, seed + 1]
    assert "--seed 1..3: only one seed is possible here" in outcome.stderr
    assert "-n 4 makes four pictures, each with the next seed" in outcome.stderr


def test_an_answer_has_no_pictures_to_repeat(script: Script) -> None:
    outcome = script("/chat hello --seed 1..3")
    assert "hint: give one number, or random\n" in outcome.stderr


def test_settings_of_the_session_override_its_profile(script: Script) -> None:
    script("/profile draft", "a cat", "/set num_steps 3", "/again", "/profile none", "/unset all", "/again")
    assert [request.settings.num_steps for request in script.requests] == [20, 3, 4]


def test_thinking_is_switched_on_and_off(script: Script) -> None:
    outcome = script("/think on", "a cat", "/think off", "/again", "/think a dog")
    assert outcome.code == 0, outcome.stderr
    assert [request.settings.think for request in script.requests] == [True, False, True]


def test_another_model_is_loaded(script: Script, home: Path) -> None:
    outcome = script("a cat", "/model demo", "/again", "/model")
    assert outcome.code == 0, outcome.stderr
    assert len(script.program.engines) == 2
    assert "model: demo" in outcome.stderr
    assert [entry["model"] for entry in session_file() if "turn" in entry][1] == "demo"


def test_another_model_has_its_own_weights(script: Script, home: Path) -> None:
    """The file of `--weights` belongs to the model before; no line of a session names such a file."""
    lines = ("/model", "/set weights other.gguf", "a cat", "/model demo", "/again", "/model")
    outcome = script(*lines, options=("--weights", "mine.gguf"))
    assert "checkpoint with the weights mine.gguf\n" in outcome.stderr
    assert "model: demo\nit has its own weights; mine.gguf was for " in outcome.stderr
    assert outcome.stderr.endswith("model: demo\n")
    assert [settings.weights_file for settings in script.program.loaded] == ["mine.gguf", None]
    assert "error: /set cannot change weights\nhint: start another session with --weights FILE" in outcome.stderr


def test_invalid_settings_of_a_continued_session_are_spelled_as_in_a_session(script: Script, data: Path) -> None:
    script("/set num_steps 3", "a cat")
    (file,) = data.glob("sessions/*/session.jsonl")
    file.write_text(file.read_text().replace('"settings": {"num_steps": 3}', '"settings": {"num_steps": 0}', 1))
    outcome = script("a dog", "a dog --num-steps 2", "/unset num_steps", "/again", options=("--continue",))
    message = "error: /set num_steps 0: must be a whole number from 1 to 1000\nhint: the default is /set num_steps"
    assert outcome.stderr.count(message) == 2  # at the start and by the first turn
    assert "session " in outcome.stderr and ": 1 turn, 1 picture\n" in outcome.stderr
    assert [request.settings.num_steps for request in script.requests] == [2, 2]


def test_a_lora_is_merged_and_removed(script: Script, home: Path, data: Path) -> None:
    (home / "a.safetensors").touch()
    lines = ("/lora", "/lora a.safetensors:0.5", "a cat", "/lora none.safetensors", "a dog", "/lora off", "a fox")
    outcome = script(*lines)
    (engine,) = script.program.engines
    assert engine.loras == ()
    assert re.findall("LoRA: (.+)", outcome.stderr) == ["none", "a.safetensors:0.5", "none"]
    assert "error: there is no LoRA file none.safetensors" in outcome.stderr
    records = [read_record(picture) for picture in sorted(data.glob("sessions/*/pictures/*.png"))]
    assert [record and record.loaded.lora for record in records] == [f"{home / 'a.safetensors'}:0.5"] * 2 + [None]


def test_a_bad_profile_does_not_lock_the_session(script: Script, home: Path) -> None:
    (home / "bad.toml").write_text("num_steps = 0\n")
    outcome = script("a cat", "/profile bad.toml", "/again")
    assert outcome.code == 1
    assert "bad.toml" in outcome.stderr
    assert len(outcome.stdout.splitlines()) == 2
    (home / "good.toml").write_text("num_steps = 3\n")
    assert script("/profile good.toml", options=("--continue",)).code == 0
    (home / "good.toml").write_text("num_steps = 0\n")
    outcome = script("/profile none", "/again", options=("--continue",))
    assert outcome.code == 0, outcome.stderr
    assert "good.toml" in outcome.stderr


def test_the_profile_of_the_start_can_be_disabled(script: Script) -> None:
    outcome = script("a cat", "/profile none", "/again", "/profile", options=("--profile", "draft"))
    assert [request.settings.num_steps for request in script.requests] == [20, 4]
    assert "profile: none" in outcome.stderr


def test_a_single_side_leaves_the_other_unchanged(script: Script) -> None:
    script("/set size 64x96", "a cat --width 128", "/again")
    assert [request.settings.size for request in script.requests] == ["128x96", "128x96"]
    script("a cat", options=("--width", "128"))
    assert script.requests[0].settings.size == "128x64"


def test_a_turn_reads_and_merges_its_settings_once(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    merges: dict[str, int] = {}
    begun: list[str] = []
    run_line, resolve = Repl.run_line, Layers.resolve

    def counted_run_line(self: Repl, typed: str) -> bool:
        begun.append(typed)
        return run_line(self, typed)

    def counted(self: Layers, *arguments: object) -> object:
        if begun:
            merges[begun[-1]] = merges.get(begun[-1], 0) + 1
        return resolve(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Repl, "run_line", counted_run_line)
    monkeypatch.setattr(Layers, "resolve", counted)
    lines = ("a cat", "make it red --seed 9", "make it blue -n 2 -o blue.png", "? what is this?", "/chat hello")
    outcome = script(*lines)
    assert outcome.code == 0, outcome.stderr
    assert merges == dict.fromkeys(lines, 1)


def test_load_settings_of_a_session_reload_the_model(script: Script) -> None:
    outcome = script(
        "a cat", "/set offload layers", "make it red", "/set num_steps 3", "a dog", "/unset offload", "a bird"
    )
    assert outcome.code == 0, outcome.stderr
    program = script.program
    assert [loaded.offload for loaded in program.loaded] == ["auto", "layers", "auto"]
    assert [len(engine.requests) for engine in program.engines] == [1, 2, 1]
    assert [engine.closed for engine in program.engines] == [True, True, False]
    # The setting belongs to the session, and the records of its pictures contain it.
    script("/set quantization fp8", "a cat", options=("--session", "eight"))
    outcome = script("a dog", options=("--session", "eight"))
    assert program.loaded[-1].quantization == "fp8"
    record = read_record(Path(outcome.stdout.strip()))
    assert record is not None and record.loaded.quantization == "fp8"


def test_a_profile_with_load_settings_reloads_the_model(script: Script) -> None:
    script("a cat", "/profile gpu-8gb", "a dog", "/profile none", "a bird")
    assert [loaded.gpu_memory for loaded in script.program.loaded] == [None, "7GiB", None]


def test_a_session_recovers_from_a_bad_lora(script: Script, home: Path) -> None:
    load = script.program.load

    def refuse(settings: LoadSettings, **options: object) -> object:
        if settings.lora == "bad.safetensors":
            raise CheckpointError("bad.safetensors cannot be read as a LoRA", "fetch the file again")
        return load(settings, **options)  # type: ignore[arg-type]

    model.opening.open_engine = refuse  # type: ignore[assignment]  # `program` puts it back
    save_file({"a": np.zeros(1, np.float32)}, home / "bad.safetensors")
    outcome = script("a cat", "/lora off", "a dog", options=("--lora", "bad.safetensors"))
    assert "bad.safetensors cannot be read as a LoRA" in outcome.stderr
    (path,) = outcome.stdout.splitlines()
    record = read_record(Path(path))
    assert record is not None and record.loaded.lora is None


def test_contradicting_settings_are_an_error_at_the_start(script: Script) -> None:
    outcome = script("a cat", options=("--cache", "fast", "--gpus", "2"))
    assert outcome.code == 2
    assert "--cache fast is for one GPU" in outcome.stderr
    assert script.program.engines == []


def test_a_model_is_loaded_before_the_other_one_is_let_go(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensenova_cli.repl.session_turns.has_room", lambda settings, size: True)
    load, order = script.program.load, []

    def watch(settings: LoadSettings, **options: object) -> object:
        order.append([engine.closed for engine in script.program.engines])
        return load(settings, **options)  # type: ignore[arg-type]

    model.opening.open_engine = watch  # type: ignore[assignment]  # `program` puts it back
    outcome = script("a cat", "/model demo", "/again")
    assert outcome.code == 0, outcome.stderr
    assert order == [[], [False]]
    assert [engine.closed for engine in script.program.engines] == [True, False]
    assert "memory is too small" not in outcome.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./gone", "there is no checkpoint folder ./gone"),
        ("dmo", "there is no folder 'dmo' here, and it is not a Hub id"),
        ("empty", "the folder empty is not a checkpoint"),
        ("damaged", "damaged: "),
    ],
)
@pytest.mark.parametrize("room", [True, False])
def test_a_model_that_cannot_be_loaded_changes_nothing(
    script: Script, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str, room: bool
) -> None:
    monkeypatch.setattr("sensenova_cli.repl.session_turns.has_room", lambda settings, size: room)
    (home / "empty").mkdir()
    (home / "damaged").mkdir()
    (home / "damaged" / "config.json").write_text("{}")
    outcome = script("a cat", f"/model {name}", "/again", "/model")
    assert outcome.code == 1
    assert message in outcome.stderr
    checkpoint = str(script.program.loaded[0].model)
    assert f"the model is still {checkpoint}" in outcome.stderr
    assert f"model: {checkpoint}" in outcome.stderr
    (engine,) = script.program.engines
    assert len(engine.requests) == 2 and not engine.closed


@pytest.mark.parametrize("room", [True, False])
def test_after_a_failed_load_the_model_before_draws(
    script: Script, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    monkeypatch.setattr("sensenova_cli.repl.session_turns.has_room", lambda settings, size: room)
    load = script.program.load

    def refuse(settings: LoadSettings, **options: object) -> object:
        if settings.model == "demo":
            raise CheckpointError("a shard is truncated", "download it again")
        return load(settings, **options)  # type: ignore[arg-type]

    model.opening.open_engine = refuse  # type: ignore[assignment]  # `program` puts it back
    outcome = script("a cat", "/model demo", "/again")
    assert outcome.code == 1
    assert "error: a shard is truncated\nhint: download it again; the model is still" in outcome.stderr
    assert len(outcome.stdout.splitlines()) == 2
    assert ("memory is too small for two models" in outcome.stderr) is not room
    assert len(script.program.engines) == (1 if room else 2)
