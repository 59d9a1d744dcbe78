"""Runs of several prompts: their order, going on with them, errors on the way, and what is printed meanwhile."""

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.batch_kills import differences, kill_batch, prompts_of, run_batch
from config.settings import ImageSettings, LoadSettings
from model import NumericsError
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.outputs.picture_names import picture_place
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.turns.batch import way_on
from sensenova_cli.turns.existing_pictures import ExistingPictures
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import REPOSITORY, Program, start
from tests.waiting import PATIENCE

SMALL = ("--size", "32x32", "--steps", "2")


def prompts(program: Program) -> list[tuple[str, int, int]]:
    """Return prompt, seed and number of pictures of the last engine's requests."""
    requests = program.engines[-1].requests
    return [(each.prompt, each.settings.seed, each.settings.num_images) for each in requests]  # type: ignore[union-attr]


def fail_for(*words: str) -> Callable[[FakeEngine], None]:
    """Return a preparation of an engine that fails for the prompts that contain one of the words."""

    def prepare(engine: FakeEngine) -> None:
        def check(number: int) -> None:
            if any(word in engine.requests[-1].prompt for word in words):
                raise NumericsError("the picture has NaN in it", "try `dtype=float32`")

        engine.on_step = check

    return prepare


def test_prompts_alternatives_and_seeds_make_one_run(program: Program, home: Path) -> None:
    outcome = program("generate", "a {red|blue} cat", "the dog", "--seed", "1..2", *SMALL)
    assert outcome.code == 0
    names = [f"{name}-{seed}.png" for name in ("a-red-cat", "a-blue-cat", "the-dog") for seed in (1, 2)]
    assert outcome.stdout.split() == names
    assert prompts(program)[:3] == [("a red cat", 1, 1), ("a red cat", 2, 1), ("a blue cat", 1, 1)]
    assert len(program.engines) == 1
    record = read_record(home / "a-red-cat-2.png")
    assert record is not None and (record.prompt, record.settings.seed) == ("a red cat", 2)


def test_every_way_to_give_prompts_is_expanded(program: Program, home: Path) -> None:
    (home / "prompts.txt").write_text("a {c} cat\n# no {d}\na {x|y}\n")
    assert program("generate", "--prompt-file", "prompts.txt", "--var", "c=red,blue", *SMALL).code == 0
    assert [each[0] for each in prompts(program)] == ["a red cat", "a blue cat", "a x", "a y"]
    assert program("generate", *SMALL, stdin="a {1|2}").code == 0
    assert [each[0] for each in prompts(program)] == ["a 1", "a 2"]
    assert program("generate", "-p", "{p|q}", *SMALL).code == 0
    assert [each[0] for each in prompts(program)] == ["p", "q"]
    assert program("edit", "a-red-cat-42.png", "make it {red|blue}", "--seed", "1,2", *SMALL).code == 0
    assert prompts(program) == [
        ("make it red", 1, 1), ("make it red", 2, 1), ("make it blue", 1, 1), ("make it blue", 2, 1)
    ]  # fmt: skip


def test_a_recorded_prompt_is_not_expanded(program: Program, home: Path) -> None:
    assert program("generate", "{{a|b}} {c|c}", "-o", "made.png", *SMALL).code == 0
    assert [each[0] for each in prompts(program)] == ["{a|b} c"]
    assert program("generate", "--from", "made.png", "--seed", "5,7").code == 0
    assert prompts(program) == [("{a|b} c", 5, 1), ("{a|b} c", 7, 1)]


def test_words_without_quotes_are_not_several_prompts(program: Program) -> None:
    outcome = program("generate", "a", "cute", "cat")
    assert outcome.code == 2
    assert "these words are 3 prompts, or one without quotes: a cute cat" in outcome.stderr
    assert "hint: put the prompt in quotes" in outcome.stderr
    assert program("generate", "一只猫", "一只狗", *SMALL).code == 0
    assert [each[0] for each in prompts(program)] == ["一只猫", "一只狗"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seed 8..1", "the range 8..1 is empty"),
        ("--seed 0..999999999", "1,000,000,000 combinations of prompts and seeds are too many"),
        ("--var color=", "it has no values"),
        ("--var color=red", "no prompt uses it"),
        ("--max-errors 0", "--max-errors 0: must be at least 1"),
        ("--max-errors many", "--max-errors many: must be a whole number of failures"),
        ("--seed random --skip-existing", "--seed random draws another seed each time"),
        ("--skip-existing -o -", "--skip-existing needs files, and -o - makes none"),
        ("--skip-existing --no-metadata", "--no-metadata writes none"),
        ("--events --json", "--events and --json both print JSON"),
        ("--events -o -", "-o - and --events both write to stdout"),
        ("--seed 1..2 -n 2", "would make pictures twice"),
    ],
)
def test_what_a_run_refuses_before_the_model_loads(program: Program, words: str, message: str) -> None:
    outcome = program("generate", "a cat", *words.split())
    assert outcome.code == 2
    assert message in outcome.stderr and "hint: " in outcome.stderr
    assert program.engines == []


