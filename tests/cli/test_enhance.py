"""`--enhance`: a model rewrites the prompt before it is drawn."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from config.world import World
from model.requests import AnswerRequest, EditRequest, GenerateRequest
from sensenova_cli.enhance.instructions import instruction
from sensenova_cli.enhance.reply import MAX_LENGTH, clean_reply
from sensenova_cli.errors import EnhanceError
from sensenova_cli.outputs.picture_files import read_record
from tests.cli.fake_endpoint import FakeEndpoint, fake_endpoint
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import Program

REWRITTEN = "A cute cat with green eyes."


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    with fake_endpoint() as fake:
        yield fake


@pytest.fixture
def writer(program: Program) -> Program:
    """A program whose model rewrites every prompt as REWRITTEN."""

    def prepare(engine: FakeEngine) -> None:
        engine.answer = ["A cute cat ", "with green eyes."]

    program.prepare = prepare
    return program


def record_of(path: str) -> dict[str, object]:
    with Image.open(path) as image:
        content = json.loads(image.info["sensenova"])
    return {name: content.get(name) for name in ("prompt", "original_prompt", "enhanced_by")}


def test_the_resident_model_rewrites_and_draws(writer: Program, home: Path) -> None:
    outcome = writer("generate", "a cat", "--enhance")
    assert outcome.code == 0 and outcome.stdout == "a-cat-42.png\n", "the file is named by the user's words"
    (engine,) = writer.engines
    question, drawing = engine.requests
    assert isinstance(question, AnswerRequest) and isinstance(drawing, GenerateRequest)
    assert question.prompt == f"{instruction('generate')}\n\nPrompt: a cat" and not question.settings.do_sample
    assert drawing.prompt == REWRITTEN
    assert f"new prompt: {REWRITTEN}" in outcome.stderr
    assert record_of("a-cat-42.png") == {
        "prompt": REWRITTEN,
        "original_prompt": "a cat",
        "enhanced_by": "checkpoint",
    }
    (loaded_for,) = writer.loaded_for
    assert loaded_for is not None and list(loaded_for) == [GenerateRequest("a cat", drawing.settings, 0, 0), question]


def test_a_replay_repeats_the_new_prompt_without_asking(writer: Program, home: Path) -> None:
    writer("generate", "a cat", "--enhance", "-o", "cat.png")
    Path("sensenova.toml").write_text("enhance = true\n")
    outcome = writer("generate", "--from", "cat.png", "-o", "again.png")
    assert outcome.code == 0
    assert [type(request) for request in writer.engines[-1].requests] == [GenerateRequest]
    assert Path("again.png").read_bytes() == Path("cat.png").read_bytes()
    writer("generate", "--from", "cat.png", "a dog", "-o", "dog.png")
    assert record_of("dog.png")["original_prompt"] == "a dog", "another prompt is rewritten"


def test_an_edit_is_rewritten_by_a_model_that_sees_the_picture(writer: Program, home: Path) -> None:
    Image.new("RGB", (64, 64), "red").save("in.png")
    assert writer("edit", "in.png", "make it a cat", "--enhance", "-o", "out.png").code == 0
    question, drawing = writer.engines[-1].requests
    assert isinstance(question, AnswerRequest) and isinstance(drawing, EditRequest)
    assert question.prompt == f"{instruction('edit')}\n\nInstruction: make it a cat"
    assert len(question.images) == 1 and drawing.prompt == REWRITTEN
    Image.new("RGB", (64, 64), "blue").save("in.png")
    writer("edit", "in.png", "make it a cat", "--enhance", "-o", "blue.png")
    assert len(writer.engines[-1].requests) == 2, "for another picture the model is asked again"


def test_a_reply_is_cached_until_it_is_forgotten(writer: Program, home: Path, tmp_path: Path) -> None:
    def asked(*words: str) -> bool:
        assert writer("generate", *words, "--enhance", "-o", "cat.png", "-f").code == 0
        return any(isinstance(request, AnswerRequest) for request in writer.engines[-1].requests)

    assert asked("a cat") and not asked("a cat") and asked("a dog")
    file = tmp_path / "data" / "enhanced-prompts.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "a cat" not in file.read_text(), "the user's own words are not in it"
    outcome = writer("enhance", "--forget")
    assert outcome.code == 0 and "removed 2 rewritten prompts" in outcome.stderr and not file.exists()
    assert asked("a cat")
    file.write_bytes(b'{"key": 3}\n[]\nnonsense \xff\n' + file.read_bytes())
    assert not asked("a cat"), "damaged lines are ignored"
    file.unlink()
    file.mkdir()
    assert asked("a cat"), "a file that cannot be written is no error"


def test_an_endpoint(program: Program, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSENOVA_ENHANCE_KEY", "sk-secret")
    outcome = program("generate", "a cat", "--enhance-with", endpoint.url, "-o", "cat.png")
    assert outcome.code == 0
    (body,) = endpoint.requests
    assert body["model"] == "writer" and not body["stream"]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"] == instruction("generate")
    assert body["messages"][1]["content"] == "Prompt: a cat"
    assert all(headers["Authorization"] == "Bearer sk-secret" for headers in endpoint.headers)
    assert [request.prompt for request in program.engines[-1].requests] == [REWRITTEN]
    assert record_of("cat.png") == {"prompt": REWRITTEN, "original_prompt": "a cat", "enhanced_by": "writer"}
    assert (
        b"sk-secret" not in Path("cat.png").read_bytes() and endpoint.url.encode() not in Path("cat.png").read_bytes()
    )
    program("generate", "a cat", "--enhance-with", endpoint.url, "-o", "again.png")
    assert len(endpoint.requests) == 1


def test_an_endpoint_with_several_models(program: Program, endpoint: FakeEndpoint) -> None:
    endpoint.models = ["small", "large\x1b[2J"]
    outcome = program("generate", "a cat", "--enhance-with", endpoint.url)
    assert outcome.code == 1 and not program.engines, "no model was loaded"
    assert "it has several models: small, large[2J" in outcome.stderr and "--enhance-model" in outcome.stderr
    host = endpoint.url.removesuffix("/v1")
    assert program("generate", "a cat", "--enhance-with", host, "--enhance-model", "large").code == 0
    assert endpoint.requests[-1]["model"] == "large"


@pytest.mark.parametrize(
    "models", [b'{"data": 5}', b'{"data": "writer"}', b'{"data": {"id": "x"}}', b"[]", b'"x"', b'[[[["']
)
def test_a_list_of_models_that_is_none(program: Program, endpoint: FakeEndpoint, models: bytes) -> None:
    endpoint.model_list = models
    outcome = program("generate", "a cat", "--enhance-with", endpoint.url)
    assert outcome.code == 1 and not outcome.stdout
    assert "error: the prompt was not rewritten: " in outcome.stderr and "unexpected" not in outcome.stderr


def test_json_and_a_dry_run(program: Program, endpoint: FakeEndpoint) -> None:
    outcome = program("generate", "a cat", "--enhance-with", endpoint.url, "--dry-run")
    assert outcome.code == 0 and "enhance true" in outcome.stdout.lower() and not endpoint.requests
    printed = json.loads(program("generate", "a cat", "--enhance-with", endpoint.url, "--json").stdout)
    assert (printed["prompt"], printed["original_prompt"]) == (REWRITTEN, "a cat")
    assert "original_prompt" not in json.loads(program("generate", "a cat", "--json").stdout)


def test_pictures_are_not_sent_to_an_endpoint(program: Program, endpoint: FakeEndpoint) -> None:
    Image.new("RGB", (64, 64), "red").save("in.png")
    assert program("edit", "in.png", "make it blue", "--enhance-with", endpoint.url, "-o", "out.png").code == 0
    assert endpoint.requests[0]["messages"][1]["content"] == "Instruction: make it blue"


FAILURES = [
    ({"status": 401, "body": b"{}"}, "needs a key", "SENSENOVA_ENHANCE_KEY"),
    ({"status": 500, "body": b'{"error": {"message": "it \\u001b[31mbroke"}}'}, "it [31mbroke", ""),
    ({"status": 404, "body": b'{"error": "no such model"}'}, "no such model", ""),
    ({"body": b"<html>"}, "the answer is not JSON", ""),
    ({"body": b"[" * 100_000}, "the answer is not JSON", ""),
    ({"body": b'{"choices": []}'}, "the answer is not one of a chat", ""),
    ({"body": b'{"choices": [{"message": {"content": 7}}]}'}, "the answer is not one of a chat", ""),
    ({"body": b" " * 2_000_000}, "more than 1,048,576 bytes", ""),
    ({"reply": "long " * 2000}, "the reply has 9,999 characters", ""),
    ({"reply": "<think>hm</think> ... "}, "the reply contains no prompt", ""),
]


@pytest.mark.parametrize(("failure", "what", "hint"), FAILURES)
def test_a_failure_names_the_way_on(
    program: Program, endpoint: FakeEndpoint, failure: dict[str, object], what: str, hint: str
) -> None:
    for name, value in failure.items():
        setattr(endpoint, name, value)
    outcome = program("generate", "a cat", "--enhance-with", endpoint.url)
    assert outcome.code == 1 and not program.engines and not outcome.stdout
    assert "error: the prompt was not rewritten: " in outcome.stderr and what in outcome.stderr
    assert "draw your own words: --no-enhance" in outcome.stderr and hint in outcome.stderr
    assert "\x1b" not in outcome.stderr
    assert program("generate", "a cat", "--enhance-with", endpoint.url, "--no-enhance").code == 0
    assert record_of("a-cat-42.png")["original_prompt"] is None


def test_the_key_does_not_follow_a_redirect(
    program: Program, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSENOVA_ENHANCE_KEY", "sk-secret")
    with fake_endpoint() as other:
        endpoint.status, endpoint.location = 307, f"{other.url}/chat/completions"
        outcome = program("generate", "a cat", "--enhance-with", endpoint.url, "--enhance-model", "x")
        assert outcome.code == 1 and f"redirects to {other.url}" in outcome.stderr
        assert other.headers == []


def test_an_endpoint_that_is_down(program: Program, endpoint: FakeEndpoint) -> None:
    outcome = program("generate", "a cat", "--enhance-with", "http://127.0.0.1:9/v1", "--enhance-model", "x")
    assert outcome.code == 1 and "http://127.0.0.1:9/v1 cannot be reached" in outcome.stderr


@pytest.mark.parametrize("url", ["localhost:11434", "http://user:word@host/v1", "ftp://host", "http://host/v1?key=x"])
def test_an_address_that_is_none(program: Program, url: str) -> None:
    outcome = program("generate", "a cat", "--enhance-with", url)
    assert outcome.code == 2 and f"--enhance-with {url}" in outcome.stderr
    assert "http://localhost:11434/v1" in outcome.stderr


def test_a_key_that_is_none(program: Program, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSENOVA_ENHANCE_KEY", "two words")
    outcome = program("generate", "a cat", "--enhance-with", endpoint.url)
    assert outcome.code == 1 and "SENSENOVA_ENHANCE_KEY contains no usable key" in outcome.stderr
    assert "two words" not in outcome.stderr and not endpoint.requests


def test_a_small_model_keeps_the_prompt(program: Program, endpoint: FakeEndpoint) -> None:
    """The chat of a small model, such as the demo, only knows its own few sentences."""
    recommended = Path(os.environ["SENSENOVA_MODEL"])
    (recommended / "world.json").write_text(World(shapes={"cat": ()}, objects={}, colors=("red",)).model_dump_json())
    outcome = program("generate", "a cat", "--enhance", "-o", "cat.png")
    assert outcome.code == 0 and "The demo cannot rewrite prompts" in outcome.stderr
    assert [request.prompt for request in program.engines[-1].requests] == ["a cat"]
    assert record_of("cat.png") == {"prompt": "a cat", "original_prompt": "a cat", "enhanced_by": None}
    program("generate", "a cat", "--enhance-with", endpoint.url, "-o", "new.png")
    assert record_of("new.png")["prompt"] == REWRITTEN


def test_several_prompts_and_existing_pictures(program: Program, endpoint: FakeEndpoint) -> None:
    words = ("generate", "a cat", "a dog", "-n", "2", "--enhance-with", endpoint.url, "-o", "out/")
    assert program(*words).code == 0
    assert len(endpoint.requests) == 2
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "a-cat-42.png", "a-cat-43.png", "a-dog-42.png", "a-dog-43.png",
    ]  # fmt: skip
    Path("out/a-dog-43.png").unlink()
    assert program("enhance", "--forget").code == 0
    endpoint.reply = "Another reply."
    outcome = program(*words, "--skip-existing")
    assert outcome.code == 0 and outcome.stdout == "out/a-dog-43.png\n"
    assert "3 of 4 pictures exist already" in outcome.stderr
    record = read_record(Path("out/a-dog-43.png"))
    assert record is not None and record.prompt == "Another reply."


def test_a_prompt_alone(program: Program, endpoint: FakeEndpoint, writer: Program) -> None:
    outcome = program("enhance", "a cat", "--enhance-with", endpoint.url)
    assert (outcome.code, outcome.stdout) == (0, f"{REWRITTEN}\n") and not program.engines
    outcome = program("enhance", "a cat", "--enhance-with", endpoint.url, "--json")
    assert json.loads(outcome.stdout) == {"prompt": REWRITTEN, "original_prompt": "a cat", "enhanced_by": "writer"}
    outcome = writer("enhance", stdin="a kite\n")
    assert outcome.stdout == f"{REWRITTEN}\n" and isinstance(writer.request, AnswerRequest)
    assert program("enhance").code == 2


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("  A cat.\n", "A cat."),
        ('"A cat."', "A cat."),
        ('A "cat" and a "dog"', 'A "cat" and a "dog"'),
        ('"A cat" and a "dog"', '"A cat" and a "dog"'),
        ("Prompt: A cat.", "A cat."),
        ("**New prompt:** A cat.", "A cat."),
        ("```text\nA cat.\n```", "A cat."),
        ("<think>a <img> cat?</think>\n\nA cat.", "A cat."),
        ("A\x1b[31m cat\x07.\r\nIt\tsits.\u202e", "A[31m cat.\nIt sits."),
        ("A <image> <img>cat</img>.", "A cat ."),
        ("One.\n\n\n\nTwo.", "One.\n\nTwo."),
        ("caf\udce9 au lait", "caf au lait"),
        ("一只猫。", "一只猫。"),
    ],
)
def test_replies(reply: str, text: str) -> None:
    assert clean_reply(reply, "a cat") == text


def test_replies_that_were_cut() -> None:
    assert clean_reply("One. Two is 3.5 m long. Thr", "a cat", is_cut=True) == "One. Two is 3.5 m long."
    assert clean_reply("一。二", "a cat", is_cut=True) == "一。"
    assert clean_reply("no end", "a cat", is_cut=True) == "no end"
    with pytest.raises(EnhanceError, match="contains no prompt"):
        clean_reply("<think>It could be", "a cat", is_cut=True)


@pytest.mark.parametrize(
    ("reply", "prompt"),
    [("", "a cat"), ("\u200b…", "a cat"), ("x" * (MAX_LENGTH + 1), "a cat"), ("like it", "like <image>")],
)
def test_replies_that_cannot_be_used(reply: str, prompt: str) -> None:
    with pytest.raises(EnhanceError):
        clean_reply(reply, prompt)
