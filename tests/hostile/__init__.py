"""Attacks by files from strangers, which may cause a message and nothing else. `attacks.py` is the list."""
