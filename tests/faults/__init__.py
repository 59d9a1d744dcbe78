"""Injected faults: failing file-system calls, signals, and damaged files.

`python -m benchmarks.faults` runs more of them. A case runs in a forked process of the imported program, so
that thousands fit into minutes.
"""
