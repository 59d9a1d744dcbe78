"""Several ranks that share a model: the parallel layout, the collectives, and the rank processes."""
