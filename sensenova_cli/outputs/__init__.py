"""Picture files, and what a PNG records about how it was made."""
