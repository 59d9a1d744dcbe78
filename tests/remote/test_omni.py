"""Every command against a vLLM-Omni server: exactly what is sent, what is shown, and what is refused."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from config.settings import ImageSettings, LoadSettings
from model.engine import open_engine
from model.events import Event, Picture, Waiting
from model.requests import GenerateRequest
from sensenova_cli.outputs.png_metadata import read_record
from tests.cli.conftest import home  # noqa: F401  # a fixture
from tests.cli.harness import REPOSITORY, Outcome, Program
from tests.remote.fake_omni import MODEL, FakeOmni, Mistake, serving

pytestmark = pytest.mark.usefixtures("home")

KIND = "a vLLM-Omni server"
DRAWS = "without steps and previews, and its pictures never have exactly the bytes of pictures that are made here"
FOLDS = "has no conversations: the earlier turns are sent as one text, so the answer may differ from one here"


@pytest.fixture(params=["VOo", "VO30"])
def omni(request: pytest.FixtureRequest) -> Iterator[FakeOmni]:
    """A fake server, of each of the two versions."""
    with serving(request.param) as fake:
        yield fake


@pytest.fixture
def newer() -> Iterator[FakeOmni]:
    """A fake server of the newer version, for cases in which the versions do not differ."""
    with serving("VO30") as fake:
        yield fake


def run(fake: FakeOmni, *words: str, stdin: str | None = None) -> Outcome:
    return Program()(words[0], "--server", fake.url, *words[1:], stdin=stdin)


def done(fake: FakeOmni, *words: str, stdin: str | None = None) -> Outcome:
    outcome = run(fake, *words, stdin=stdin)
    assert outcome.code == 0, outcome.stderr
    return outcome


def urls(body: dict[str, Any]) -> list[str]:
    parts = body["messages"][0]["content"]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def only_picture(fake: FakeOmni) -> Image.Image:
    (file,) = fake.drawn[-1]["pictures"]
    return Image.open(io.BytesIO(file))


def posts(fake: FakeOmni) -> int:
    return sum(path.startswith("POST") for path in fake.paths)


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
    assert "peak" not in outcome.stderr and " 0 " not in outcome.stderr and "0.00" not in outcome.stderr
    assert outcome.stderr.count("which reports no more") == 2
    one_shot = done(newer, "generate", "a cat", "--size", "64x64", "--think").stderr
    assert "peak" not in one_shot and " 0 " not in one_shot and f"on {KIND} at {newer.url}" in one_shot


REFUSED = [
    ("generate x --max-think-tokens 9", "--max-think-tokens", "--max-think-tokens 1024"),
    ("generate x --noise cpu", "--noise", "--noise device"),
    ("generate x --cache-threshold 0.1", "--cache-threshold", "leave it out"),
    ("edit --image in.png x --input-pixels native", "--input-pixels", "--input-pixels auto"),
    ("describe in.png --do-sample --top-p 0.5", "--top-p", "--top-p 1.0"),
    ("chat hi --do-sample --top-k 3", "--top-k", "--top-k 0"),
    ("chat hi --repetition-penalty 1.1", "--repetition-penalty", "--repetition-penalty 1.0"),
    ("chat hi --system brief", "system messages", "leave it out"),
    ("generate x --lora style.safetensors", "LoRAs", "leave --lora out"),
    ("generate x --model other/model", f"has the model {MODEL}, not other/model", "leave --model out"),
]


@pytest.mark.parametrize(("line", "what", "way_out"), REFUSED)
def test_what_the_server_cannot_do_is_refused(newer: FakeOmni, line: str, what: str, way_out: str) -> None:
    Image.new("RGB", (32, 32)).save("in.png")
    outcome = run(newer, *line.split())
    assert outcome.code == 2, outcome.stderr
    assert KIND in outcome.stderr and what in outcome.stderr and way_out in outcome.stderr
    assert posts(newer) == 0 and outcome.stdout == ""
    assert sorted(path.name for path in Path().iterdir()) == ["in.png"]


def test_a_preset_of_the_step_cache_is_refused(newer: FakeOmni) -> None:
    pytest.importorskip("cache_dit")
    outcome = run(newer, "generate", "x", "--cache", "balanced")
    assert outcome.code == 2 and f"{KIND} has no setting --cache" in outcome.stderr and posts(newer) == 0


def test_a_refused_setting_of_a_profile_can_be_put_back(newer: FakeOmni) -> None:
    Path("sensenova.toml").write_text('noise = "cpu"\n')
    outcome = run(newer, "generate", "x", "--size", "64x64")
    assert outcome.code == 2 and "use --noise device" in outcome.stderr
    assert run(newer, "generate", "x", "--size", "64x64", "--noise", "device").code == 0


def test_settings_at_their_defaults_are_not_refused(newer: FakeOmni) -> None:
    done(newer, "generate", "x", "--size", "64x64", "--noise", "device", "--cache", "off", "--max-think-tokens", "1024")
    done(newer, "chat", "x", "--top-p", "1", "--lora", "off")


def test_previews_are_absent(newer: FakeOmni) -> None:
    outcome = done(newer, "generate", "x", "--size", "64x64", "--preview", "off")
    assert "preview_every" not in json.dumps(newer.bodies) and outcome.stdout.endswith(".png\n")


def test_a_session_goes_on_after_a_refusal(newer: FakeOmni) -> None:
    outcome = run(newer, "repl", stdin="a cat --noise cpu\na cat --size 64x64\n/lora style.safetensors\n")
    assert f"{KIND} has no setting noise" in outcome.stderr and "use /set noise device" in outcome.stderr
    assert f"{KIND} merges LoRAs only when it starts" in outcome.stderr
    assert len(newer.drawn) == 1


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
    monkeypatch.setattr("model.engine.open_engine", program.load)
    checkpoint = os.environ["SENSENOVA_MODEL"]
    outcome = program("generate", "--from", "cat.png", "--model", checkpoint, "-o", "again.png")
    assert outcome.code == 0, outcome.stderr
    assert "so it cannot be repeated byte for byte" in outcome.stderr
    assert program.request.settings.num_steps == 3
    record = read_record("again.png")
    assert record is not None and record.made_by is None


def test_a_proxy_that_hides_the_version(newer: FakeOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.remote.http import Connection

    get = Connection.get

    def without_version(self: Connection, path: str, *more: Any) -> Any:
        return get(self, "/nothing" if path == "/version" else path, *more)

    monkeypatch.setattr(Connection, "get", without_version)
    done(newer, "generate", "a cat", "--size", "64x64", "-o", "cat.png")
    record = read_record("cat.png")
    assert record is not None and record.made_by == "vLLM-Omni"


def error(status: int, message: str, kind: str = "BadRequestError", **more: Any) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": kind, "code": status}, **more}


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}

FAILURES: list[tuple[Any, int, str]] = [
    (error(400, "size must be positive"), 2, f"{KIND} refuses the request: size must be positive"),
    ((400, {"detail": "bad seed"}), 2, f"{KIND} refuses the request: bad seed"),
    ((422, {"detail": [{"loc": ["body", "size"], "msg": "wrong size"}, {"msg": "no"}]}), 2, "wrong size; no"),
    (error(404, "The model `x` does not exist."), 2, "does not exist"),
    (error(500, "Image generation failed: 3 channels expected"), 1, "Image generation failed: 3 channels expected"),
    (error(500, "Image generation failed: CUDA out of memory. Tried to allocate 20.00 GiB"), 4, "out of memory"),
    ((503, {"detail": "no engine"}), 1, "cannot run this now: no engine"),
]


@pytest.mark.parametrize(("failure", "code", "words"), FAILURES)
def test_errors_of_the_server(newer: FakeOmni, failure: Any, code: int, words: str) -> None:
    def fail(arguments: dict[str, Any]) -> None:
        raise Mistake(*failure)

    newer.fault = fail
    for line in ("generate cat --size 64x64", "chat hi"):
        outcome = run(newer, *line.split())
        assert outcome.code == code, outcome.stderr
        assert words in outcome.stderr and "Traceback" not in outcome.stderr
        assert outcome.stdout == "" and list(Path().iterdir()) == []


def chat_answer(message: Any) -> bytes:
    return json.dumps({"choices": [{"message": message}], "metrics": None}).encode()


@pytest.mark.parametrize(("raw", "words"), [
    ((502, "text/html", b"<html>Bad Gateway</html>"), "error 502"),
    ((200, "text/html", b"<html>Log in</html>"), "is not JSON"),
    ((200, "application/json", b'{"choices": []}'), "no choices"),
    ((200, "application/json", b"[1]"), "no choices"),
    ((200, "application/json", b'{"choices": [1]}'), "no content"),
    ((200, "application/json", chat_answer({"content": "I cannot draw."})), f"{KIND} answered without a picture"),
    ((200, "application/json", chat_answer({"content": [PICTURE]})), "damaged picture"),
    ((200, "application/json", chat_answer({"content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]})),
     "damaged picture"),
])  # fmt: skip
def test_answers_that_are_not_as_documented(newer: FakeOmni, raw: Any, words: str) -> None:
    newer.raw = raw
    outcome = run(newer, "generate", "cat", "--size", "64x64")
    assert outcome.code == 1 and words in outcome.stderr, outcome.stderr
    assert "Traceback" not in outcome.stderr and list(Path().iterdir()) == []


def test_a_picture_as_the_answer_to_a_question(newer: FakeOmni) -> None:
    newer.raw = (200, "application/json", chat_answer({"content": [PICTURE]}))
    outcome = run(newer, "chat", "hi")
    assert outcome.code == 1 and f"{KIND} answered a question without text" in outcome.stderr


def test_a_dead_engine(newer: FakeOmni) -> None:
    newer.is_alive = False
    outcome = run(newer, "generate", "cat", "--size", "64x64")
    assert outcome.code == 1 and "EngineCore encountered an issue" in outcome.stderr


def test_a_lost_connection_ends_the_turn_and_the_session_goes_on(newer: FakeOmni) -> None:
    newer.drops = 1
    outcome = run(newer, "repl", stdin="a cat --size 64x64\na dog --size 64x64\n")
    assert outcome.code == 1 and f"the connection to {newer.url} was lost" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert len(outcome.stdout.splitlines()) == 1 and newer.prompts == ["a dog"]
    newer.drops = 1
    one_shot = run(newer, "generate", "a cat", "--size", "64x64")
    assert one_shot.code == 1 and "was lost" in one_shot.stderr and one_shot.stdout == ""


def test_pictures_before_a_failure_are_saved(newer: FakeOmni) -> None:
    def fail(arguments: dict[str, Any]) -> None:
        if arguments["seed"] == 44:
            raise RuntimeError("boom")

    newer.fault = fail
    outcome = run(newer, "generate", "cat", "-n", "3", "--size", "64x64", "-o", "{seed}.png")
    assert outcome.code == 1 and outcome.stdout.split() == ["42.png", "43.png"]
    assert "Image generation failed: boom" in outcome.stderr


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


def test_a_cancelled_request_closes_its_connection_before_the_answer_begins(newer: FakeOmni) -> None:
    newer.gate.clear()
    engine = open_engine(LoadSettings(server=newer.url))
    events: Any = engine.run(GenerateRequest("a cat", ImageSettings(size="64x64")))
    assert any(isinstance(event, Waiting) for event in events)
    assert newer.started.wait(10)
    events.close()
    assert newer.gone.wait(10), "the server still thinks that somebody waits"
    newer.gate.set()
    again = list(engine.run(GenerateRequest("a cat", ImageSettings(size="64x64"))))
    assert any(isinstance(event, Picture) for event in again), "the engine stays usable"
    engine.close()


def test_ctrl_c_ends_at_once_and_says_that_the_server_may_go_on(newer: FakeOmni) -> None:
    newer.gate.clear()
    process = subprocess.Popen(
        [sys.executable, "-m", "sensenova_cli", "generate", "cat", "--size", "64x64", "--server", newer.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert newer.started.wait(60)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stdout == ""
    assert f"{KIND} may go on with the cancelled request, and the next request then waits for it" in stderr
    assert newer.gone.wait(10)


def test_waiting_shows_elapsed_time_and_an_estimate(newer: FakeOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensenova_cli.render.waiting.INTERVAL", 0.01)
    newer.fault = lambda arguments: threading.Event().wait(0.6)
    outcome = done(newer, "generate", "cat", "-n", "2", "--size", "64x64")
    lines = outcome.stderr.splitlines()
    assert any(line.startswith("picture 1 of 2: ") and line.endswith(" s") for line in lines)
    assert not any(line.startswith("picture 1 of 2: ") and "about" in line for line in lines)
    assert any(line.startswith("picture 2 of 2: ") and "s of about 1 s" in line for line in lines)
    assert "steps" not in outcome.stderr.split("s · ")[0].replace("without steps", "")
    assert any(line.startswith("answer: ") for line in done(newer, "chat", "hi").stderr.splitlines())


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
