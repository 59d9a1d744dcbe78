"""Every failure: the message says what is wrong, where, and what to type next; exit codes are fixed."""

import os
from pathlib import Path

import pytest
from PIL import Image

from config.errors import SenseNovaError, SettingsError
from model import open_engine
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.errors import CheckpointError, DeviceError, DeviceMemoryError, PictureError, RequestError
from sensenova_cli.errors import OutputError, OutputWriteError, UsageError, exit_code
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import Program


@pytest.fixture(autouse=True)
def picture(home: Path) -> None:
    Image.new("RGB", (96, 64)).save(home / "a.png")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError, 2),
        (SettingsError, 2),
        (RequestError, 2),
        (PictureError, 2),
        (DeviceError, 2),
        (OutputError, 2),
        (CheckpointError, 3),
        (DeviceMemoryError, 4),
        (OutputWriteError, 1),
        (SenseNovaError, 1),
    ],
)
def test_exit_codes(error: type[SenseNovaError], code: int) -> None:
    assert exit_code(error("what")) == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("generate x --size 1000x1000", "both sides must be multiples of 32"),
        ("generate x --size 1000x1000", "hint: try 992x992"),
        ("generate x --size 0x64", "both sides must be positive"),
        ("generate x --width -64 --height 64", "both sides must be positive"),
        ("generate x --size 100000x100000", "the limit is"),
        ("generate x --aspect 0:1", "aspect 0:1: both sides must be positive"),
        ("generate x --aspect 300:1", "sides may differ by a factor of 200 at most\nhint: the longest is 200:1"),
        ("generate x --aspect 16:9:1", "--aspect 16:9:1 is not a ratio"),
        ("generate x --size 99999999999999999999x32", "the limit is"),
        ("generate x --aspect 16x9", "hint: write it like --aspect 16:9"),
        ("generate x --size 64x64 --width 64", "--size and --width cannot be combined"),
        ("generate x --aspect 1:1 --height 64", "--aspect and --height cannot be combined"),
        ("generate x --size 64x64 --aspect 1:1", "--size and --aspect cannot be combined"),
        ("generate x --width abc", "--width abc: must be a whole number"),
        ("generate x --num-steps 0", "--num-steps 0: must be a whole number from 1 to 1000"),
        ("generate x --cfg-scale nan", "--cfg-scale nan: must be a number"),
        ("generate x --cfg-scale inf", "--cfg-scale inf: must be a number"),
        ("generate x --max-think-tokens 0", "--max-think-tokens 0: must be"),
        ("generate x --cfg-interval 0.9 0.1", "the low end 0.9 is above the high end 0.1"),
        ("generate x --cfg-interval 0.9", "--cfg-interval"),
        ("generate x --seed", "--seed"),
        ("generate x --think --no-think", "contradict each other"),
        ("edit x --image a.png --cfg-norm cfg_zero_star", "works for generating only"),
        ("edit x", "an edit needs at least one picture"),
        ("edit --image a.png", "there is no prompt"),
        ("edit x --image missing.png", "there is no file missing.png"),
        ("edit --image a.png <image><image>", "2 <image> placeholders for 1 picture"),
        ("generate <image>", "1 <image> placeholders for 0 picture"),
        ("describe a.png -p <image><image>", "2 <image> placeholders for 1 picture"),
        ("describe missing.png", "there is no file missing.png"),
        ("generate", "there is no prompt"),
        ("generate x --prompt y", "the prompt is given more than once: as an argument and with --prompt"),
        ("generate x y", "hint: put the prompt in quotes; several short prompts go into a file: --prompt-file FILE"),
        ("generate --prompt-file missing.txt", "the prompt file missing.txt cannot be read"),
        ("generate x --device cpu0", "--device cpu0"),
        ("generate x --dtype int8", "--dtype int8: must be"),
        ("generate x --quantization int4", "--quantization int4: must be"),
        ("generate x -o a.gif", "PNG"),
        ("generate x -o - -n 2", "stdout cannot take 2 pictures"),
        ("generate x -o - --json", "both write to stdout"),
        ("generate x -o - --print-think", "both write to stdout"),
        ("generate x --from a.png", "has no record of how it was made"),
        ("edit - --image -", "can be used only once"),
        ("edit --prompt-file - --image -", "can be used only once"),
        ("chat", "there is no message"),
        ("generate x --profile nonesuch", "nonesuch"),
        ("generate x --tensor-parallel-size 0", "--tensor-parallel-size 0: must be a whole number from 1 to 64"),
        ("generate x --cfg-parallel-size 4", "--cfg-parallel-size 4: must be a whole number from 1 to 3"),
        ("generate x --tensor-parallel-size 2 --device cuda:1", "hint: use --device cuda; CUDA_VISIBLE_DEVICES"),
        (
            "generate x --tensor-parallel-size 2 --offload layers",
            "--offload layers is for one",
        ),
        ("generate x --cfg-parallel-size 2 --enable-cpu-offload", "--offload module is for one"),
        ("generate x --cfg-parallel-size 2 --gpu-memory 8GiB", "--gpu-memory is for one GPU"),
        ("generate x --cfg-parallel-size 2 --cache balanced", "--cache balanced is for one GPU"),
        ("generate x --cfg-parallel-size 2 --device mps", "--cfg-parallel-size 2: a Mac has only one GPU"),
        (
            "generate x --gpus 2 --cfg-parallel-size 2",
            "--gpus 2 chooses the sizes itself, and --tensor-parallel-size 1, --cfg-",
        ),
        ("generate x --gpus all --tensor-parallel-size 2", "hint: leave --gpus out, or the other two"),
        ("generate x --gpus -1", "--gpus -1: must be all or a whole number from 0 to 64"),
        ("generate x --gpus some", "--gpus some: must be all or a whole number"),
        ("generate x --gpus all --device cuda:1", "gpus all: --device cuda:1 is one GPU"),
        ("generate x --gpus 2 --device mps", "--gpus 2: a Mac has only one GPU\nhint: leave it out"),
        ("generate x --gpus 2 --offload layers", "--gpus 2: with several GPUs all weights stay on them"),
        ("generate x --tensor-parallel-size two", "--tensor-parallel-size two: must be a whole number"),
        ("run --modality img2txt --image a.png", "--modality img2txt is unknown\nhint: did you mean img2text?"),
        ("run --modality x", "hint: it is one of auto, text2img"),
        ("run prompt", "hint: the prompt goes after --prompt"),
        ("edit a.png make red", "several words could be the prompt: make, red\nhint: put the prompt in quotes"),
        ("chat -hello", 'hint: a text that starts with a dash goes last, after --: sensenova chat -- "-…"'),
        ("edit -z --image a.png", 'sensenova edit FILE -- "-…"'),
        ("-q generate x", "hint: options go after the command: sensenova generate -q"),
        ("--seed=7 generate x", "hint: options go after the command: sensenova generate --seed"),
        ("--bogus generate x", "hint: see: sensenova generate --help"),
        ("-q profile show", "hint: see: sensenova profile show --help"),
        ("profile show -q", "hint: see: sensenova profile show --help"),
        ("edit x --image", "--image needs a file"),
        ("generate x --cfg-interval 0.1 -o a.png", "--cfg-interval takes two numbers"),
        ("generate x --image a.png", "generate has no option --image\nhint: to change a picture: sensenova edit"),
        ("generate x --image=a.png", "sensenova edit FILE"),
        ("profile show --profile draft", "hint: the profile is a bare word here: sensenova profile show draft"),
        ("edit x --image ~no-such-user-here/a.png", "~no-such-user-here/a.png cannot be read"),
    ],
)
def test_bad_usage_is_refused_before_the_model_loads(program: Program, words: str, message: str) -> None:
    outcome = program(*words.split())
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("error: ")
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert program.engines == []


