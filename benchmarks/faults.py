"""Try to lose a user's work: fail and interrupt every command at each of its file-system calls, and damage its inputs.

    python -m benchmarks.faults --seconds 1800 --seed 1 --output faults.json

Three quarters of the time go to commands in forks of the imported program, on a fake engine, with a failing call or a
signal at one call. Damaged files and HTTP bodies get a sixth, and signals to real processes and terminals the rest.
After each case, rules are checked (`tests/faults/oracle.py`). The table counts cases and broken rules; the result file
describes each of them with what makes it again. Exits with 1 if a rule is broken.
"""

from benchmarks import harness
from tests.faults import stages
from tests.faults.campaign import Tally
from tests.faults.oracle import KINDS

SHARES = {"faults": 0.75, "inputs": 0.165, "processes": 0.085}
CASES = ("faults", "signals", "real starts", "terminals", "inputs", "bodies")


def run(seconds: float, seed: int) -> Tally:
    """Run all stages."""
    tally = Tally()
    # Inputs are last: their readers leave objects that would slow down each fork.
    for name, stage in (
        ("faults", stages.run_faults),
        ("processes", stages.run_processes),
        ("inputs", stages.run_inputs),
    ):
        harness.progress(f"{name}: {SHARES[name] * seconds:.0f} s")
        found = stage(SHARES[name] * seconds, seed)
        for detail in found.details:
            harness.progress(f"{detail['kind']}: {detail['case']}: {detail['found']}")
        tally.merge(found)
    return tally


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="time of the campaign (default: 120)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all cases (default: 1)")
    options = parser.parse_args()
    tally = run(options.seconds, options.seed)
    cases = {name: tally.cases[name] for name in CASES}
    findings = {name: tally.findings[name] for name in KINDS}
    result = {"seconds": options.seconds, "seed": options.seed, "cases": cases, "findings": findings}
    rows = [(name, f"{number:,}") for name, number in (*cases.items(), *findings.items())]
    table = harness.table("", "number", rows=rows, title=f"{options.seconds:.0f} s, seed {options.seed}")
    harness.finish(options, {**result, "details": tally.details}, table)
    raise SystemExit(bool(tally.findings.total()))


if __name__ == "__main__":
    main()