def test_a_random_seed_is_told(program: Program, home: Path) -> None:
    outcome = program("generate", "a cat", "--seed", "random", "-n", "2", *SMALL)
    seed = int(next(line for line in outcome.stderr.splitlines() if "random seed" in line).split()[-1])
    assert outcome.stdout.split() == [f"a-cat-{seed}.png", f"a-cat-{seed + 1}.png"]


def test_a_random_seed_for_one_request(program: Program, home: Path) -> None:
    outcome = program("interleave", "a kite", "--seed", "random", "--no-think", *SMALL)
    seed = next(line for line in outcome.stderr.splitlines() if "random seed" in line).split()[-1]
    assert f"a-kite-{seed}-0.png" in outcome.stdout
    outcome = program("chat", "hello", "--seed", "1..3")
    assert outcome.code == 2
    assert "--seed 1..3: only one seed is possible here\nhint: give one number, or random" in outcome.stderr


def test_existing_pictures_are_skipped_by_their_records(program: Program, home: Path) -> None:
    run = ("generate", "a cat", "a dog", "--seed", "1..2", "-o", "out/", *SMALL)
    assert program(*run).code == 0
    before = {path.name: path.read_bytes() for path in (home / "out").iterdir()}
    assert len(before) == 4
    (home / "out" / "a-cat-2.png").unlink()
    (home / "out" / "a-dog-1.png").rename(home / "out" / "my favourite.png")
    outcome = program(*run, "--skip-existing")
    assert (outcome.code, outcome.stdout) == (0, "out/a-cat-2.png\n")
    assert "3 of 4 pictures exist already" in outcome.stderr
    assert prompts(program) == [("a cat", 2, 1)]
    assert (home / "out" / "a-cat-2.png").read_bytes() == before["a-cat-2.png"]
    loaded = len(program.engines)
    outcome = program(*run, "--skip-existing")
    assert (outcome.code, outcome.stdout, len(program.engines)) == (0, "", loaded)
    assert "4 of 4 pictures exist already" in outcome.stderr


@pytest.mark.parametrize(
    "change",
    [("--steps", "3"), ("--size", "64x32"), ("--cfg-scale", "3"), ("--seed", "43"), ("--think",),
     ("--dtype", "float32"), ("--lora", "x.safetensors")],
)  # fmt: skip
def test_a_picture_with_other_settings_is_another_picture(
    program: Program, home: Path, change: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.checkpoint.card.recommended_with_loras", lambda recommended, loras: recommended)
    assert program("generate", "a cat", *SMALL).code == 0
    outcome = program("generate", "a cat", *SMALL, "--skip-existing", *change)
    assert outcome.code == 0 and len(outcome.stdout.split()) == 1
    assert program("generate", "a cat", *SMALL, "--skip-existing").stdout == ""


def test_the_gaps_of_one_prompt_are_filled(program: Program, home: Path) -> None:
    assert program("generate", "a cat", "-n", "5", "-o", "{index}.png", *SMALL).code == 0
    before = {path.name: path.read_bytes() for path in home.glob("*.png")}
    for number in (0, 2, 3):
        (home / f"{number}.png").unlink()
    outcome = program("generate", "a cat", "-n", "5", "-o", "{index}.png", "--skip-existing", *SMALL)
    assert outcome.stdout.split() == ["0.png", "2.png", "3.png"]
    assert prompts(program) == [("a cat", 42, 1), ("a cat", 44, 2)]
    assert {path.name: path.read_bytes() for path in home.glob("*.png")} == before


def test_edits_are_found_by_the_content_of_their_inputs(program: Program, home: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(home / "a.png")
    edit = ("edit", "a.png", "make it blue", "-o", "out/", *SMALL)
    assert program(*edit).code == 0
    (home / "a.png").rename(home / "b.png")
    assert program("edit", "b.png", "make it blue", "-o", "out/", *SMALL, "--skip-existing").stdout == ""
    Image.new("RGB", (64, 64), "green").save(home / "a.png")
    assert program(*edit, "--skip-existing").stdout == "out/make-it-blue-42-2.png\n"


def test_a_damaged_file_and_one_of_another_program_do_not_count(program: Program, home: Path) -> None:
    run = ("generate", "a cat", "-o", "out/", *SMALL)
    assert program(*run).code == 0
    picture = home / "out" / "a-cat-42.png"
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) - 30])
    Image.new("RGB", (64, 64)).save(home / "out" / "other.png")
    assert program(*run, "--skip-existing").stdout == "out/a-cat-42-2.png\n"


