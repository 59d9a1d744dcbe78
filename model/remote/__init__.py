"""Engines on servers: our own, and vLLM-Omni's. Nothing here imports PyTorch.

`open_server` asks a server what it is, and returns the engine that speaks its language.
"""
