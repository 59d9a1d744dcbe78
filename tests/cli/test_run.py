"""`sensenova run`: the documented commands of vLLM-Omni's example script work with the name replaced."""

from pathlib import Path

import pytest
from PIL import Image

from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.requests import AnswerRequest, EditRequest, GenerateRequest
from tests.cli.harness import Program


@pytest.fixture(autouse=True)
def pictures(home: Path) -> None:
    for name in ("input.png", "photo.jpg", "style_ref.png", "content_ref.png", "portrait.jpg"):
        Image.new("RGB", (96, 64), "red").save(home / name)


def test_text_to_image_with_the_scripts_default_prompt(program: Program, home: Path) -> None:
    outcome = program("run")
    assert outcome.stdout == "sensenova_u1_output_0.png\n"
    assert program.request.prompt == "A cute cat sitting on a windowsill, soft natural light"
    assert isinstance(program.request, GenerateRequest)


def test_an_image_makes_it_an_edit_of_the_default_size(program: Program, home: Path) -> None:
    program("run", "--prompt", "Turn this into an oil painting", "--image", "input.png", "--think")
    assert isinstance(program.request, EditRequest)
    assert Image.open(home / "sensenova_u1_output_0.png").size == (64, 64)


def test_several_images_after_one_flag(program: Program) -> None:
    words = ["--image", "style_ref.png", "content_ref.png", "--width", "128", "--height", "64", "--think"]
    assert program("run", "--prompt", "Combine Image-1 and Image-2", *words).code == 0
    assert len(program.request.images) == 2
    assert program.request.settings.size == "128x64"


def test_both_guidance_scales(program: Program) -> None:
    words = "--image portrait.jpg --cfg-scale 4.0 --img-cfg-scale 2.0 --think"
    program("run", "--prompt", "Make the person smile", *words.split())
    assert (program.request.settings.cfg_scale, program.request.settings.img_cfg_scale) == (4.0, 2.0)


def test_image_to_text(program: Program) -> None:
    outcome = program("run", "--modality", "img2text", "--prompt", "Describe this", "--image", "photo.jpg")
    assert outcome.stdout == "It is a cat.\n"
    assert isinstance(program.request, AnswerRequest)
    assert len(program.request.images) == 1


def test_text_to_text(program: Program) -> None:
    outcome = program("run", "--modality", "text2text", "--prompt", "What is the capital of France?")
    assert outcome.stdout == "It is a cat.\n"


@pytest.mark.parametrize(
    ("words", "size", "notices"),
    [
        ("--width 160 --height 105", "160x96", ["105 is rounded to 96, a multiple of 32"]),
        ("--width 129 --height 95", "128x96", ["129 is rounded to 128", "95 is rounded to 96"]),
        ("--size 65x97", "64x96", ["65 is rounded to 64", "97 is rounded to 96"]),
        ("--size 65×97", "64x96", ["65 is rounded to 64", "97 is rounded to 96"]),
        ("--height 95", "64x96", ["95 is rounded to 96"]),
        ("--width 5", "32x64", ["5 is rounded to 32"]),
        ("--width 2560 --height 1669", "2560x1664", ["1669 is rounded to 1664"]),
        ("--width 128 --height 96", "128x96", []),
    ],
)
def test_sides_are_rounded_with_a_notice(program: Program, words: str, size: str, notices: list[str]) -> None:
    outcome = program("run", *words.split(), "--num-steps", "1")
    assert outcome.code == 0
    assert program.request.settings.size == size
    assert outcome.stderr.count("is rounded to") == len(notices)
    assert all(f"note: {notice}" in outcome.stderr for notice in notices)
    assert "rounded" not in program("run", *words.split(), "-q").stderr


