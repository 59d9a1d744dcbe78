"""Triton kernels: the operations between a tower's matrix products, and the decoding of one token."""
