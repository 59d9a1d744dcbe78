"""From a prefix to a result: schedule, guidance, and the two loops (denoise, decode)."""