@pytest.mark.parametrize("words", [("generate", "x"), ("edit", "x", "--image", "input.png")])
def test_other_commands_refuse_such_sides(program: Program, words: tuple[str, ...]) -> None:
    outcome = program(*words, "--width", "2560", "--height", "1669")
    assert outcome.code == 2
    assert "try 2560x1664 or 2560x1696" in outcome.stderr
    assert program.engines == []


@pytest.mark.parametrize("sides", ["--width 0 --height 64", "--width -64", "--width 9999999 --height 9999999"])
def test_sides_that_no_rounding_makes_valid(program: Program, sides: str) -> None:
    outcome = program("run", *sides.split())
    assert outcome.code == 2
    assert "hint: try" in outcome.stderr


def test_sides_that_are_refused_are_not_rounded(program: Program) -> None:
    outcome = program("run", "--size", "0x90")
    assert outcome.code == 2
    assert "rounded" not in outcome.stderr and "0x90" in outcome.stderr


@pytest.mark.parametrize("option", ["--request-rate", "--max-num-seqs", "--port"])
def test_options_of_servers_are_refused_by_name(program: Program, option: str) -> None:
    outcome = program("run", "--prompt", "x", option, "2")
    assert outcome.code == 2
    assert f"run has no option {option}" in outcome.stderr
    assert "a run is one request" in outcome.stderr


def test_the_documented_command_of_the_scripts_own_test(program: Program, home: Path) -> None:
    words = (
        "--width 1536 --height 2720 --seed 42 --num-steps 50 --cfg-scale 4.0 --timestep-shift 3.0 --cfg-norm none "
        "--think --print-think --output outputs"
    )
    outcome = program("run", "--prompt", "Close portrait", *words.split())
    assert outcome.stdout.splitlines()[-1] == "outputs/sensenova_u1_output_0.png"
    assert outcome.stdout.startswith("A cat sits.\n")
    assert program.request.settings.num_steps == 50


def test_earlier_pictures_are_kept_unless_forced(program: Program, home: Path) -> None:
    program("run", "--output", "out", "--seed", "1")
    first = (home / "out" / "sensenova_u1_output_0.png").read_bytes()
    assert program("run", "--output", "out", "-n", "2").stdout.split() == [
        "out/sensenova_u1_output_1.png",
        "out/sensenova_u1_output_2.png",
    ]
    assert (home / "out" / "sensenova_u1_output_0.png").read_bytes() == first
    assert program("run", "--output", "out", "-f").stdout == "out/sensenova_u1_output_0.png\n"
    assert (home / "out" / "sensenova_u1_output_0.png").read_bytes() != first


@pytest.mark.parametrize(("output", "folder"), [("out/{slug}-{seed}.png", "out"), ("pictures/", "pictures")])
def test_the_folder_of_a_configured_output_is_used(program: Program, home: Path, output: str, folder: str) -> None:
    (home / "sensenova.toml").write_text(f'output = "{output}"\n')
    assert program("run", "--prompt", "x").stdout == f"{folder}/sensenova_u1_output_0.png\n"


def test_a_configured_output_without_a_fixed_folder(program: Program, home: Path) -> None:
    (home / "sensenova.toml").write_text('output = "{slug}/{seed}.png"\n')
    outcome = program("run", "--prompt", "x")
    assert outcome.code == 2
    assert "--output FOLDER" in outcome.stderr


def test_a_folder_with_braces_in_its_name(program: Program, home: Path) -> None:
    assert program("run", "--output", "{x}").stdout == "{x}/sensenova_u1_output_0.png\n"


