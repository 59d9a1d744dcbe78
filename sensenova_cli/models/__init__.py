"""Models as things: what is on this machine, and what is known about it."""
