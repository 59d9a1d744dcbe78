"""A slice of the campaign: a few faults and signals in every command, and some damaged files for every reader."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import model.opening
from tests.cli.harness import Program
from tests.faults.fuzz import all_readers, run
from tests.faults.sandbox import COMMANDS, Command, Sandboxes
from tests.faults.shim import ERRORS, Fault


@pytest.fixture(scope="module")
def sandboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandboxes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.opening, "open_engine", Program().load)
        yield Sandboxes(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_fault_or_signal_loses_nothing(command: Command, sandboxes: Sandboxes) -> None:
    plain = sandboxes.run(command, None)
    assert plain.problems == (), plain.stderr
    assert plain.calls > 0
    source = random.Random(str(command))
    faults = [
        Fault(source.randint(1, plain.calls), error=source.choice(ERRORS)),
        Fault(source.randint(1, plain.calls), error=ERRORS[0], lasting=True),
        Fault(source.randint(1, plain.calls), signal=source.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))),
    ]
    for fault in faults:
        result = sandboxes.run(command, fault)
        assert result.problems == (), (str(fault), result.code, result.stderr)


def test_damaged_files_are_read_or_refused(tiny_checkpoint: Path) -> None:
    readers = all_readers(tiny_checkpoint)
    failures = list(run(readers, count=60 * len(readers), seed=1))
    assert failures == []
