"""`sensenova generate`: requests, files and output."""

import json
import os
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.render import progress, run_progress, turn_view
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import Program


def set_clock(monkeypatch: pytest.MonkeyPatch, elapsed: list[float]) -> None:
    """Let progress pass the sum of some seconds, instead of real ones."""
    clock = SimpleNamespace(perf_counter=lambda: sum(elapsed))
    for module in (progress, run_progress, turn_view):
        monkeypatch.setattr(module, "time", clock)


def test_path_on_stdout_and_the_rest_on_stderr(program: Program, home: Path) -> None:
    outcome = program("generate", "A cute cat", "--seed", "7")
    assert outcome.code == 0
    assert outcome.stdout == "a-cute-cat-7.png\n"
    assert "3.0 s · 4 steps" in outcome.stderr
    assert Image.open(home / "a-cute-cat-7.png").size == (64, 64)


def test_a_line_of_statistics_ends_a_run(program: Program) -> None:
    last = program("generate", "x").stderr.splitlines()[-1]
    assert last == "3.0 s · 4 steps, 2.00 steps/s · peak memory 1.4 GiB on cpu"


def test_quiet_prints_nothing(program: Program) -> None:
    assert program("generate", "x", "-q").stderr == ""


def test_a_pipe_gets_a_line_at_the_start_each_quarter_and_the_end(program: Program) -> None:
    lines = [line for line in program("generate", "x", "--num-steps", "40").stderr.splitlines() if "picture:" in line]
    assert [line.split(",")[0] for line in lines] == [
        "picture: 40 steps",
        "picture: step 10 of 40",
        "picture: step 20 of 40",
        "picture: step 30 of 40",
        "picture: step 40 of 40",
    ]


