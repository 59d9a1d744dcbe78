"""Faults and signals at chosen calls of all commands, and what the oracle finds."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cases import find_command, run_case
from tests.faults.commands import COMMANDS
from tests.faults.file_calls import ERRORS, NO_ROOM, SIGNALS, Fault
from tests.faults.oracle import judge

LASTING = 0.3
"""Share of faults that last."""
TWICE = 0.2
"""Share of signals that arrive a second time."""


@dataclass
class Tally:
    """Numbers of cases and findings.

    Attributes:
        cases: faults, signals and inputs so far.
        findings: kind of finding → number.
        details: the first findings in words, with what makes them again.
    """

    cases: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    details: list[dict[str, str]] = field(default_factory=list)

    def add(self, what: str, where: str, found: Sequence[tuple[str, str]]) -> None:
        """Count a case of a kind, with its findings."""
        self.cases[what] += 1
        for kind, text in found:
            self.findings[kind] += 1
            if len(self.details) < 200:
                self.details.append({"kind": kind, "case": where, "found": text})

    def merge(self, other: "Tally") -> None:
        """Add the numbers of another tally."""
        self.cases += other.cases
        self.findings += other.findings
        self.details += other.details


def count_calls(template: Path) -> dict[str, tuple[str, ...]]:
    """Run every command without a fault; return the kinds of its calls.

    Raises:
        AssertionError: a command fails without a fault.
    """
    calls = {}
    for command in COMMANDS:
        with run_case(command, None, template) as result:
            found = judge(command, None, result, template)
            assert result.code == 0 and not found, (command.name, found, result.stderr)
            calls[command.name] = tuple(call.rsplit(" ", 1)[0] for call in result.calls)
    return calls


def faults(calls: dict[str, tuple[str, ...]], seed: int) -> Iterator[tuple[str, Fault]]:
    """Yield commands and faults without end. Each call of each command has its turn before one is repeated."""
    chance = random.Random(seed)
    every = [(name, at) for name, kinds in calls.items() for at in range(1, len(kinds) + 1)]
    while True:
        chance.shuffle(every)
        for name, at in every:
            errors = ERRORS.get(calls[name][at - 1], ())
            if errors and chance.random() < 0.65:
                error = chance.choice(errors)
                lasting = chance.random() < (2 * LASTING if error in NO_ROOM else LASTING / 2)
                yield name, Fault(at, error=error, lasting=lasting)
            else:
                second = chance.randint(1, 6) if chance.random() < TWICE else 0
                yield name, Fault(at, signal=chance.choice(SIGNALS), after=chance.random() < 0.5, second=second)


def try_fault(name: str, fault: Fault, template: Path, tally: Tally) -> None:
    """Run one case and count it."""
    command = find_command(name)
    with run_case(command, fault, template) as result:
        where = f"{name}: {fault}"
        if len(result.calls) >= fault.at:
            where += f" ({result.calls[fault.at - 1].replace(str(result.folder), '')})"
        tally.add("signals" if fault.signal else "faults", where, judge(command, fault, result, template))