def test_pictures_of_another_program_on_a_server(home: Path) -> None:
    """Its records name only the model."""
    record = PictureRecord(
        task="generate", prompt="a cat", settings=ImageSettings(size="64x64"), version="1",
        loaded=LoadSettings(model="u1", dtype="bfloat16"),
    )  # fmt: skip
    writer = PictureWriter.prepare("a.png", stdout_is_terminal=False)
    theirs = record.model_copy(update={"made_by": "vLLM-Omni"})
    writer.write(Image.new("RGB", (64, 64)), prompt="a cat", seed=42, index=0, count=1, record=theirs)
    existing = ExistingPictures(picture_place("a.png"))
    assert existing.find(record, is_remote=True) == Path("a.png")
    assert existing.find(record) is None
    other = record.model_copy(update={"prompt": "a dog"})
    assert existing.find(other, is_remote=True) is None


def test_one_name_for_the_picture(program: Program, home: Path) -> None:
    run = ("generate", "a cat", "-o", "cat.png", *SMALL)
    assert program(*run).code == 0
    assert program(*run, "--skip-existing").stdout == ""
    outcome = program(*run, "--skip-existing", "--seed", "7")
    assert outcome.code == 2 and "cat.png exists already" in outcome.stderr


def test_a_run_goes_on_after_errors(program: Program, home: Path) -> None:
    program.prepare = fail_for("b", "d")
    outcome = program("generate", "1 a", "1 b", "1 c", "1 d", "1 e", *SMALL, "--max-errors", "3")
    assert outcome.code == 1
    assert outcome.stdout.split() == ["1-a-42.png", "1-c-42.png", "1-e-42.png"]
    assert "error: picture 2 of 5 (1 b) failed: the picture has NaN in it\nhint: try --dtype float32" in outcome.stderr
    assert "error: 2 items failed; 3 of 5 pictures are done" in outcome.stderr
    assert "hint: to go on: sensenova generate '1 a' '1 b' '1 c' '1 d' '1 e'" in outcome.stderr
    program.prepare = lambda engine: None
    outcome = program("generate", "1 a", "1 b", "1 c", "1 d", "1 e", *SMALL, "--max-errors", "3", "--skip-existing")
    assert (outcome.code, outcome.stdout.split()) == (0, ["1-b-42.png", "1-d-42.png"])


def test_a_run_ends_when_too_many_have_failed(program: Program, home: Path) -> None:
    program.prepare = fail_for("b", "d")
    outcome = program("generate", "1 a", "1 b", "1 c", "1 d", "1 e", *SMALL, "--max-errors", "2")
    assert (outcome.code, outcome.stdout.split()) == (1, ["1-a-42.png", "1-c-42.png"])
    assert "error: the run ended after 2 failures; 2 of 5 pictures are done" in outcome.stderr


def test_without_max_errors_the_first_error_ends_the_run_and_says_how_to_go_on(program: Program) -> None:
    program.prepare = fail_for("b")
    outcome = program("generate", "1 a", "1 b", "1 c", *SMALL)
    assert (outcome.code, outcome.stdout) == (1, "1-a-42.png\n")
    assert "note: 1 of 3 pictures is done; to go on: sensenova generate '1 a' '1 b' '1 c'" in outcome.stderr
    assert "error: the picture has NaN in it" in outcome.stderr


def test_a_command_that_cannot_go_on_does_not_say_how(program: Program) -> None:
    program.prepare = fail_for("b")
    outcome = program("run", "--prompt", "1 b", "-n", "2", *SMALL)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "note: 0 of 2 pictures are done\n" in outcome.stderr


def test_json_has_a_line_for_each_picture_when_it_is_done(home: Path) -> None:
    process = start("generate", "a {1|2|3}", *SMALL, "--json", FAKE_STEP_SECONDS="0.05")
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        path = json.loads(line)["path"]
        seen.append((path, len(list(home.glob("*.png")))))
    assert process.wait(timeout=PATIENCE) == 0
    assert [path for path, _ in seen] == ["a-1-42.png", "a-2-42.png", "a-3-42.png"]
    assert seen[0][1] < 3  # the first line came before the last picture


