"""Triton kernels for what PyTorch's own leave slow: one token at a time through a tower."""