def test_the_demo_is_the_default_as_for_other_commands(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSENOVA_MODEL")
    outcome = program("run")
    assert outcome.code == 0
    assert "Using the built-in demo" in outcome.stderr
    assert program.engines[0].checkpoint == DEMO_CHECKPOINT


def test_the_scripts_model_has_a_short_name(program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cards = []
    folder = tmp_path / "checkpoint"
    monkeypatch.setattr("model.checkpoint.card.find_card", lambda model: cards.append(model) or folder)
    program.folder = folder
    assert program("run", "--model", "u1-8b").code == 0
    assert cards == ["SenseNova/SenseNova-U1-8B-MoT"] == [loaded.model for loaded in program.loaded]


def test_options_without_effect_on_a_modality_are_named(program: Program) -> None:
    assert "note: --temperature: no effect with text2img" in program("run", "--temperature", "0.5").stderr
    outcome = program("run", "--modality", "text2text", "--num-steps", "3", "--seed", "1")
    assert "note: --num-steps: no effect with text2text" in outcome.stderr


@pytest.mark.parametrize("words", [["--modality", "img2img"], ["--modality", "img2text"]])
def test_a_modality_without_its_picture(program: Program, words: list[str]) -> None:
    outcome = program("run", *words)
    assert outcome.code == 2
    assert "needs a picture" in outcome.stderr


def test_a_picture_that_the_modality_would_ignore(program: Program) -> None:
    outcome = program("run", "--modality", "text2img", "--image", "input.png")
    assert outcome.code == 2
    assert "hint: use --modality img2img" in outcome.stderr


@pytest.mark.parametrize("command", [["run"], ["generate", "x"], ["edit", "x", "--image", "input.png"]])
def test_an_unsupported_cache_is_refused(program: Program, command: list[str]) -> None:
    outcome = program(*command, "--cache-backend", "tea_cache")
    assert outcome.code == 2
    assert "--cache-backend tea_cache is not supported: steps are cached by cache_dit" in outcome.stderr
    assert program.engines == []


@pytest.mark.parametrize("words", [["--deploy-config", "vllm_omni/deploy/sensenova_u1.yaml"], ["--step-execution"]])
def test_unsupported_options_of_the_script_are_refused_with_a_reason(program: Program, words: list[str]) -> None:
    outcome = program("run", *words)
    assert outcome.code == 2
    assert f"{words[0]} is not supported" in outcome.stderr
    assert program.engines == []


@pytest.mark.parametrize(
    "command",
    ["generate x", "edit x --image input.png", "describe input.png", "chat x", "repl", "bench", "doctor", "info x"],
)
@pytest.mark.parametrize("option", ["--deploy-config", "--step-execution"])
def test_other_commands_do_not_have_the_unsupported_options(program: Program, command: str, option: str) -> None:
    outcome = program(*command.split(), option)
    assert outcome.code == 2
    assert f"no such option: {option}" in outcome.stderr.lower()
    assert option not in program(command.split()[0], "--help").stdout
    assert program.engines == []


def test_options_for_several_gpus_reach_the_loader(program: Program) -> None:
    assert program("run", "--tensor-parallel-size", "2", "--cfg-parallel-size", "3").code == 0
    loaded = program.loaded[-1]
    assert (loaded.tensor_parallel_size, loaded.cfg_parallel_size) == (2, 3)


@pytest.mark.parametrize("words", [["--modality", "text2text"], ["--cfg-scale", "1"], []])
def test_gpus_and_request_reach_the_loader(program: Program, words: list[str]) -> None:
    assert program("run", "--gpus", "all", *words).code == 0
    assert program.loaded[-1].gpus == "all"
    assert program.loaded_for == [[program.request]]


def test_the_scripts_cache_is_the_usual_preset(program: Program) -> None:
    outcome = program("run", "--cache-backend", "cache_dit", "--enable-cache-dit-summary")
    assert outcome.code == 0
    assert program.request.settings.cache == "balanced"
    assert "50 % of the layers computed" in outcome.stderr


def test_texts_have_nothing_to_cache(program: Program) -> None:
    words = ("--cache-backend", "cache_dit", "--enable-cache-dit-summary")
    outcome = program("run", "--modality", "text2text", *words)
    assert outcome.code == 0
    assert "--enable-cache-dit-summary, --cache: no effect with text2text" in outcome.stderr