@pytest.mark.parametrize("command", ["generate", "chat"])
@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_prompt(program: Program, command: str, text: str) -> None:
    outcome = program(command, text)
    assert outcome.code == 2
    assert "is empty" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["generate", "x", "--cfg-scal", "3"], "--cfg-scale"),
        (["genrate", "x"], "generate"),
        (["generate", "x", "--cfg-norm", "globl"], "global"),
    ],
)
def test_a_near_miss_is_suggested(program: Program, words: list[str], suggestion: str) -> None:
    outcome = program(*words)
    assert outcome.code == 2
    assert suggestion in outcome.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "p.jsonl:2: this is not JSON"),
        ('{"seed": 1}', 'p.jsonl:2: this is not a JSON object with a "prompt"'),
        ('{"promt": "a"}', 'hint: write "prompt" instead of "promt"'),
        ('{"prompt": "x", "seed": null}', 'p.jsonl:2: "seed": null: must be'),
        ('{"prompt": "x", "num_stps": 3}', 'hint: did you mean "num_steps"?'),
        ('{"prompt": "x", "num_steps": 0}', 'p.jsonl:2: "num_steps": 0: must be'),
        ('{"prompt": "x", "size": "100x100"}', "both sides must be multiples of 32"),
        ('{"prompt": "x", "model": "m"}', 'p.jsonl:2: "model" may not be set here'),
        ('{"prompt": "x", "images": ["a.png"]}', "hint: did you mean image?"),
        ('{"prompt": "x", "image": 3}', 'p.jsonl:2: "image" must be a file name'),
        ('{"prompt": "x", "image": "a.png"}', "p.jsonl:2: generate takes no input pictures"),
        ('{"prompt": " "}', "p.jsonl:2: the prompt is empty"),
    ],
)
def test_a_bad_line_of_a_prompt_file_is_named(program: Program, home: Path, line: str, message: str) -> None:
    (home / "p.jsonl").write_text(f'{{"prompt": "fine"}}\n{line}\n')
    outcome = program("generate", "--prompt-file", "p.jsonl")
    assert outcome.code == 2
    assert message in outcome.stderr
    assert program.engines == []


