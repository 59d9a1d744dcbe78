"""A short slice of the campaign with a fixed seed; `python -m benchmarks.faults` runs the rest."""

import pytest

from tests.faults import stages
from tests.faults.campaign import Tally


def require_nothing_found(tally: Tally) -> None:
    assert not tally.findings, "\n".join(str(detail) for detail in tally.details)


@pytest.mark.slow
def test_faults_and_signals_lose_nothing() -> None:
    tally = stages.run_faults(600, seed=26, most=12)
    assert tally.cases.total() == 12
    require_nothing_found(tally)


@pytest.mark.slow
def test_damaged_files_are_read_or_refused() -> None:
    require_nothing_found(stages.in_fork(lambda: stages.read_files(26, 750), stages.FORK_SECONDS))


@pytest.mark.slow
def test_damaged_bodies_are_answered(capfd: pytest.CaptureFixture[str]) -> None:
    require_nothing_found(stages.in_fork(lambda: stages.send_bodies(26, 300), stages.FORK_SECONDS))
    assert capfd.readouterr().err == ""  # a client cannot fill the operator's log


@pytest.mark.slow
def test_signals_to_real_processes() -> None:
    require_nothing_found(stages.run_processes(8, seed=26, most=1))
