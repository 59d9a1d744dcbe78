"""Injected faults: failing file-system calls, signals and damaged files; `benchmarks.reliability` runs more of them."""
