"""The commands. Each checks its arguments and runs turns, a session or a measurement."""