def test_each_picture_is_announced_before_its_first_step(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rate counts its own steps, including the first one, but not the prefill."""
    elapsed: list[float] = []
    set_clock(monkeypatch, elapsed)

    def prepare(engine: FakeEngine) -> None:
        engine.on_step = lambda number: elapsed.append(10.0)

    program.prepare = prepare
    lines = program("generate", "x", "-n", "2", "--num-steps", "2").stderr.splitlines()
    shown = [line for line in lines if line.startswith("picture")]
    assert [line.split(",")[0] for line in shown] == [
        f"picture {number} of 2: {what}" for number in (1, 2) for what in ("2 steps", "step 1 of 2", "step 2 of 2")
    ]
    assert [line.split(", ")[1] for line in shown if "step 1 of" in line] == ["0.10 steps/s"] * 2


def test_short_work_prints_no_progress_in_a_pipe(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of the first ten seconds are held back, and dropped if the work ends before."""
    elapsed: list[float] = []
    seconds = 0.9

    def prepare(engine: FakeEngine) -> None:
        engine.on_step = lambda number: elapsed.append(seconds)

    program.prepare = prepare
    monkeypatch.setattr(progress, "SHORT_SECONDS", 10.0)
    set_clock(monkeypatch, elapsed)
    assert "picture" not in (shown := program("generate", "x", "--num-steps", "8").stderr)
    assert "loading" not in shown
    elapsed.clear()
    seconds = 3.0
    lines = [
        line for line in program("generate", "x", "--num-steps", "8").stderr.splitlines() if line.startswith("picture")
    ]
    assert lines[:2] == ["picture: 8 steps", "picture: step 2 of 8, 0.33 steps/s, 18 s left"]
    assert lines[-1] == "picture: step 8 of 8, 0.33 steps/s, 24.0 s"


def test_the_time_left_is_that_of_the_run(program: Program, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It includes all pictures of -n."""
    elapsed: list[float] = []
    set_clock(monkeypatch, elapsed)

    def prepare(engine: FakeEngine) -> None:
        engine.on_step = lambda number: elapsed.append(10.0)

    program.prepare = prepare
    lines = program("generate", "a", "-n", "2", "--num-steps", "4").stderr.splitlines()
    left = [line.rsplit(", ", 1)[1] for line in lines if ": step " in line]
    assert left == [
        "1 min 10 s left in all", "1 min 00 s left in all", "50 s left in all", "40 s left in all",
        "30 s left", "20 s left", "10 s left", "40.0 s",
    ]  # fmt: skip
    elapsed.clear()
    (home / "p.jsonl").write_text('{"prompt": "a", "num_images": 2}\n{"prompt": "b", "num_steps": 8}\n')
    lines = program("generate", "--prompt-file", "p.jsonl", "--num-steps", "4").stderr.splitlines()
    assert [line for line in lines if "3 pictures" in line] == [
        "3 pictures",
        "3 pictures: 1 of 3, 2 min 00 s left",
        "3 pictures: 2 of 3, 1 min 20 s left",
        "3 pictures: 3 of 3, 40 s left",
        "3 pictures: 3 of 3, 2 min 40 s",
        "3 pictures in 2 min 40 s",
    ]


def test_a_notice_is_printed_once_for_many_prompts(program: Program, home: Path) -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.notice = "an odd size"

    program.prepare = prepare
    (home / "p.txt").write_text("one\ntwo\nthree\n")
    assert program("generate", "--prompt-file", "p.txt").stderr.count("an odd size") == 1


def test_a_piped_prompt_needs_no_dash(program: Program) -> None:
    assert program("generate", stdin="a cat\n").stdout == "a-cat-42.png\n"
    assert program("generate", "a dog", stdin="a cat\n").stdout == "a-dog-42.png\n"
    outcome = program("generate", stdin=" \n")
    assert outcome.code == 2 and "there is no prompt" in outcome.stderr


def test_steps_is_the_same_as_num_steps(program: Program) -> None:
    assert program("generate", "x", "--steps", "3").code == 0
    assert program.request.settings.num_steps == 3
    assert "--steps" in program("generate", "x", "--step", "3").stderr
    Path("p.toml").write_text("steps = 3\n")
    assert "did you mean num_steps?" in program("generate", "x", "--profile", "./p.toml").stderr


def test_objects_on_standard_input_are_a_prompt_file_of_objects(program: Program) -> None:
    content = b'# two\n{"prompt": "a cat", "seed": 7}\n{"prompt": "a dog"}\n'
    assert program("generate", "--prompt-file", "-", stdin=content).stdout == "a-cat-7.png\na-dog-42.png\n"


def test_every_option_reaches_the_engine(program: Program) -> None:
    words = (
        "--size 96x64 --seed 3 -n 2 --num-steps 9 --cfg-scale 5 --cfg-norm global --cfg-interval 0.1 0.9 "
        "--negative dogs --timestep-shift 2 --t-eps 0.05 --think --max-think-tokens 3 --noise cpu "
        "--cfg-every 3 --cfg-stop 0.05 --cache fast --cache-threshold 0.2 "
        "--cache-warmup-steps 1 --cache-longest-run 2 --cache-first-layers 3 --cache-last-layers 4 "
        "--cache-taylor-order 0"
    )
    program("generate", "x", *words.split())
    settings = program.request.settings
    assert settings.model_dump(exclude={"img_cfg_scale", "input_pixels", "half_size_until"}) == {
        "size": "96x64",
        "seed": 3,
        "num_images": 2,
        "num_steps": 9,
        "cfg_scale": 5.0,
        "negative": "dogs",
        "cfg_norm": "global",
        "cfg_interval": (0.1, 0.9),
        "cfg_every": 3,
        "cfg_stop": 0.05,
        "timestep_shift": 2.0,
        "t_eps": 0.05,
        "think": True,
        "max_think_tokens": 3,
        "noise": "cpu",
        "cache": "fast",
        "cache_threshold": 0.2,
        "cache_warmup_steps": 1,
        "cache_longest_run": 2,
        "cache_first_layers": 3,
        "cache_last_layers": 4,
        "cache_taylor_order": 0,
    }


def test_flags_override_the_environment_which_overrides_the_checkpoint(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("generate", "x")
    assert program.request.settings.num_steps == 4
    monkeypatch.setenv("SENSENOVA_NUM_STEPS", "6")
    program("generate", "x")
    assert program.request.settings.num_steps == 6
    program("generate", "x", "--num-steps", "8")
    assert program.request.settings.num_steps == 8


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("--width 128 --height 64", "128x64"),
        ("--width 128", "128x64"),
        ("--height 96", "64x96"),
        ("--aspect 3:2", "3:2"),
        ("--size 64x96", "64x96"),
    ],
)
def test_ways_to_give_a_size(program: Program, words: str, size: str) -> None:
    assert program("generate", "x", *words.split(), "-q").code == 0
    assert program.request.settings.size == size


def test_a_single_side_gets_the_other_from_lower_layers(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSENOVA_SIZE", "64x96")
    program("generate", "x", "--width", "128")
    assert program.request.settings.size == "128x96"


def test_a_single_side_gets_the_other_from_a_replayed_picture(program: Program) -> None:
    program("generate", "x", "--size", "64x96", "-o", "first.png")
    program("generate", "--from", "first.png", "--width", "128")
    assert program.request.settings.size == "128x96"


@pytest.mark.parametrize("words", ["--width 100", "--height 0", "--width -64", "--height many"])
def test_an_invalid_single_side(program: Program, words: str) -> None:
    outcome = program("generate", "x", *words.split())
    assert outcome.code == 2
    assert outcome.stderr.startswith(f"error: {words}: must be a")
    assert not program.engines


def test_a_line_of_a_prompt_file_overrides_flags(program: Program, home: Path) -> None:
    (home / "p.jsonl").write_text('{"prompt": "a", "seed": 7, "size": "64x96"}\n{"prompt": "b"}\n')
    program("generate", "--prompt-file", "p.jsonl", "--seed", "99", "--width", "128")
    settings = [request.settings for request in program.engines[-1].requests]
    assert [(each.seed, each.size) for each in settings] == [(7, "64x96"), (99, "128x64")]


def test_the_checkpoint_may_recommend_several_pictures(
    program: Program, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Path(os.environ["SENSENOVA_MODEL"])
    (checkpoint / "recommended_settings.json").write_text('{"settings": {"num_images": 2, "size": "64x64"}}')
    outcome = program("generate", "x", "-o", "cat.png")
    assert outcome.stdout.split() == ["cat-0.png", "cat-1.png"]


def test_the_number_format_is_recorded(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("generate", "x", "--dtype", "float32", "-o", "first.png")
    record = read_record(Path("first.png"))
    assert record is not None
    assert record.loaded.dtype == "float32"


def test_a_record_names_the_number_format_that_was_used(program: Program) -> None:
    """`auto` depends on the device, so a record of `auto` could not be repeated on another one."""
    program.prepare = lambda engine: setattr(engine, "dtype", "float32")
    program("generate", "x", "-o", "first.png")
    program("generate", "--from", "first.png", "-o", "again.png")
    assert [settings.dtype for settings in program.loaded] == ["auto", "float32"]
    assert Path("again.png").read_bytes() == Path("first.png").read_bytes()


def test_the_quantization_is_replayed(program: Program) -> None:
    program("generate", "x", "--quantization", "fp8", "-o", "first.png")
    record = read_record(Path("first.png"))
    assert record is not None and record.loaded.quantization == "fp8"
    program("generate", "--from", "first.png", "-o", "again.png")
    assert Path("again.png").read_bytes() == Path("first.png").read_bytes()
    assert program.loaded[-1].quantization == "fp8"
    program("generate", "--from", "first.png", "--no-quantization", "--enforce-eager", "-o", "other.png")
    assert program.loaded[-1].quantization == "off" and program.loaded[-1].enforce_eager


def test_loras_are_recorded_with_absolute_paths(program: Program, home: Path) -> None:
    save_file({"x": torch.ones(1)}, "a.safetensors", metadata={"num_inference_steps": "3"})
    save_file({"x": torch.ones(1)}, "b.safetensors")
    both = ("--lora", "a.safetensors", "--lora", "b.safetensors:0.5")
    assert program("generate", "x", *both, "-o", "first.png").code == 0
    assert program.loaded[-1].lora == "a.safetensors, b.safetensors:0.5"
    assert program.request.settings.num_steps == 3
    record = read_record(Path("first.png"))
    assert record is not None
    assert record.loaded.lora == f"{home / 'a.safetensors'}, {home / 'b.safetensors'}:0.5"
    program("generate", "--from", "first.png", "--trust-record", "-o", "again.png")
    assert program.loaded[-1].lora == record.loaded.lora
    assert Path("again.png").read_bytes() == Path("first.png").read_bytes()


def test_a_picture_without_loras_is_replayed_without(program: Program, home: Path) -> None:
    save_file({"x": torch.ones(1)}, "a.safetensors")
    program("generate", "x", "-o", "first.png")
    (home / "p.toml").write_text('lora = "a.safetensors"\n')
    program("generate", "x", "--profile", "./p.toml")
    assert program.loaded[-1].lora == "a.safetensors"
    for words in (["--from", "first.png"], ["x", "--lora", "off"]):
        program("generate", *words, "--profile", "./p.toml")
        assert program.loaded[-1].lora == "off"


def test_a_missing_lora(program: Program) -> None:
    outcome = program("generate", "x", "--lora", "none.safetensors")
    assert outcome.code == 3
    assert "error: there is no LoRA file none.safetensors" in outcome.stderr
    assert program("generate", "x", "--lora", "").code == 2


def test_a_flag_disables_a_setting_of_a_profile(program: Program, home: Path) -> None:
    (home / "p.toml").write_text("think = true\n")
    program("generate", "x", "--profile", "./p.toml")
    assert program.request.settings.think
    program("generate", "x", "--profile", "./p.toml", "--no-think")
    assert not program.request.settings.think


def test_several_pictures_have_consecutive_seeds(program: Program, home: Path) -> None:
    outcome = program("generate", "x", "-n", "3", "-o", "out/{index}-{seed}.png")
    assert outcome.stdout.split() == ["out/0-42.png", "out/1-43.png", "out/2-44.png"]
    assert "picture 3 of 3: step 4 of 4" in outcome.stderr


def test_nothing_is_overwritten_unless_forced(program: Program, home: Path) -> None:
    program("generate", "x", "-o", "a.png")
    before = (home / "a.png").read_bytes()
    outcome = program("generate", "x", "-o", "a.png", "--seed", "9")
    assert (outcome.code, (home / "a.png").read_bytes()) == (2, before)
    assert "-f" in outcome.stderr
    assert len(program.engines) == 1, "the model was loaded although the file existed"
    assert program("generate", "x", "-o", "a.png", "--seed", "9", "-f").code == 0
    assert (home / "a.png").read_bytes() != before


def test_png_bytes_on_stdout(program: Program, home: Path) -> None:
    outcome = program("generate", "x", "-o", "-")
    assert Image.open(BytesIO(outcome.stdout_bytes)).size == (64, 64)
    assert list(home.iterdir()) == []


def test_json_has_what_a_script_needs(program: Program) -> None:
    outcome = program("generate", "A cat", "--json", "-n", "2", "--think")
    first, second = (json.loads(line) for line in outcome.stdout.splitlines())
    assert (first["path"], first["seed"], second["seed"]) == ("a-cat-42.png", 42, 43)
    assert (first["size"], first["prompt"], first["task"]) == ("64x64", "A cat", "generate")
    assert first["think_text"] == "A cat sits.\nIt purrs."
    assert first["settings"]["num_steps"] == 4
    assert first["seconds"] >= 0


def test_think_text_is_printed_on_stderr_with_its_length(program: Program) -> None:
    outcome = program("generate", "x", "--think")
    assert outcome.stdout == "x-42.png\n"
    assert "A cat sits.\nIt purrs.\nthought for 0.5 s (4 tokens)\n" in outcome.stderr


def test_think_text_can_be_hidden(program: Program) -> None:
    outcome = program("generate", "x", "--think", "--hide-think")
    assert "purrs" not in outcome.stdout + outcome.stderr
    assert "thought for 0.5 s (4 tokens)" in outcome.stderr


def test_think_text_can_be_printed_on_stdout_before_the_path(program: Program) -> None:
    outcome = program("generate", "x", "--think", "--print-think")
    assert outcome.stdout == "A cat sits.\nIt purrs.\nx-42.png\n"
    assert "purrs" not in outcome.stderr


def test_a_notice_says_that_think_text_was_cut_off(program: Program) -> None:
    assert "--max-think-tokens" in program("generate", "x", "--think", "--max-think-tokens", "2").stderr


def test_notices_of_the_engine_are_shown(program: Program) -> None:
    program.prepare = lambda engine: setattr(engine, "notice", "64x64 is not a size this model was trained on")
    assert "note: 64x64 is not a size" in program("generate", "x").stderr


def test_a_picture_is_replayed(program: Program, home: Path) -> None:
    program("generate", "A cat", "--seed", "5", "--num-steps", "7", "--size", "96x64", "-o", "a.png", "--think")
    outcome = program("generate", "--from", "a.png", "-o", "b.png", "--json")
    assert outcome.code == 0, outcome.stderr
    assert (home / "a.png").read_bytes() == (home / "b.png").read_bytes()
    assert json.loads(outcome.stdout)["settings"]["num_steps"] == 7


def test_the_second_of_several_pictures_is_replayed(program: Program, home: Path) -> None:
    program("generate", "A cat", "-n", "2", "-o", "{index}.png")
    assert program("generate", "--from", "1.png", "-o", "again.png").code == 0
    assert (home / "again.png").read_bytes() == (home / "1.png").read_bytes()


def test_flags_override_the_replayed_picture(program: Program, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program("generate", "A cat", "--seed", "5", "--num-steps", "7", "-o", "a.png")
    monkeypatch.setenv("SENSENOVA_NUM_STEPS", "3")
    program("generate", "A dog", "--from", "a.png", "--seed", "6", "-o", "b.png")
    record = read_record(home / "b.png")
    assert record is not None
    assert (record.prompt, record.settings.seed, record.settings.num_steps) == ("A dog", 6, 7)


def test_metadata_can_be_left_out(program: Program, home: Path) -> None:
    program("generate", "x", "--no-metadata", "-o", "a.png")
    assert read_record(home / "a.png") is None


def test_prompts_from_a_file(program: Program, home: Path) -> None:
    (home / "prompts.txt").write_text("# animals\nA cat\n\nA dog\n")
    assert program("generate", "--prompt-file", "prompts.txt").stdout.split() == ["a-cat-42.png", "a-dog-42.png"]


def test_prompts_with_settings_of_their_own(program: Program, home: Path) -> None:
    (home / "p.jsonl").write_text(
        '{"prompt": "A cat", "seed": 1}\n{"prompt": "A dog", "size": "64x96", "num_images": 2}\n'
    )
    outcome = program("generate", "--prompt-file", "p.jsonl", "--seed", "5", "-o", "{index}-{slug}-{seed}.png")
    assert outcome.stdout.split() == ["0-a-cat-1.png", "1-a-dog-5.png", "2-a-dog-6.png"]
    assert Image.open(home / "1-a-dog-5.png").size == (64, 96)


def test_the_same_prompt_twice_in_a_file_makes_two_pictures(program: Program, home: Path) -> None:
    (home / "p.txt").write_text("A cat\nA cat\n")
    assert program("generate", "--prompt-file", "p.txt").stdout.split() == ["a-cat-42.png", "a-cat-42-2.png"]


@pytest.mark.parametrize("words", [["-"], ["--prompt", "-"], ["--prompt-file", "-"]])
def test_a_prompt_from_standard_input(program: Program, words: list[str]) -> None:
    assert program("generate", *words, stdin="Un été\n").stdout == "un-été-42.png\n"
    assert program.request.prompt == "Un été"
