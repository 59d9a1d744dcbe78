"""Comparison of pictures: their likeness, and the differences between their records."""
