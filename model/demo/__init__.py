"""How the built-in demo checkpoint was made: its small world, its lessons and its training (see README.md here)."""
