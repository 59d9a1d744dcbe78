"""Lines run as a session on a fake engine."""

from model.requests import Request
from tests.cli.harness import Outcome, Program


class Script:
    """Runs lines as a session of their own, or, with `--continue`, goes on with one."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __call__(self, *lines: str, options: tuple[str, ...] = ()) -> Outcome:
        return self.program("repl", *options, stdin="\n".join(lines) + "\n")

    @property
    def requests(self) -> list[Request]:
        """What the last session asked of its engine."""
        return list(self.program.engines[-1].requests)
