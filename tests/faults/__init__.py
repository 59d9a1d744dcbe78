"""Injected faults: failing file-system calls, signals, and damaged files. `python -m benchmarks.reliability` runs more."""
