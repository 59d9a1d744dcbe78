"""Properties that hold for all values: settings and their layers, sizes, session logs, and records in pictures."""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from config.settings import ImageSettings, LoadSettings
from config.sizes import TOKEN_PIXELS, check_size, format_size, parse_size, resolve_size
from config.sources import read_layers
from config.toml_file import read_settings_file, toml_literal
from model.conversation import Conversation
from model.errors import RequestError
from model.inputs.prompts import generate_prompt
from model.inputs.tokenizer import Tokenizer
from model.requests import GenerateRequest
from sensenova_cli.outputs.picture_files import encode_picture, read_record, without_folders
from sensenova_cli.outputs.picture_names import MAX_SLUG, slug
from sensenova_cli.outputs.picture_record import InputFile, PictureRecord
from sensenova_cli.sessions.entries import AnswerTurn
from sensenova_cli.sessions.saved import read_session
from sensenova_cli.sessions.session import Session

quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
"""Texts without lone surrogates."""

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**63 - 1),
    "num_steps": st.integers(1, 1000),
    "cfg_scale": st.floats(0, 100),
    "think": st.booleans(),
    "cfg_norm": st.sampled_from(["none", "global", "channel", "cfg_zero_star"]),
    "cfg_interval": st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
}
SETTINGS = st.fixed_dictionaries({}, optional=VALUES)
"""Some valid settings."""


