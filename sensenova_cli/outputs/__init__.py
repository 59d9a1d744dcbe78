"""Picture files, and the record in a PNG of how it was made."""
