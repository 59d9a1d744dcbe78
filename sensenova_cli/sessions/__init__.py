"""Sessions on disk: what is written while a conversation goes on, read back, listed and exported."""
