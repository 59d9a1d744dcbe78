"""The built-in demo checkpoint, and in `training` the code that made it (see README.md here)."""
