"""Every command against a vLLM-Omni server: exactly what is sent, and what is shown and recorded."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from config.settings import ImageSettings, LoadSettings
from model import PHASES, process_timings
from model.events import Event, Waiting
from model.opening import open_engine
from model.requests import GenerateRequest
from sensenova_cli.outputs.picture_files import read_record
from tests.cli.harness import REPOSITORY, Program
from tests.remote.conftest import DRAWS, FOLDS, KIND, done, run
from tests.remote.fake_omni import MODEL, FakeOmni, Mistake

pytestmark = pytest.mark.usefixtures("home")


def urls(body: dict[str, Any]) -> list[str]:
    parts = body["messages"][0]["content"]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def only_picture(fake: FakeOmni) -> Image.Image:
    (file,) = fake.drawn[-1]["pictures"]
    return Image.open(io.BytesIO(file))


def test_generate_sends_everything_explicitly_and_nested(omni: FakeOmni) -> None:
    outcome = done(omni, "generate", "A cute cat", "--size", "96x64", "-o", "cat.png")
    assert outcome.stdout == "cat.png\n"
    assert omni.bodies == [
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "A cute cat"}]}],
            "extra_body": {
                "modalities": ["image"],
                "width": 96,
                "height": 64,
                "seed": 42,
                "num_inference_steps": 50,
                "cfg_scale": 4.0,
                "img_cfg_scale": 1.0,
                "cfg_norm": "none",
                "timestep_shift": 3.0,
                "t_eps": 0.02,
                "think": False,
                "extra_args": {"cfg_interval": [0.0, 1.0]},
            },
        }
    ]
    with Image.open("cat.png") as image:
        assert image.size == (96, 64) and image.getpixel((0, 0)) == (42, 0, 50)


def test_every_setting_reaches_the_pipeline_of_both_versions(omni: FakeOmni) -> None:
    flags = (
        "--seed 7 --num-steps 9 --cfg-scale 3 --cfg-norm global --cfg-interval 0.1 0.9 --timestep-shift 2 --t-eps 0.1"
    )
    done(omni, "generate", "x", "--size", "64x64", "--think", *flags.split())
    (drawn,) = omni.drawn
    assert {**drawn, "pictures": None, "prompt": None, "modalities": None} == {
        "modalities": None,
        "pictures": None,
        "prompt": None,
        "width": 64,
        "height": 64,
        "seed": 7,
        "num_inference_steps": 9,
        "cfg_scale": 3.0,
        "img_cfg_scale": 1.0,
        "cfg_norm": "global",
        "cfg_interval": [0.1, 0.9],
        "timestep_shift": 2.0,
        "t_eps": 0.1,
        "think": True,
    }


def test_several_pictures_are_several_requests_in_the_order_of_their_seeds(omni: FakeOmni) -> None:
    outcome = done(omni, "generate", "A cat", "-n", "4", "--seed", "7", "--size", "64x64", "-o", "{seed}.png")
    assert outcome.stdout.split() == ["7.png", "8.png", "9.png", "10.png"]
    assert [drawn["seed"] for drawn in omni.drawn] == [7, 8, 9, 10]
    for seed in (7, 8, 9, 10):
        with Image.open(f"{seed}.png") as image:
            assert image.getpixel((0, 0)) == (seed, 0, 50)
    assert outcome.stderr.count(DRAWS) == 1


def test_a_size_that_is_not_named_is_chosen_here(newer: FakeOmni) -> None:
    done(newer, "generate", "A cat", "--aspect", "16:9")
    assert (newer.drawn[0]["width"], newer.drawn[0]["height"]) == (2720, 1536)


def test_an_edit_sends_an_upright_picture_without_transparency(omni: FakeOmni) -> None:
    turned = Image.new("RGB", (64, 32), "red")
    turned.paste("blue", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: the left side is the top
    turned.save("turned.jpg", exif=exif, quality=95)
    done(omni, "edit", "--image", "turned.jpg", "make it green", "--size", "64x64")
    sent = only_picture(omni)
    assert (sent.format, sent.mode, sent.size) == ("PNG", "RGB", (32, 64))
    assert sent.getpixel((16, 8))[2] > 200 and sent.getpixel((16, 56))[0] > 200  # type: ignore[index]
    assert not sent.getexif() and not sent.info
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save("clear.png")
    done(omni, "edit", "--image", "clear.png", "make it green", "--size", "64x64")
    sent = only_picture(omni)
    assert sent.mode == "RGB" and sent.getpixel((0, 0)) == (255, 255, 255)
    assert omni.prompts[-1] == "<image>\nmake it green"


def test_an_edit_of_several_pictures_marks_them_in_order(omni: FakeOmni) -> None:
    for name in ("red", "blue"):
        Image.new("RGB", (32, 32), name).save(f"{name}.png")
    done(omni, "edit", "--image", "red.png", "blue.png", "--size", "64x64", "put the first on the second")
    assert omni.prompts[-1] == "Image-1:<image>\nImage-2:<image>\nput the first on the second"
    done(omni, "edit", "--image", "red.png", "blue.png", "--size", "64x64", "take <image> and <image>")
    assert omni.prompts[-1] == "take <image> and <image>"
    first, second = (Image.open(io.BytesIO(file)).getpixel((0, 0)) for file in omni.drawn[-1]["pictures"])
    assert (first, second) == ((255, 0, 0), (0, 0, 255))
    assert all(url.startswith("data:image/png;base64,") for body in omni.bodies for url in urls(body))


def test_an_edit_has_the_shape_of_its_picture_and_image_guidance(omni: FakeOmni) -> None:
    Image.new("RGB", (64, 32)).save("wide.png")
    done(omni, "edit", "--image", "wide.png", "green", "--img-cfg-scale", "2")
    drawn = omni.drawn[0]
    assert drawn["width"] / drawn["height"] == pytest.approx(2, rel=0.05)
    assert drawn["img_cfg_scale"] == 2.0


def test_describe(omni: FakeOmni) -> None:
    Image.new("RGB", (32, 32), "red").save("red.png")
    outcome = done(omni, "describe", "red.png", "-p", "Which colour?", "--max-tokens", "9")
    assert outcome.stdout == "A cat on a blue background.\n"
    assert omni.bodies[0]["extra_body"] == {
        "modalities": ["text"],
        "max_tokens": 9,
        "seed": 42,
        "extra_args": {"do_sample": False, "temperature": 0.7},
    }
    assert omni.prompts == ["<image>\nWhich colour?"]
    assert len(urls(omni.bodies[0])) == 1
    assert "does not say whether --max-tokens has cut it off" in outcome.stderr


def test_chat_with_sampling_reaches_the_pipeline(omni: FakeOmni) -> None:
    seen: list[dict[str, Any]] = []
    omni.fault = seen.append
    outcome = done(omni, "chat", "Hi", "--do-sample", "--temperature", "0.5", "--seed", "3")
    assert outcome.stdout == "A cat on a blue background.\n"
    assert omni.prompts == ["Hi"]
    assert seen == [{"modalities": ["text"], "max_tokens": 512, "seed": 3, "do_sample": True, "temperature": 0.5}]


def test_run_takes_the_arguments_of_the_example_script(omni: FakeOmni) -> None:
    outcome = done(omni, "run", "--prompt", "A cat", "--width", "70", "--height", "64", "--num-steps", "3")
    assert outcome.stdout == "sensenova_u1_output_0.png\n"
    assert (omni.drawn[0]["width"], omni.drawn[0]["height"], omni.drawn[0]["num_inference_steps"]) == (64, 64, 3)
    outcome = done(omni, "run", "--modality", "text2text", "--prompt", "Hi")
    assert outcome.stdout == "A cat on a blue background.\n"


def test_json_names_the_model_of_the_server(omni: FakeOmni) -> None:
    picture = json.loads(done(omni, "generate", "A cat", "--size", "64x64", "--json", "-q").stdout)
    assert (picture["model"], picture["seed"], picture["size"]) == (MODEL, 42, "64x64")
    answer = json.loads(done(omni, "chat", "Hi", "--json", "-q").stdout)
    assert (answer["text"], answer["token_ids"], answer["model"]) == ("A cat on a blue background.", [], MODEL)


def test_a_session(omni: FakeOmni) -> None:
    lines = ["a cat --size 64x64", "make it red --size 64x64", "? what is it", "? and its colour", "/stats", "/undo"]
    outcome = done(omni, "repl", stdin="\n".join(lines) + "\n")
    first, second, *answers = outcome.stdout.splitlines()
    assert Path(first).is_file() and Path(second).is_file()
    assert answers == ["A cat on a blue background."] * 2
    assert [len(urls(body)) for body in omni.bodies] == [0, 1, 1, 1]
    assert omni.drawn[1]["seed"] == 43, "an edit does not have the seed of its picture"
    assert omni.prompts == [
        "a cat",
        "<image>\nmake it red",
        "<image>\nwhat is it",
        "user: <image>\nwhat is it\n\nassistant: A cat on a blue background.\n\nuser: and its colour",
    ]
    assert all([message["role"] for message in body["messages"]] == ["user"] for body in omni.bodies)
    assert outcome.stderr.count(FOLDS) == 1 and outcome.stderr.count(DRAWS) == 1


def test_an_answer_that_speaks_of_placeholders_adds_no_picture_to_the_next_question(newer: FakeOmni) -> None:
    newer.text = "Write <image> for it."
    done(newer, "repl", stdin="/chat how do I name a picture\n/chat thanks\n")
    assert newer.prompts[-1].count("<image>") == 0


def test_numbers_that_are_not_known_are_not_shown_as_zero(newer: FakeOmni) -> None:
    outcome = done(newer, "repl", stdin="a cat --size 64x64\n/stats\n? what\n/stats\n")
    assert "peak" not in outcome.stderr and " 0 " not in outcome.stderr
    assert outcome.stderr.count("which reports no more") == 2
    one_shot = done(newer, "generate", "a cat", "--size", "64x64", "--think").stderr
    assert "peak" not in one_shot and " 0 " not in one_shot and f"on {KIND} at {newer.url}" in one_shot


def test_think_text_is_shown_without_its_tokens(omni: FakeOmni) -> None:
    outcome = done(omni, "generate", "a cat", "--size", "64x64", "--think", "-n", "2", "-o", "{seed}.png")
    assert "A cat sits.\nIt purrs.\nthought for 5 words\n" in outcome.stderr
    assert outcome.stderr.count("It purrs.") == 1, "the same text is shown once"
    assert "</think>" not in outcome.stderr
    for name in ("42.png", "43.png"):
        record = read_record(name)
        assert record is not None and record.think_text == "A cat sits.\nIt purrs."
    printed = done(omni, "generate", "a cat", "--size", "64x64", "--think", "--print-think", "-o", "new.png")
    assert printed.stdout == "A cat sits.\nIt purrs.\nnew.png\n"
    hidden = done(omni, "generate", "a cat", "--size", "64x64", "--think", "--hide-think", "-o", "hidden.png")
    assert "purrs" not in hidden.stderr and "thought for 5 words" in hidden.stderr


@pytest.mark.parametrize(
    "text", ["<think>\nA cat.\n</think>\n\nIt is a cat.", "A cat.\n</think>\n\nIt is a cat."], ids=["whole", "no start"]
)
def test_think_text_in_an_answer_is_not_part_of_it(newer: FakeOmni, text: str) -> None:
    newer.text = text
    outcome = done(newer, "chat", "What is it?")
    assert outcome.stdout == "It is a cat.\n"
    assert "thought for 2 words" in outcome.stderr


def test_an_answer_that_was_cut_off_while_thinking(newer: FakeOmni) -> None:
    newer.text = "<think>\nA cat, or"
    outcome = done(newer, "chat", "What is it?", "--json")
    assert (json.loads(outcome.stdout)["text"], json.loads(outcome.stdout)["finish"]) == ("", "length")
    assert "raise the limit with --max-tokens" in outcome.stderr


def test_another_size_than_asked_for_is_noticed_and_recorded(newer: FakeOmni) -> None:
    newer.size = (96, 96)
    outcome = done(newer, "generate", "a cat", "--size", "64x64", "-o", "cat.png")
    assert "the server made 96x96 instead of 64x64" in outcome.stderr
    record = read_record("cat.png")
    assert record is not None and record.settings.size == "96x96"


def test_a_record_names_the_server_and_info_says_what_follows(omni: FakeOmni) -> None:
    done(omni, "generate", "a cat", "--size", "64x64", "-o", "cat.png")
    version = {"VOo": "0.14.1", "VO30": "0.30.0"}[omni.version]
    made_by = f"vLLM-Omni (vLLM {version})"
    facts = json.loads(Program()("info", "cat.png", "--json").stdout)
    assert (facts["made_by"], facts["model"]) == (made_by, MODEL)
    assert not {"dtype", "quantization", "enforce_eager", "lora"} & set(facts), "nobody knows them"
    assert f"made_by: {made_by}; it cannot be repeated byte for byte" in Program()("info", "cat.png").stdout
    with Image.open("cat.png") as image:
        assert image.info["parameters"].endswith(f"with {made_by}")


def test_replaying_such_a_picture_warns_once_and_sends_its_settings(newer: FakeOmni) -> None:
    done(newer, "generate", "a cat", "--size", "64x64", "--seed", "9", "--num-steps", "3", "-o", "cat.png")
    outcome = done(newer, "generate", "--from", "cat.png", "-n", "2", "-o", "{seed}-again.png")
    line = "cat.png was made by vLLM-Omni (vLLM 0.30.0), so it cannot be repeated byte for byte"
    assert outcome.stderr.count(line) == 1
    assert [drawn["seed"] for drawn in newer.drawn] == [9, 9, 10]
    assert newer.drawn[1]["num_inference_steps"] == 3


def test_a_local_replay_of_such_a_picture_warns(newer: FakeOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    done(newer, "generate", "a cat", "--size", "64x64", "--num-steps", "3", "-o", "cat.png")
    program = Program()
    monkeypatch.setattr("model.opening.open_engine", program.load)
    checkpoint = os.environ["SENSENOVA_MODEL"]
    outcome = program("generate", "--from", "cat.png", "--model", checkpoint, "-o", "again.png")
    assert outcome.code == 0, outcome.stderr
    assert "so it cannot be repeated byte for byte" in outcome.stderr
    assert program.request.settings.num_steps == 3
    record = read_record("again.png")
    assert record is not None and record.made_by is None


def test_replaying_a_local_picture_tells_only_the_differences_that_are_known(
    newer: FakeOmni, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program()
    with monkeypatch.context() as local:
        local.setattr("model.opening.open_engine", program.load)
        assert program("generate", "a cat", "--dtype", "float32", "-o", "cat.png").code == 0
    outcome = done(newer, "generate", "--from", "cat.png", "--size", "64x64", "-o", "again.png")
    (line,) = [line for line in outcome.stderr.splitlines() if "was made differently" in line]
    assert f"there {MODEL}" in line and "dtype" not in line


def test_a_proxy_that_hides_the_version(newer: FakeOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.remote.http import Connection

    get = Connection.get

    def without_version(self: Connection, path: str, *more: Any) -> Any:
        return get(self, "/nothing" if path == "/version" else path, *more)

    monkeypatch.setattr(Connection, "get", without_version)
    done(newer, "generate", "a cat", "--size", "64x64", "-o", "cat.png")
    record = read_record("cat.png")
    assert record is not None and record.made_by == "vLLM-Omni"


def test_the_key(newer: FakeOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    newer.key = "sesame"
    outcome = run(newer, "generate", "cat", "--size", "64x64")
    assert outcome.code == 2 and "SENSENOVA_SERVER_KEY" in outcome.stderr
    monkeypatch.setenv("SENSENOVA_SERVER_KEY", "sesame")
    done(newer, "generate", "cat", "--size", "64x64")
    assert newer.headers["Authorization"] == "Bearer sesame"


def test_addresses_as_users_copy_them(newer: FakeOmni) -> None:
    for address in (f"{newer.url}/v1", f"{newer.url}/", newer.url.removeprefix("http://")):
        outcome = Program()("chat", "hi", "--server", address)
        assert outcome.code == 0, outcome.stderr


def test_the_server_is_described(newer: FakeOmni) -> None:
    facts = json.loads(done(newer, "info", "--json").stdout)
    assert (facts["kind"], facts["model"], facts["server"]) == ("vLLM-Omni", MODEL, newer.url)
    assert f"using {MODEL}, {KIND} at {newer.url}" in done(newer, "chat", "hi").stderr


def test_pytorch_is_never_imported(newer: FakeOmni) -> None:
    Image.new("RGB", (32, 32)).save("in.png")
    code = (
        "import sys\nfrom sensenova_cli.app import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    for line in ("generate cat --size 64x64", "edit --image in.png red --size 64x64", "describe in.png", "chat hi"):
        ended = subprocess.run(
            [sys.executable, "-c", code, *line.split(), "--server", newer.url],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr


def test_events_of_a_request_in_order(newer: FakeOmni) -> None:
    engine = open_engine(LoadSettings(server=newer.url))
    events: list[Event] = list(
        engine.run(GenerateRequest("a cat", ImageSettings(size="64x64", num_images=2, think=True)))
    )
    names = [type(event).__name__ for event in events if not isinstance(event, Waiting)]
    assert names == ["Notice", "ThinkToken", "ThinkText", "Picture", "Picture", "Statistics"]
    engine.close()


def test_the_fake_has_the_quirks_that_the_engine_works_around(omni: FakeOmni) -> None:
    nested = {"seed": 7, "modalities": ["image"], "n": 4}
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "extra_body": nested}
    picture = {"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}
    body["messages"][0]["content"] = [{"type": "text", "text": "x"}, picture]
    assert len(omni.chat({**body, "height": 64})["choices"][0]["message"]["content"]) == 1
    assert omni.drawn[0]["pictures"] == [] and omni.drawn[0]["seed"] == 7
    assert omni.drawn[0].get("height") == (None if omni.version == "VOo" else 64)
    if omni.version == "VO30":
        with pytest.raises(Mistake, match="more than once: seed"):
            omni.chat({**body, "seed": 8})


def test_timings_have_phases_of_the_server(newer: FakeOmni) -> None:
    process_timings.restart(*PHASES)
    timings = json.loads(done(newer, "generate", "x", "--size", "64x64", "--json", "--timings").stdout)["timings"]
    assert timings["connect"] > 0 and timings["server"] > 0
    shown = done(newer, "chat", "hello", "--timings").stderr
    assert "until the server sends a first event or the result" in shown
