"""Rewriting of prompts in more detail: the instructions, the endpoint that is asked, its reply, and earlier replies."""
