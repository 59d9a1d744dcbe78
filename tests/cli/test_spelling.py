"""The spelling of settings in messages: flags for a command, slash commands for a session."""

import pytest

from model.errors import DeviceMemoryError
from sensenova_cli.render.spelling import as_flags, as_session
from sensenova_cli.render.turn_view import TurnView
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import Program


@pytest.mark.parametrize(
    ("text", "flags", "session"),
    [
        ("use `offload=auto`", "use --offload auto", "use /set offload auto"),
        ("raise it with `max_tokens`", "raise it with --max-tokens", "raise it with max_tokens"),
        ("`check_weights=true` tells", "--check-weights tells", "/set check_weights true tells"),
        ("`metadata=false` works", "--no-metadata works", "/set metadata false works"),
        ("as with `enforce_eager`", "as with --enforce-eager", "as with enforce_eager"),
        (
            "a smaller picture (`size=512x512`)",
            "a smaller picture (--size 512x512)",
            "a smaller picture (/set size 512x512)",
        ),
        ("take `model=demo`", "take --model demo", "take /model demo"),
        ("try `lora=a.safetensors:0.5`", "try --lora a.safetensors:0.5", "try /lora a.safetensors:0.5"),
        ("with them: `lora`", "with them: --lora", "with them: lora"),
        ("add `images=FILE`", "add --image FILE", "add /load FILE"),
        ("see: `sensenova info`", "see: `sensenova info`", "see: `sensenova info`"),
    ],
)
def test_both_spellings(text: str, flags: str, session: str) -> None:
    assert as_flags(text) == flags
    assert as_session(text) == session


def run_out_of_memory(engine: FakeEngine) -> None:
    def fail(step: int) -> None:
        raise DeviceMemoryError("`offload` off: out of memory", "use `offload=layers`, or ask for less")

    engine.on_step = fail


def test_an_error_in_both_frontends(program: Program) -> None:
    program.prepare = run_out_of_memory
    command = program("generate", "a cat", "-q")
    assert command.code == 4
    assert command.stderr == "error: --offload off: out of memory\nhint: use --offload layers, or ask for less\n"
    session = program("repl", "--quiet", stdin="a cat\n/history\n")
    assert session.code == 1
    assert "error: offload off: out of memory\nhint: use /set offload layers, or ask for less\n" in session.stderr
    assert "(failed: offload off: out of memory)" in session.stderr  # as logged in the session
    assert "`" not in session.stderr


def test_errors_of_a_command_with_json_spell_flags(program: Program) -> None:
    program.prepare = run_out_of_memory
    done = program("generate", "a cat", "--json", "-q")
    assert (done.stdout, done.stderr.splitlines()[1]) == ("", "hint: use --offload layers, or ask for less")


def test_a_load_error_in_both_frontends(program: Program) -> None:
    program.load_error = DeviceMemoryError("no room", "use `offload=auto`")
    assert "hint: use --offload auto\n" in program("generate", "a cat").stderr
    assert "hint: use /set offload auto\n" in program("repl", stdin="a cat\n").stderr


def test_notices_in_both_frontends(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "placement", "as by `gpus` 2")

    def prepare(engine: FakeEngine) -> None:
        engine.notice = "`offload` module takes more than was allowed"

    program.prepare = prepare
    command = program("generate", "a cat").stderr
    assert "note: --offload module takes more" in command
    assert "bfloat16 on cpu; as by --gpus 2\n" in command
    session = program("repl", stdin="a cat\n").stderr
    assert "note: offload module takes more" in session
    assert "bfloat16 on cpu; as by gpus 2\n" in session


@pytest.mark.parametrize(
    ("words", "shown"),
    [(("generate", "a cat"), "model: --model SenseNova/"), (("repl",), "model: /model SenseNova/")],
    ids=["shell", "session"],
)
def test_the_notice_of_the_demo_in_both_frontends(
    program: Program, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], shown: str
) -> None:
    """Each is the first run of its day, which shows the notice."""
    monkeypatch.delenv("SENSENOVA_MODEL")
    assert shown in program(*words, stdin="").stderr


def test_a_view_spells_flags_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    TurnView(quiet=False).notice("see `seed`")
    TurnView(quiet=False, spelling=as_session).muted("see `seed=7`")
    assert capsys.readouterr().err == "note: see --seed\nsee /set seed 7\n"
