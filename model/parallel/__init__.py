"""Several ranks: how they share a model, and how their processes are started, controlled and ended."""
