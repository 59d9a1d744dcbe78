"""Injected faults: failing file-system calls, signals and damaged files; `benchmarks.faults` runs more of them."""
