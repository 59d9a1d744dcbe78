"""Two runs with `--skip-existing` that write into one folder at the same time make each picture once."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sensenova_cli.turns import claims
from sensenova_cli.turns.claims import CLAIMS_FILE, Claims
from tests.cli.harness import Program, start
from tests.waiting import PATIENCE

RUN = ("generate", "a cat", "a dog", "--size", "32x32", "--steps", "2", "-o", "out/", "--skip-existing", "-q")
SHOWN = RUN[:-1]


def start_slow_run(home: Path) -> "subprocess.Popen[bytes]":
    """Start a run whose steps never end, and return when it draws."""
    process = start(*RUN, FAKE_STEP_SECONDS="600")
    assert process.stderr is not None and process.stderr.readline() == b"a step has begun\n"
    assert (home / "out" / CLAIMS_FILE).exists()
    return process


def wait_for_line(process: "subprocess.Popen[bytes]", words: bytes) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"the run ended without {words!r}")


def test_two_runs_at_the_same_time(home: Path) -> None:
    """The pictures exist once, both runs succeed, and no lock file is left."""
    runs = [start(*RUN, FAKE_STEP_SECONDS="0.2") for _ in range(2)]
    outputs = [run.communicate(timeout=PATIENCE) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert sorted(path.name for path in (home / "out").iterdir()) == ["a-cat-42.png", "a-dog-42.png"]
    assert sorted(len(stdout.split()) for stdout, _ in outputs) == [0, 2]


def test_the_second_run_waits_and_goes_on_after_a_kill(home: Path) -> None:
    first = start_slow_run(home)
    second = start(*SHOWN)
    wait_for_line(second, b"another run is making some of these pictures in out; this run waits until it ends")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=1.5)
    first.kill()
    first.communicate()
    stdout, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0 and stdout.split() == [b"out/a-cat-42.png", b"out/a-dog-42.png"]
    assert not (home / "out" / CLAIMS_FILE).exists()


def test_a_waiting_run_can_be_interrupted(home: Path) -> None:
    first = start_slow_run(home)
    second = start(*SHOWN)
    wait_for_line(second, b"waits until it ends")
    second.send_signal(signal.SIGINT)
    assert second.wait(timeout=PATIENCE) == 130
    first.kill()
    first.communicate()
    second.communicate()


def test_other_pictures_and_dry_runs_do_not_wait(program: Program, home: Path) -> None:
    first = start_slow_run(home)
    words = [word if word != "a dog" else "a mouse" for word in RUN]
    words.remove("a cat")
    assert program(*words).stdout == "out/a-mouse-42.png\n"
    assert (home / "out" / CLAIMS_FILE).exists()  # the first run still needs it
    assert program(*RUN, "--dry-run").code == 0
    first.kill()
    first.communicate()


def test_a_folder_without_locks_gets_a_notice(program: Program, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, position: int) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(claims, "lock_byte", fail)
    outcome = program(*SHOWN)
    assert outcome.code == 0 and len(outcome.stdout.split()) == 2
    assert "pictures in out cannot be claimed (No locks available)" in outcome.stderr


@pytest.mark.parametrize("make", [lambda file: file.symlink_to("elsewhere"), os.mkfifo, Path.mkdir])
def test_another_kind_of_file_in_its_place_stays(program: Program, home: Path, make: Callable[[Path], None]) -> None:
    (home / "out").mkdir()
    make(home / "out" / CLAIMS_FILE)
    outcome = program(*SHOWN)
    assert outcome.code == 0 and len(outcome.stdout.split()) == 2
    assert f"cannot be claimed ({CLAIMS_FILE} in it is not an ordinary file: remove it)" in " ".join(
        outcome.stderr.split()
    )
    assert (home / "out" / CLAIMS_FILE).is_symlink() or (home / "out" / CLAIMS_FILE).exists()
    assert not (home / "out" / "elsewhere").exists()


def test_a_file_in_place_of_the_folder_gets_one_message(program: Program, home: Path) -> None:
    (home / "taken").write_bytes(b"")
    outcome = program("generate", "a cat", "--skip-existing", "-o", "taken/")
    assert outcome.code == 2
    assert "taken" in outcome.stderr and "claimed" not in outcome.stderr


def test_a_claim_is_all_or_nothing(tmp_path: Path) -> None:
    """A run that cannot have all pictures keeps none of them from others."""
    mine = Claims(tmp_path)
    assert mine.take({"a", "b"})
    count, release = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        other = Claims(tmp_path)
        os.write(count[1], bytes([other.take({"b", "c"}), other.take({"c"})]))
        os.read(release[0], 1)
        os._exit(0)
    try:
        assert os.read(count[0], 2) == bytes([False, True])
        assert not mine.take({"a", "c"})
        os.write(release[1], b"x")
    finally:
        os.waitpid(child, 0)
        for each in (*count, *release):
            os.close(each)
    assert mine.take({"a", "c"})
    mine.release()
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_removed_meanwhile_is_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking the file, the last other run may remove it."""
    real, removed = claims.lock_byte, []

    def remove_once(descriptor: int, position: int) -> bool:
        if not removed:
            removed.append((tmp_path / CLAIMS_FILE).unlink())
        return real(descriptor, position)

    monkeypatch.setattr(claims, "lock_byte", remove_once)
    mine = Claims(tmp_path)
    assert mine.take({"a"}) and removed
    assert (tmp_path / CLAIMS_FILE).exists()
    mine.release()
