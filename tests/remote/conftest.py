"""Fake vLLM-Omni servers, and the program on them."""

from collections.abc import Iterator

import pytest

from tests.cli.conftest import home
from tests.cli.harness import Outcome, Program
from tests.remote.fake_omni import FakeOmni, serving

__all__ = ["home"]

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
