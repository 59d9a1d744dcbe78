"""The log: what one-shots and sessions write, how it is searched, and what happens when it cannot be used."""

import json
import multiprocessing
import os
import shlex
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model import CheckpointError
from sensenova_cli.errors import LogError
from sensenova_cli.log import store, tables
from sensenova_cli.log.entries import LogEntry, LoggedFile
from sensenova_cli.log.store import Log, log_file
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import Outcome, Program

NO_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


@pytest.fixture(autouse=True)
def plain_lists(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are for a pipe, so that nothing is cut."""
    monkeypatch.delenv("COLUMNS")


def listed(program: Program, *words: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in program("log", *words, "--json").stdout.splitlines()]


def entry(prompt: str, **changes: object) -> LogEntry:
    fields = {"task": "chat", "status": "done", "reason": "", "seconds": 1.0, "model": "demo"}
    return LogEntry(**{**fields, "prompt": prompt, "settings": {}, "loaded": {}, **changes})  # type: ignore[arg-type]


def test_pictures_and_answers_are_logged(program: Program, home: Path) -> None:
    made = program("generate", "a red owl", "-n", "2", "--seed", "7").stdout.split()
    program("chat", "What is an owl?")
    answer, picture = listed(program)
    assert (answer["task"], answer["prompt"], answer["answer"]) == ("chat", "What is an owl?", "It is a cat.")
    assert (picture["task"], picture["status"], picture["number"]) == ("generate", "done", 1)
    assert [Path(file["path"]).name for file in picture["files"]] == made  # type: ignore[attr-defined]
    assert picture["path"] == str(home / made[0])
    assert picture["settings"]["num_images"] == 2 and picture["settings"]["seed"] == 7  # type: ignore[index]
    text = program("log").stdout.splitlines()
    assert "chat" in text[0] and "→ It is a cat." in text[0]
    assert "a red owl" in text[1] and f"→ {home / made[0]} +1" in text[1]


def test_seed_and_size_are_logged_also_if_they_are_the_defaults(program: Program) -> None:
    program("generate", "a cat")
    assert {"seed": 42, "size": "64x64"}.items() <= listed(program)[0]["settings"].items()  # type: ignore[attr-defined]


def test_a_word_in_place_of_a_search_gets_a_hint(program: Program) -> None:
    outcome = program("log", "owl")
    assert outcome.code == 2 and "to search the log: sensenova log -q WORDS" in outcome.stderr


def test_the_log_is_private(program: Program) -> None:
    program("chat", "hello")
    assert stat.S_IMODE(log_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(log_file().parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("way", ["flag", "file", "environment"])
def test_it_can_be_turned_off(program: Program, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "file":
        Path("sensenova.toml").write_text("log = false\n")
    if way == "environment":
        monkeypatch.setenv("SENSENOVA_LOG", "false")
    flag = ["--no-log"] if way == "flag" else []
    assert program("generate", "a cat", *flag).code == 0
    assert program("chat", "hello", *flag).code == 0
    assert program("repl", *flag, stdin="a dog\n").code == 0
    assert not log_file().exists()
    assert program("log").stderr == "note: nothing is logged yet\n"


def test_turns_of_sessions_are_logged_with_their_session(program: Program) -> None:
    assert (
        program("repl", "--session", "owls", stdin="a red owl\nmake it blue\n?what is it\n/set log false\na cat\n").code
        == 0
    )
    question, edit, drawn = listed(program)
    assert [each["task"] for each in (drawn, edit, question)] == ["generate", "edit", "describe"]
    assert {each["session"] for each in (drawn, edit, question)} == {"owls"}
    assert Path(str(drawn["path"])).is_file() and "/sessions/owls/pictures/" in str(drawn["path"])
    assert edit["inputs"] == [drawn["path"]] and question["inputs"] == [edit["path"]]


def test_a_session_that_is_not_saved_is_logged_with_the_files_that_stay(program: Program, home: Path) -> None:
    program("repl", "--no-session", stdin="a red owl\n")
    (drawn,) = listed(program)
    assert Path(str(drawn["path"])).parent == home and drawn["session"] is None


def test_failed_and_cancelled_requests_are_logged(program: Program) -> None:
    def fail(number: int) -> None:
        raise CheckpointError("the weights are gone", "")

    def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    program.prepare = lambda engine: setattr(engine, "on_step", fail)
    assert program("generate", "a cat").code == 3
    program.prepare = lambda engine: setattr(engine, "on_step", interrupt)
    assert program("generate", "a dog").code == 130
    cancelled, failed = listed(program)
    assert (failed["status"], failed["reason"]) == ("failed", "the weights are gone")
    assert cancelled["status"] == "cancelled" and cancelled["path"] is None
    assert "(cancelled)" in program("log").stdout


def test_a_picture_that_was_written_before_an_interruption_is_logged(program: Program) -> None:
    steps = iter(range(1000))

    def prepare(engine: FakeEngine) -> None:
        def stop(number: int) -> None:
            if next(steps) == 5:
                raise KeyboardInterrupt

        engine.on_step = stop

    program.prepare = prepare
    assert program("generate", "a cat", "-n", "3").code == 130
    (cancelled,) = listed(program)
    assert len(cancelled["files"]) == 1 and Path(str(cancelled["path"])).is_file()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("owl", [3, 1]),
        ("OWL", [3, 1]),
        ("red owl", [1]),
        ("owl red", [1]),
        ("ow", [3, 1]),
        ("wl re", [1]),
        ("猫头鹰", [4]),
        ("猫", [4]),
        ("Über", [5]),
        ("über", [5]),
        ("100%", [6]),
        ("%", [6]),
        ('"', [6]),
        ("it's AND", [7]),
        ("owls/moon", [3]),
        ("nowhere", []),
        ("wise bird", [2]),
    ],
)
@pytest.mark.parametrize("has_index", [True, False])
def test_search(tmp_path: Path, words: str, found: list[int], has_index: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_index:
        if words == "über":
            pytest.skip("without the index, only letters of ASCII have no case")
        monkeypatch.setattr(tables, "_INDEX", "CREATE VIRTUAL TABLE words USING nothing (text)")
    log = Log(print, tmp_path / "log.sqlite")
    picture = LoggedFile("/home/me/owls/moon.png", 1, "")
    log.append(
        [
            entry("a red owl"),
            entry("what is it", answer="A wise bird."),
            entry("a barn", files=(picture,)),
            entry("一只猫头鹰"),
            entry("Über den Wolken"),
            entry('100% of a "cat"'),
            entry("it's black AND white"),
        ]
    )
    assert [each.number for each in log.newest(None, words)] == found


def test_entries_of_a_program_without_the_index_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(print, tmp_path / "log.sqlite")
    log.append([entry("an owl")])
    with monkeypatch.context() as patch:
        patch.setattr(store, "_has_index", lambda database: False)
        log.append([entry("another owl")])
    assert [each.number for each in log.newest(None, "owl")] == [2, 1]


def test_the_number_of_entries_in_a_list(program: Program) -> None:
    Log(print).append([entry(f"message {number}") for number in range(1, 31)])
    assert [each["number"] for each in listed(program)] == list(range(30, 10, -1))
    assert [each["number"] for each in listed(program, "-n", "3")] == [30, 29, 28]
    assert len(listed(program, "-n", "0")) == 30
    assert [each["number"] for each in listed(program, "-q", "message 3", "-n", "2")] == [30, 23]


def test_a_list_on_a_narrow_screen(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    Log(print).append([entry("一只猫头鹰 " * 20), entry("an owl " * 20)])
    monkeypatch.setenv("COLUMNS", "60")
    lines = program("log").stdout.splitlines()
    assert len(lines) == 2 and all("…" in line for line in lines)
    from rich.cells import cell_len

    assert max(map(cell_len, lines)) <= 60


def test_show_says_where_the_files_are(program: Program, home: Path) -> None:
    for name in ("here", "changed", "renamed", "moved", "gone"):
        program("generate", name, "-o", f"{name}.png", "--seed", str(len(name) * 7))
    changed = Path("changed.png").read_bytes()
    Path("changed.png").write_bytes(changed[:-1] + b"?")
    Path("renamed.png").rename("better.png")
    (home.parent / "elsewhere").mkdir()
    Path("moved.png").rename(home.parent / "elsewhere" / "moved.png")
    Path("gone.png").unlink()
    texts = [program("log", "show", str(number)).stdout for number in range(1, 6)]
    assert f"file: {home / 'here.png'}\n" in texts[0]
    assert f"{home / 'changed.png'} (its content has changed)" in texts[1]
    assert f"{home / 'renamed.png'} (moved to {home / 'better.png'})" in texts[2]
    assert f"(moved to {home.parent / 'elsewhere' / 'moved.png'})" in texts[3]
    assert f"{home / 'gone.png'} (missing)" in texts[4]
    assert "(missing)" in program("log").stdout.splitlines()[0]
    assert json.loads(program("log", "show", "3", "--json").stdout)["path"] == str(home / "better.png")


def test_pictures_of_a_renamed_session_are_found(program: Program) -> None:
    program("repl", "--session", "owls", stdin="a red owl\n/rename birds\n")
    assert "/sessions/birds/pictures/" in program("log", "show").stdout


def test_a_session_lists_the_log(program: Program) -> None:
    program("generate", "a red owl")
    outcome = program("repl", stdin="/log\n/log RED\n/log nowhere\na cat\n/log cat\n")
    lines = [line for line in outcome.stderr.splitlines() if "→" in line]
    assert outcome.code == 0 and ["owl" in line for line in lines] == [True, True, False]
    assert "no request has these words" in outcome.stderr


def test_again_makes_the_same_request(program: Program) -> None:
    words = ["a {{red|blue}} owl", "--seed", "7", "--cfg-interval", "0.1", "0.5", "--think", "--size", "96x64"]
    first = program("generate", *words, "--no-metadata").stdout.strip()
    wanted = program.request
    outcome = program("log", "again")
    assert outcome.code == 0 and program.request == wanted
    second = outcome.stdout.strip()
    assert second != first and Path(second).read_bytes() != b""
    printed = shlex.split(program("log", "again", "1", "--print").stdout)
    assert printed[:3] == ["sensenova", "generate", "a {{red|blue}} owl"]
    assert program(*printed[1:]).code == 0 and program.request == wanted


def test_again_does_not_depend_on_settings_that_have_changed(program: Program) -> None:
    program("generate", "a cat", "--size", "64x64")
    wanted = program.request
    Path("sensenova.toml").write_text("seed = 5\nnum_steps = 9\nthink = true\ncfg_interval = [0.2, 0.3]\n")
    program("generate", "a cat")
    assert program.request != wanted
    assert program("log", "again", "1").code == 0 and program.request == wanted


@pytest.mark.parametrize("place", ["one-shot", "session"])
def test_a_rewritten_prompt_is_logged_with_the_user_s_words(program: Program, place: str) -> None:
    program.prepare = lambda engine: setattr(engine, "answer", ["A cat ", "with green eyes."])
    if place == "session":
        assert program("repl", "--enhance", stdin="a hungry beast\n").code == 0
    else:
        assert program("generate", "a hungry beast", "--enhance").code == 0
    wanted = program.request
    (drawn,) = listed(program, "-q", "hungry")
    assert (drawn["prompt"], drawn["original_prompt"]) == ("A cat with green eyes.", "a hungry beast")
    assert "your prompt: a hungry beast" in program("log", "show").stdout
    Path("sensenova.toml").write_text("enhance = true\n")
    assert program("log", "again").code == 0
    assert program.request.prompt == wanted.prompt and len(program.engines[-1].requests) == 1


def test_again_repeats_each_kind_of_request(program: Program) -> None:
    program("generate", "a cat", "-o", "cat.png")
    commands = [
        ("edit", "cat.png", "make it red", "--size", "96x64"),
        ("describe", "cat.png", "-p", "-what is it?"),
        ("chat", "-hello", "--system", "Be short."),
        ("interleave", "a kite", "--system", "", "--no-think", "--size", "64x64"),
        ("run", "--prompt", "a dog", "--seed", "3", "--size", "64x64"),
    ]
    for words in commands:
        words = ("chat", "--system", "Be short.", "--", "-hello") if words[1] == "-hello" else words
        assert program(*words).code == 0
        wanted = program.request
        assert program("log", "again").code == 0
        assert program.request == wanted, words


def test_again_of_what_cannot_be_repeated(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("generate", "a cat", "-o", "cat.png")
    program("edit", "-", "make it red", stdin=Path("cat.png").read_bytes())
    outcome = program("log", "again")
    assert outcome.code == 2 and "standard input" in outcome.stderr
    picture = Path("cat.png").read_bytes()
    monkeypatch.setattr("sensenova_cli.inputs.pictures.read_clipboard_picture", lambda: picture)
    for words in (("edit", "clipboard", "make it red"), ("describe", "clipboard")):
        assert program(*words).code == 0
        outcome = program("log", "again")
        assert outcome.code == 2 and "from the clipboard, which the log does not keep" in outcome.stderr
    program("repl", "--session", "talk", stdin="/chat hello\n/chat and now?\n")
    outcome = program("log", "again")
    assert outcome.code == 2 and "sensenova repl --session talk" in outcome.stderr


@pytest.mark.parametrize("words", [("show", "7"), ("again", "7"), ("rm", "7", "-y")])
def test_an_unknown_number(program: Program, words: tuple[str, ...]) -> None:
    program("chat", "hello")
    outcome = program("log", *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "the log has no entry 7" in outcome.stderr and "sensenova log" in outcome.stderr


@pytest.mark.parametrize("command", ["show", "again"])
def test_an_empty_log(program: Program, command: str) -> None:
    outcome = program("log", command)
    assert outcome.code == 2 and "nothing is logged yet" in outcome.stderr


def test_entries_are_removed_and_pictures_stay(program: Program) -> None:
    for prompt in ("a secret", "a cat", "a dog"):
        program("generate", prompt)
    assert program("log", "rm", "1", stdin="n\n").code == 1
    assert program("log", "rm", "1").code == 2  # standard input gave no answer
    assert len(listed(program)) == 3
    assert program("log", "rm", "1", "3", "-y").code == 0
    assert [each["number"] for each in listed(program)] == [2]
    assert b"a secret" not in log_file().read_bytes()
    assert listed(program, "-q", "secret") == [] and len(list(Path().glob("*.png"))) == 3
    program("generate", "a fox")
    assert [each["number"] for each in listed(program)] == [4, 2]  # numbers are not given twice
    assert program("log", "clear", "-y").code == 0 and listed(program) == []


def test_old_entries_are_removed(program: Program) -> None:
    now = datetime.now(UTC)
    Log(print).append([entry("old", time=now - timedelta(days=40)), entry("new", time=now)])
    assert "removed 1 entry" in program("log", "rm", "--older-than", "30d", "-y").stderr
    assert [each["prompt"] for each in listed(program)] == ["new"]
    assert "no entry is older" in program("log", "clear", "--older-than", "30d").stderr
    outcome = program("log", "clear", "--older-than", "soon")
    assert outcome.code == 2 and "try --older-than 30d" in outcome.stderr
    assert program("log", "rm").code == 2


DAMAGE = {
    "text": b"this is not a database",
    "zeros": bytes(100_000),
    "header only": b"SQLite format 3\0" + bytes(4096),
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_log_is_moved_aside(program: Program, content: bytes) -> None:
    log_file().parent.mkdir(parents=True)
    log_file().write_bytes(content)
    outcome = program("generate", "a cat")
    assert outcome.code == 0 and Path(outcome.stdout.strip()).is_file()
    assert "note: the log was damaged: it is now " in outcome.stderr
    (aside,) = log_file().parent.glob("log-damaged-*.sqlite")
    assert aside.read_bytes() == content
    assert [each["prompt"] for each in listed(program)] == ["a cat"]


def test_a_log_that_was_damaged_in_the_middle_is_moved_aside(program: Program) -> None:
    Log(print).append([entry(f"message {number}") for number in range(2000)])
    content = log_file().read_bytes()
    damaged = content[:4096] + bytes(len(content) // 2) + content[4096 + len(content) // 2 :]
    log_file().write_bytes(damaged)
    outcome = program("log", "-n", "0", "-q", "message 1")
    assert outcome.code == 0 and "the log was damaged" in outcome.stderr
    assert [path.read_bytes() for path in log_file().parent.glob("log-damaged-*")] == [damaged]
    assert program("chat", "hello").code == 0 and len(listed(program)) == 1


def test_a_damaged_log_that_cannot_be_renamed_loses_no_picture(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(log: Log, opened: object) -> None:
        raise PermissionError(13, "Permission denied")

    log_file().parent.mkdir(parents=True)
    log_file().write_bytes(b"damaged" * 100)
    monkeypatch.setattr(Log, "_rename", refuse)
    outcome = program("generate", "a cat")
    assert outcome.code == 0 and Path(outcome.stdout.strip()).is_file()
    assert "not logged: the log" in outcome.stderr and log_file().read_bytes() == b"damaged" * 100
    assert program("log").code == 1


def test_a_second_damaged_log_gets_another_name(program: Program) -> None:
    for _ in range(3):
        log_file().parent.mkdir(parents=True, exist_ok=True)
        log_file().write_bytes(b"damaged" * 100)
        assert program("chat", "hello").code == 0
    assert len(list(log_file().parent.glob("log-damaged-*.sqlite"))) == 3


def test_a_database_of_another_program_is_moved_aside(program: Program) -> None:
    log_file().parent.mkdir(parents=True)
    with closing(sqlite3.connect(log_file())) as database:
        database.execute("CREATE TABLE entries (secret TEXT)")
    assert program("chat", "hello").code == 0
    (aside,) = log_file().parent.glob("log-damaged-*.sqlite")
    with closing(sqlite3.connect(aside)) as database:
        assert database.execute("SELECT count(*) FROM entries").fetchone() == (0,)


def change_log(*statements: str) -> None:
    with closing(sqlite3.connect(log_file())) as database, database:
        for statement in statements:
            database.execute(statement)


def test_a_log_without_the_newest_column_gets_it(program: Program) -> None:
    program("chat", "hello")
    change_log("ALTER TABLE entries DROP COLUMN original", "PRAGMA user_version = 1")
    assert program("log").code == 0
    outcome = program("chat", "good morning")
    assert outcome.code == 0 and "note:" not in outcome.stderr
    assert [each["prompt"] for each in listed(program, "-q", "o")] == ["good morning", "hello"]
    assert list(log_file().parent.glob("*damaged*")) == []


def test_a_folder_whose_name_is_not_unicode(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSENOVA_DATA_DIR", str(tmp_path / os.fsdecode(b"caf\xe9 %20?mode=x#y")))
    assert "note:" not in program("chat", "hello").stderr
    assert [each["prompt"] for each in listed(program)] == ["hello"]


def test_a_log_without_its_table_is_moved_aside(program: Program) -> None:
    program("chat", "hello")
    change_log("DROP TABLE entries")
    outcome = program("chat", "good morning")
    assert outcome.code == 0 and "the log was damaged" in outcome.stderr
    assert [each["prompt"] for each in listed(program)] == ["good morning"]


@pytest.mark.parametrize(
    "damage",
    [
        "details = '{'",
        "details = '[]'",
        """details = '{"files": [{"evil": 1}]}'""",
        "time = 'yesterday'",
        "seconds = 'soon'",
        "prompt = x'ff00'",
        "status = 7.5, model = x'00'",
    ],
)
def test_a_damaged_entry_hides_no_other_one_and_can_be_removed(program: Program, damage: str) -> None:
    program("chat", "hello")
    program("chat", "good morning")
    change_log(f"UPDATE entries SET {damage} WHERE number = 1")
    outcome = program("log", "--json")
    assert outcome.code == 0 and json.loads(outcome.stdout)["prompt"] == "good morning"
    assert "cannot be read: entries 1;" in outcome.stderr
    for command in ("show", "again"):
        refused = program("log", command, "1")
        assert refused.code == 1 and "hint: to remove it: sensenova log rm 1" in refused.stderr
    assert program("log", "rm", "1", "-y").code == 0
    assert program("log").stderr == ""


def test_a_search_for_text_that_is_not_unicode(program: Program) -> None:
    program("chat", "hello")
    outcome = program("log", "-q", os.fsdecode(b"caf\xe9"))
    assert outcome.code == 0 and "note: no request has " in outcome.stderr


def test_numbers_that_are_too_large_for_the_database(program: Program) -> None:
    program("chat", "hello")
    huge = "9" * 30
    assert "hello" in program("log", "-n", huge).stdout
    for words in (("show", huge), ("again", huge), ("rm", huge, "-y")):
        outcome = program("log", *words)
        assert outcome.code == 2 and f"error: the log has no entry {huge}" in outcome.stderr


def test_a_search_with_too_many_words(program: Program) -> None:
    program("chat", "ab abc")
    assert "ab abc" in program("log", "-q", "ab abc " * 5000).stdout
    outcome = program("log", "-q", " ".join(map(str, range(101))))
    assert outcome.code == 2 and "the search has 101 words; at most 100 are possible" in outcome.stderr


def test_text_that_is_not_unicode_is_shown(program: Program) -> None:
    program("chat", "hello")
    change_log("UPDATE entries SET prompt = CAST(x'41ff42' AS TEXT)")
    assert listed(program)[0]["prompt"] == "A�B"


@pytest.mark.parametrize(
    "change",
    ["task = 'sculpt'", 'details = replace(details, \'"num_steps": 4\', \'"num_steps": "many"\')'],
)
def test_again_of_a_request_that_this_version_does_not_know(program: Program, change: str) -> None:
    program("generate", "a cat")
    change_log(f"UPDATE entries SET {change}")
    outcome = program("log", "again")
    assert outcome.code == 1 and "hint: update sensenova" in outcome.stderr


def test_a_file_whose_logged_path_no_system_allows_is_searched(program: Program) -> None:
    program("generate", "a cat")
    change_log(
        "UPDATE entries SET details = replace(details, '/a-cat', '\\u0000/a-cat'), paths = 'a' || char(0) || '/b'"
    )
    assert "(moved to " in program("log", "show").stdout


def test_a_log_of_a_newer_version_is_left_alone(program: Program) -> None:
    program("chat", "hello")
    with closing(sqlite3.connect(log_file())) as database:
        database.execute("PRAGMA user_version = 99")
    before = log_file().read_bytes()
    outcome = program("generate", "a cat")
    assert outcome.code == 0 and "newer version" in outcome.stderr
    assert log_file().read_bytes() == before and program("log").code == 1


@pytest.fixture
def locked(program: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another process writes the log and does not finish."""
    program("chat", "first")
    monkeypatch.setattr(store, "PATIENCE", 0.05)
    monkeypatch.setattr("sensenova_cli.turns.log_sink.PATIENCE", 0.05)
    with closing(sqlite3.connect(log_file(), isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield


def test_a_locked_log_loses_no_picture(program: Program, locked: None) -> None:
    outcome = program("generate", "a cat")
    assert outcome.code == 0 and Path(outcome.stdout.strip()).is_file()
    assert outcome.stderr.count("not logged: another process has locked the log") == 1
    outcome = program("log")
    assert outcome.code == 1 and "another process has locked the log" in outcome.stderr


def test_entries_wait_for_a_locked_log(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompts of a batch are logged with the first one after the lock is free."""
    append, attempts = Log.append, []

    def locked_at_first(log: Log, entries: list[LogEntry], patience: float) -> None:
        attempts.append((len(entries), patience > 0))
        if len(attempts) < 3:
            raise LogError("another process has locked the log", "")
        append(log, entries, patience)

    monkeypatch.setattr(Log, "append", locked_at_first)
    Path("prompts.txt").write_text("a cat\na dog\na fox\n")
    outcome = program("generate", "--prompt-file", "prompts.txt")
    assert outcome.code == 0 and outcome.stderr.count("not logged") == 1
    assert attempts == [(1, True), (2, False), (3, False)]
    assert [each["prompt"] for each in listed(program)] == ["a fox", "a dog", "a cat"]


@NO_ROOT
def test_a_folder_that_cannot_be_written_loses_no_picture(program: Program) -> None:
    program("chat", "first")
    log_file().chmod(0o400)
    log_file().parent.chmod(0o500)
    try:
        outcome = program("generate", "a cat")
        assert outcome.code == 0 and "not logged" in outcome.stderr
        assert [each["prompt"] for each in listed(program)] == ["first"]
        assert "first" in program("log", "-q", "first").stdout
    finally:
        log_file().parent.chmod(0o700)


def test_a_file_in_place_of_the_folder_loses_no_picture(program: Program) -> None:
    log_file().parent.parent.mkdir(parents=True, exist_ok=True)
    log_file().parent.write_text("in the way")
    outcome = program("generate", "a cat")
    assert outcome.code == 0 and Path(outcome.stdout.strip()).is_file() and "not logged" in outcome.stderr


def test_a_link_in_place_of_the_log_is_not_followed(program: Program, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    log_file().parent.mkdir(parents=True)
    log_file().symlink_to(victim)
    outcome = program("generate", "a cat")
    assert outcome.code == 0 and "not logged" in outcome.stderr and not victim.exists()


def write_many(file: Path, name: str) -> None:
    log = Log(lambda notice: sys.exit(notice), file)
    for number in range(25):
        log.append([entry(f"{name} {number}")], patience=30)


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    file = tmp_path / "log" / "log.sqlite"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_many, args=(file, f"writer{number}")) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    entries = Log(print, file).newest(None)
    assert sorted(each.prompt for each in entries) == sorted(f"writer{a} {b}" for a in range(4) for b in range(25))


def write_into_a_damaged_log(file: Path, name: str) -> None:
    Log(lambda notice: None, file).append([entry(name)], patience=30)


def test_several_processes_find_the_log_damaged(tmp_path: Path) -> None:
    file = tmp_path / "log.sqlite"
    file.write_bytes(b"damaged" * 1000)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_into_a_damaged_log, args=(file, f"writer{n}")) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(each.prompt for each in Log(print, file).newest(None)) == [f"writer{n}" for n in range(4)]
    assert len(list(tmp_path.glob("log-damaged-*"))) == 1


def test_a_server_logs_nothing() -> None:
    """`serve` runs its turns without the sink of the log."""
    from tests.cli.harness import REPOSITORY

    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "sensenova_cli" / "serve").rglob("*.py")]
    assert sources and not any("log_sink" in text or "run_turns" in text for text in sources)


def test_hostile_text_does_not_reach_a_terminal(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    Log(print).append([entry("a \x1b[31mred\u202e owl", answer="\x1b]0;title\x07 done")])
    outcome: Outcome = program("log")
    assert "\x1b" not in outcome.stdout and "\u202e" not in outcome.stdout
    assert "\x1b" not in program("log", "show").stdout
