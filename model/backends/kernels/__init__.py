"""Triton kernels for what lies between a tower's matrix products, and for reading one token at a time."""
