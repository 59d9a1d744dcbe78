"""Scripts: lines that run as a session on a fake engine."""

from model.requests import Request
from tests.cli.harness import Outcome, Program


class Script:
    """Runs lines as a new session, or continues one if `--continue` is among the options."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __call__(self, *lines: str, options: tuple[str, ...] = ()) -> Outcome:
        return self.program("repl", *options, stdin="\n".join(lines) + "\n")

    @property
    def requests(self) -> list[Request]:
        """The requests of the last session."""
        return list(self.program.engines[-1].requests)