@pytest.mark.parametrize("content", [b"", b"# only a comment\n\n", "ü".encode("latin-1")])
def test_a_prompt_file_without_a_prompt(program: Program, home: Path, content: bytes) -> None:
    (home / "p.txt").write_bytes(content)
    outcome = program("generate", "--prompt-file", "p.txt")
    assert outcome.code == 2
    assert "p.txt" in outcome.stderr


def test_a_missing_checkpoint_folder(program: Program) -> None:
    outcome = program("generate", "x", "--model", "./nowhere")
    assert outcome.code == 3
    assert "there is no checkpoint folder ./nowhere" in outcome.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError("a shard is truncated", "download it again"), 3),
        (DeviceMemoryError("out of memory", "use a smaller size"), 4),
        (DeviceError("there is no CUDA device", "use --device cpu"), 2),
    ],
)
def test_errors_while_loading(program: Program, error: SenseNovaError, code: int) -> None:
    program.load_error = error
    outcome = program("generate", "x", "-q")
    assert (outcome.code, outcome.stdout) == (code, "")
    assert outcome.stderr == f"error: {error.what}\nhint: {error.hint}\n"


def _fail_at_second_step(error: Exception) -> "type[FakeEngine] | object":
    def prepare(engine: FakeEngine) -> None:
        def on_step(number: int) -> None:
            if number == 2:
                raise error

        engine.on_step = on_step

    return prepare


def test_out_of_memory_while_running_leaves_no_file(program: Program, home: Path) -> None:
    program.prepare = _fail_at_second_step(DeviceMemoryError("out of memory", "use a smaller size"))  # type: ignore[assignment]
    outcome = program("generate", "x")
    assert outcome.code == 4
    assert sorted(path.name for path in home.iterdir()) == ["a.png"]