def test_events(program: Program, home: Path) -> None:
    outcome = program("generate", "a {b|c}", "--events", *SMALL)
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    names = ["begin", "prefix", "prefix", "step", "step", "picture", "statistics", "end"]
    assert [(line["item"], line["event"]) for line in lines] == [(item, name) for item in (0, 1) for name in names]
    begin = {"event": "begin", "item": 1, "items": 2, "task": "generate", "prompt": "a c", "seed": 42}
    assert lines[8] == begin
    assert lines[5]["image"] == {"path": "a-b-42.png"}
    assert lines[7]["status"] == "done"


def test_events_of_a_failed_item(program: Program) -> None:
    program.prepare = fail_for("b")
    outcome = program("generate", "1 a", "1 b", "--events", "--max-errors", "2", *SMALL)
    last = json.loads(outcome.stdout.splitlines()[-1])
    assert (last["event"], last["item"], last["status"]) == ("end", 1, "failed")
    assert last["reason"] == "the picture has NaN in it"


def test_items_keep_their_numbers_if_a_prompt_cannot_be_rewritten(program: Program) -> None:
    program.prepare = fail_for("zzz")
    outcome = program("generate", "1 a", "1 zzz", "1 c", "--enhance", "--events", "--max-errors", "3", *SMALL)
    items = [line["item"] for line in map(json.loads, outcome.stdout.splitlines()) if line["event"] == "picture"]
    assert (outcome.code, items) == (1, [0, 2])
    assert "error: picture 2 of 3 (1 zzz) failed: the prompt was not rewritten: the picture has NaN" in outcome.stderr
    assert "3 pictures: 3 of 3" in outcome.stderr


def test_events_of_answers(program: Program, home: Path) -> None:
    lines = [json.loads(line) for line in program("chat", "hello", "--events").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["begin", "prefix", *["token"] * 4, "answer", "statistics", "end"]
    assert lines[-3]["text"] == "It is a cat."
    outcome = program("interleave", "a kite", "--events", "--no-think", "--size", "32x32", "--steps", "1")
    pictures = [line for line in map(json.loads, outcome.stdout.splitlines()) if line["event"] == "picture"]
    assert [each["image"]["path"] for each in pictures] == ["a-kite-42-0.png", "a-kite-43-1.png"]


def test_lines_of_progress_are_about_the_whole_run(program: Program) -> None:
    lines = program("generate", "a {b|c|d|e}", "--seed", "1..2", *SMALL).stderr.splitlines()
    texts = [re.sub(r"in \d+ s", "in SECONDS s", line.partition(",")[0]) for line in lines]
    assert [text for text in texts if text.startswith("8 pictures")] == [
        *("8 pictures", "8 pictures: 2 of 8", "8 pictures: 4 of 8", "8 pictures: 6 of 8", "8 pictures: 8 of 8"),
        "8 pictures in SECONDS s",
    ]
    assert not any("steps/s" in line for line in lines)


def test_an_interrupted_run_says_how_to_go_on(home: Path) -> None:
    process = start("generate", "a {b|c}", "--seed", "random", *SMALL, FAKE_STEP_SECONDS="1")
    assert process.stderr is not None
    while b"a step has begun" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 130
    text = process.stderr.read().decode()
    assert "note: 0 of 2 pictures are done; to go on: sensenova generate 'a {b|c}' --seed " in text
    assert " --size 32x32 --steps 2 --skip-existing\n" in text and "random" not in text


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("generate", "a cat", "-n", "4"), "sensenova generate 'a cat' -n 4 --skip-existing"),
        (("generate", "a", "--skip-existing", "-n", "4"), "sensenova generate a -n 4 --skip-existing"),
        (("generate", "--", "--a {b|c}"), "sensenova generate --skip-existing -- '--a {b|c}'"),
        (("generate", "random", "--seed", "random"), "sensenova generate random --seed 7 --skip-existing"),
        (("generate", "x", "--seed=Random"), "sensenova generate x --seed=7 --skip-existing"),
        (("generate", "a cat " * 200), "the same command with --skip-existing"),
    ],
)
def test_the_command_that_goes_on(words: tuple[str, ...], command: str) -> None:
    assert way_on(words, drawn_seed="7") == command


@pytest.mark.slow
def test_a_batch_that_is_killed_again_and_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture is there once, and it is the one of a run without kills. At most one picture's steps are lost by
    each kill."""
    program = (sys.executable, "-m", "tests.cli.fake_program")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.02")
    texts = prompts_of(20)
    assert run_batch(home / "once", texts, SMALL, program) == 40
    killed = kill_batch(home / "killed", texts, 2, SMALL, kills=4, program=program)
    assert differences(home / "killed", home / "once") == []
    assert len(list((home / "killed").glob("*.png"))) == 20
    assert killed.steps <= 40 + 4 * 2
