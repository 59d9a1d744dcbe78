"""Sampling: prefill, the two loops (denoise and decode), and the schedule, guidance and caches that they use."""
