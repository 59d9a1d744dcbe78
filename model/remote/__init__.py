"""Engines on servers: our own, and vLLM-Omni's. Nothing here imports PyTorch.

`open_server` detects the kind of a server, and returns the engine for it.
"""