def test_an_unexpected_error_is_one_line_unless_debug(program: Program) -> None:
    program.prepare = _fail_at_second_step(RuntimeError("shapes differ [3, 4]"))  # type: ignore[assignment]
    outcome = program("generate", "x", "-q")
    assert outcome.code == 1
    assert outcome.stderr == (
        "error: unexpected RuntimeError: shapes differ [3, 4]\nhint: run again with --debug for the traceback\n"
    )
    assert "Traceback (most recent call last)" in program("generate", "x", "--debug").stderr


def test_a_full_disk_ends_with_1_and_keeps_the_picture(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sensenova_cli.outputs.picture_writer.create_file", full)
    outcome = program("generate", "x")
    assert outcome.code == 1
    assert "No space left on device" in outcome.stderr
    (saved,) = tmp_path.glob("x-42-*.png")
    assert f"the picture was saved in {saved}" in outcome.stderr


def test_an_output_folder_that_is_a_file(program: Program) -> None:
    outcome = program("generate", "x", "-o", "a.png/b.png")
    assert outcome.code == 2
    assert program.engines == []


def test_colors_can_be_turned_off(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1;31m" in program("generate").stderr
    assert "\x1b[1;31m" not in program("generate", "--no-color").stderr


def test_messages_are_not_cut_into_lines(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    name = "a-very-long-name-of-a-picture-that-is-not-there.png"
    assert f"error: there is no file {name}\n" in program("describe", name).stderr


def test_an_unreadable_record_of_an_input_is_reported(program: Program, home: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("sensenova", '{"format": 99, "version": "9.9"}')
    Image.new("RGB", (64, 64)).save(home / "new.png", pnginfo=chunks)
    outcome = program("edit", "x", "--image", "new.png")
    assert outcome.code == 0
    assert "its seed is unknown" in outcome.stderr


def test_a_missing_device_is_reported_before_a_download(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr("model.loading.find_checkpoint", download)
    monkeypatch.setattr("model.checkpoint.card.find_card", lambda model: DEMO_CHECKPOINT)
    monkeypatch.setattr("model.opening.open_engine", open_engine)
    monkeypatch.setattr("sensenova_cli.turns.model_source.find_checkpoint", download)
    for words in (["generate", "x"], ["bench"], ["doctor"]):
        outcome = program(*words, "--model", "owner/name", "--device", "cuda:63")
        assert outcome.code == 2
        assert "cuda:63 is not there" in outcome.stderr


def test_damaged_recommendations_are_a_damaged_checkpoint(program: Program) -> None:
    checkpoint = Path(os.environ["SENSENOVA_MODEL"])
    (checkpoint / "recommended_settings.json").write_text('{"trained_size": [[64, 64]]}')
    outcome = program("generate", "x")
    assert outcome.code == 3
    assert "recommended_settings.json: unknown key trained_size; did you mean trained_sizes?" in outcome.stderr


def test_a_question_is_not_a_picture(program: Program) -> None:
    assert "check the name" in program("describe", "no such.png").stderr
    outcome = program("describe", "a.png", "what is it")
    assert outcome.code == 2
    assert 'hint: a question goes after -p: sensenova describe FILE -p "what is it"' in outcome.stderr


def test_an_empty_picture_name(program: Program) -> None:
    outcome = program("edit", "x", "--image", "")
    assert outcome.code == 2
    assert "the name of an input picture is empty" in outcome.stderr


@pytest.mark.parametrize("words", [["generate", "x"], ["profile", "path"]])
def test_a_deleted_current_folder(program: Program, home: Path, words: list[str]) -> None:
    gone = home / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        outcome = program(*words)
        helped = program(*words, "--help")
    finally:
        os.chdir(home)
    assert (outcome.code, helped.code) == (2, 0)
    assert "the current folder no longer exists" in outcome.stderr
