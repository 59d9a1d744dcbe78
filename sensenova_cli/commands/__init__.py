"""The commands. A command checks its arguments, then runs turns, a session or a measurement."""
