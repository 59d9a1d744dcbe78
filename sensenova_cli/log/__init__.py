"""The log of the user's requests: what was made, when, with which settings, and where the files are."""