@pytest.fixture(autouse=True)
def no_settings_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SENSENOVA_DTYPE", "SENSENOVA_MODEL", "SENSENOVA_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("SENSENOVA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@quick
@given(file=SETTINGS, record=SETTINGS, flags=st.fixed_dictionaries({}, optional={"seed": VALUES["seed"]}))
def test_later_layers_win(file: dict[str, Any], record: dict[str, Any], flags: dict[str, int]) -> None:
    Path("p.toml").write_text("".join(f"{name} = {toml_literal(value)}\n" for name, value in file.items()))
    typed = {name: str(value) for name, value in flags.items()}
    resolved = read_layers(typed, profile="./p.toml", record=record, record_label="picture a.png").resolve()
    expected = {**file, **record, **flags}
    for name, value in expected.items():
        assert plain(getattr(resolved.settings, name)) == value
        origin = "flag" if name in flags else "picture" if name in record else "profile"
        assert resolved.origins[name].startswith(origin)
    defaults = ImageSettings()
    for name in VALUES.keys() - expected.keys():
        assert getattr(resolved.settings, name) == getattr(defaults, name)
        assert resolved.origins[name] == "default"


@quick
@given(values=SETTINGS)
def test_a_settings_file_gives_back_what_was_written(values: dict[str, Any]) -> None:
    Path("p.toml").write_text("".join(f"{name} = {toml_literal(value)}\n" for name, value in values.items()))
    read = read_settings_file(Path("p.toml")).values
    assert {name: plain(value) for name, value in read.items()} == values


@quick
@given(
    width=st.integers(1, 10_000),
    height=st.integers(1, 10_000),
    trained=st.lists(
        st.tuples(st.integers(1, 64), st.integers(1, 64)).map(lambda pair: (pair[0] * 32, pair[1] * 32)),
        min_size=1,
        max_size=8,
    ),
)
def test_sizes_are_multiples_of_a_token(width: int, height: int, trained: list[tuple[int, int]]) -> None:
    if max(width, height) / min(width, height) > 4:
        return
    for size in ("auto", f"{width}:{height}"):
        resolved = resolve_size(size, trained, (width, height) if size == "auto" else None)
        assert all(side > 0 and side % TOKEN_PIXELS == 0 for side in resolved)
        assert parse_size(format_size(resolved)) == resolved
        check_size(resolved)


@quick
@given(prompt=TEXTS, values=SETTINGS, think=st.none() | TEXTS, model=TEXTS.filter(lambda text: text.strip() != ""))
def test_a_record_is_read_as_it_was_written(prompt: str, values: dict[str, Any], think: str | None, model: str) -> None:
    record = PictureRecord(
        task="edit",
        prompt=prompt,
        settings=ImageSettings.model_validate({**values, "size": "64x64"}),
        loaded=LoadSettings(model=model),
        inputs=(InputFile(path=f"/home/{model}/a.png", sha256="0"),),
        think_text=think,
        version="0",
    )
    for form in ("png", "jpeg", "webp"):
        file = encode_picture(Image.new("RGB", (8, 8), "teal"), record, form).content
        assert read_record(file) == record
        bare = without_folders(file)
        read = read_record(bare)
        assert read is not None and (read.prompt, read.settings, read.think_text) == (prompt, record.settings, think)
        assert read.inputs[0].path == "a.png" and not (read.loaded.model or "").startswith("/")
        with Image.open(io.BytesIO(bare)) as image, Image.open(io.BytesIO(file)) as before:
            assert image.tobytes() == before.tobytes()


@quick
@given(texts=st.lists(st.tuples(TEXTS, TEXTS), max_size=5), torn=st.integers(0, 200))
def test_a_session_gives_back_its_turns(texts: list[tuple[str, str]], torn: int) -> None:
    """A log that is cut off anywhere gives back the whole turns before the cut, and the session goes on."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENSENOVA_DATA_DIR", folder)
        with Session.open("s", "demo") as session:
            for number, (prompt, answer) in enumerate(texts, start=1):
                session.append(AnswerTurn(turn=number, kind="chat", prompt=prompt, answer=answer, model="demo"))
            assert session.folder is not None
            path = session.folder
        assert [(turn.prompt, turn.answer) for turn in answers(path)] == texts
        log = path / "session.jsonl"
        whole = log.read_bytes()
        log.write_bytes(whole[: max(1, len(whole) - torn)])
        left = [(turn.prompt, turn.answer) for turn in answers(path)]
        assert left == texts[: len(left)]
        with Session.open("s", "demo") as session:
            again = AnswerTurn(turn=session.state.next_turn, kind="chat", prompt="more", answer="", model="demo")
            session.append(again)
        assert [turn.prompt for turn in answers(path)] == [*(prompt for prompt, _ in left), "more"]
        for line in log.read_bytes().splitlines():
            json.loads(line)


def answers(folder: Path) -> list[AnswerTurn]:
    return [entry for entry in read_session(folder).entries if isinstance(entry, AnswerTurn)]


@quick
@given(prompt=st.text(max_size=200))
def test_a_slug_is_a_plain_file_name(prompt: str) -> None:
    name = slug(prompt)
    assert 0 < len(name) <= MAX_SLUG and not set(name) & set('/\\\0.<>:"|?*\n ')


WORDS = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=40).filter(
    lambda text: text.strip() != "" and "<" not in text
)


@quick
@given(turns=st.lists(st.tuples(WORDS, TEXTS), max_size=4), question=WORDS)
def test_a_conversation_contains_all_turns_in_order(turns: list[tuple[str, str]], question: str) -> None:
    conversation = Conversation()
    for asked, answer in turns:
        conversation = Conversation.after(conversation.ask(asked), answer.replace("\0", "").replace("<", ""))
    request = conversation.ask(question)
    assert [message.text for message in request.history[::2]] == [asked for asked, _ in turns]
    assert [message.role for message in request.history] == ["user", "assistant"] * len(turns)
    assert request.prompt == question


CONTROL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|endoftext|>", "<IMG_CONTEXT>")
HOSTILE = st.lists(st.sampled_from([*CONTROL, "<|", "|>", "<", "im_end", "\n", "system", "a"]), max_size=10).map(
    "".join
)


@quick
@given(text=HOSTILE, think=st.booleans())
def test_texts_add_no_control_tokens_to_a_prompt(text: str, think: bool, tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer(tiny_checkpoint)
    known = {number for token in CONTROL if len(ids := tokenizer.encode(token)) == 1 for number in ids}
    assert len(known) >= 4

    def control(text: str) -> list[int]:
        with contextlib.suppress(RequestError):
            request = GenerateRequest(text, ImageSettings(think=think))
            return [number for number in tokenizer.encode(generate_prompt(request.prompt, think)) if number in known]
        return []

    assert control(f"a {text}") in ([], control("a"))
