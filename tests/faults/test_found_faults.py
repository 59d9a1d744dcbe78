"""Faults that the campaign has found, each at the call where it happened."""

import errno
import io
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.harness import REPOSITORY
from tests.faults.cases import find_command, run_again, run_case
from tests.faults.file_calls import Fault
from tests.faults.oracle import judge

CONTINUED = "repl --session old"


def number_of(command: str, template: Path, *words: str) -> int:
    """Return the number of the last call of a run whose description contains these words."""
    with run_case(find_command(command), None, template) as result:
        assert result.code == 0, result.stderr
        return max(number for number, call in enumerate(result.calls, start=1) if all(word in call for word in words))


def test_an_unreadable_file_in_a_session_is_a_message(template: Path) -> None:
    """`/save` looks whether its target exists, and that look fails: the error says which file, and is not
    "unexpected"."""
    command = find_command(CONTINUED)
    fault = Fault(number_of(CONTINUED, template, "stat", "copy.png"), error=errno.EACCES)
    with run_case(command, fault, template) as result:
        assert judge(command, fault, result, template) == []
        assert "copy.png: Permission denied" in result.stderr and len(result.finished) == 4


@pytest.mark.parametrize("second", [0, 1])
def test_a_session_opens_whose_last_picture_kept_its_temporary_name(template: Path, second: int) -> None:
    """The picture has two names if the removal of the temporary one fails, or if a second signal ends the program
    before it."""
    command = find_command(CONTINUED)
    unlink = number_of(CONTINUED, template, "unlink", "/old/pictures/", ".part")
    fault = Fault(unlink, error=errno.EIO)
    if second:
        fault = Fault(unlink - 1, signal=signal.SIGINT, second=second)
    with run_case(command, fault, template) as result:
        pictures = result.folder / "data/sessions/old/pictures"
        assert list(pictures.glob(".sensenova-*.part"))
        assert judge(command, fault, result, template) == []
        again = run_again(result, "sessions", "show", "old")
        assert again.code == 0, again.stderr
        linked = pictures / "elsewhere.png"
        linked.hardlink_to(next(pictures.glob("001*.png")))
        assert run_again(result, "sessions", "show", "old").code == 2  # a name of another kind is still refused


def test_a_server_leaves_no_part_of_its_note(template: Path) -> None:
    command = find_command("serve --port 0")
    for fault in (
        Fault(number_of(command.name, template, "replace", "server-"), error=errno.EACCES),
        Fault(number_of(command.name, template, "unlink", "server-"), error=errno.EACCES),
    ):
        with run_case(command, fault, template) as result:
            assert judge(command, fault, result, template) == [] and result.code == 0, result.stderr


def test_a_signal_at_the_last_step_of_an_export_leaves_no_temporary_file(template: Path) -> None:
    command = find_command("sessions export old")
    fault = Fault(number_of(command.name, template, "unlink", "/here/", ".part"), signal=signal.SIGTERM)
    with run_case(command, fault, template) as result:
        assert judge(command, fault, result, template) == [] and result.code == 130, result.stderr


def test_a_damaged_picture_is_one_message(tmp_path: Path) -> None:
    """Pillow's decoder of TIFF would write a line of its own to stderr."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF")
    content = bytearray(file.getvalue())
    entries = struct.unpack_from("<I", content, 4)[0]
    for place in range(entries + 2, entries + 2 + 12 * struct.unpack_from("<H", content, entries)[0], 12):
        if struct.unpack_from("<H", content, place)[0] == 277:  # samples per pixel
            struct.pack_into("<H", content, place + 8, 9999)
    (tmp_path / "damaged.tif").write_bytes(content)
    words = [sys.executable, "-m", "sensenova_cli", "describe", "damaged.tif"]
    done = subprocess.run(words, cwd=tmp_path, env=variables(tmp_path), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: damaged.tif is not a picture"), done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines() if line] == ["error", "hint"]


def variables(folder: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SENSENOVA_")},
        "PYTHONPATH": str(REPOSITORY),
        "SENSENOVA_CONFIG_DIR": str(folder),
        "SENSENOVA_DATA_DIR": str(folder),
    }
