"""Sessions on disk. They are written while a conversation goes on, and can be continued, listed and exported."""
