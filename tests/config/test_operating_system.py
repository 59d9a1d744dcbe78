"""The one door to the operating system: what it answers here."""

import os
import sys
from pathlib import Path

import pytest

from config.operating_system import (
    clock_ticks,
    host_name,
    is_locked_by_another,
    is_private,
    peak_resident_bytes,
    read_at,
    seconds_since_boot,
    set_echo,
    terminal_size_report,
    total_memory,
)
from sensenova_cli.system.first_signals import SIGNALS


def test_answers_of_this_system(tmp_path: Path) -> None:
    assert host_name() and os.uname().nodename == host_name()
    assert (total_memory() or 0) > 2**28 and (peak_resident_bytes() or 0) > 2**20
    assert len(SIGNALS) == 3
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    file.chmod(0o600)
    assert is_private(file.stat())
    file.chmod(0o640)
    assert not is_private(file.stat())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such clock")
def test_clocks_of_linux() -> None:
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / clock_ticks()
    assert 0 <= seconds_since_boot() - started < 24 * 3600


def test_reading_at_a_position_until_the_end(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    with file.open("rb", buffering=0) as stream:
        data = bytearray(4)
        assert read_at(stream.fileno(), memoryview(data), 3) == 4 and data == b"3456"
        assert read_at(stream.fileno(), memoryview(data), 8) == 2 and data == b"8956"
        assert read_at(stream.fileno(), memoryview(data), 10) == 0


def test_a_file_is_no_terminal(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError):
        terminal_size_report(file.fileno())


def test_locks_of_other_processes(tmp_path: Path) -> None:
    import filelock

    file = tmp_path / "lock"
    lock = filelock.FileLock(file)
    lock.acquire()
    descriptor = os.open(file, os.O_RDWR)
    try:
        assert is_locked_by_another(descriptor)
        lock.release()
        assert not is_locked_by_another(descriptor)
    finally:
        os.close(descriptor)


def test_typed_keys_are_echoed_unless_the_echo_is_off(tmp_path: Path) -> None:
    keyboard, terminal = os.openpty()

    def type_line(text: bytes) -> None:
        os.write(keyboard, text)
        assert os.read(terminal, 100) == text  # the system handles keys later, with the modes of that time

    try:
        restore = set_echo(terminal, False)
        type_line(b"hidden\n")
        restore_hidden = set_echo(terminal, True)
        type_line(b"answer\n")
        restore_hidden()
        type_line(b"hidden again\n")
        restore()
        type_line(b"at the prompt\n")
        assert os.read(keyboard, 100) == b"answer\r\nat the prompt\r\n"
    finally:
        os.close(keyboard)
        os.close(terminal)
    (tmp_path / "file").touch()
    with (tmp_path / "file").open() as file, pytest.raises(OSError, match="ioctl"):
        set_echo(file.fileno(), False)
