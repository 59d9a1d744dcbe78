"""Backends: faster operations of a transformer block, and CUDA graphs."""
