"""Weights that do not all fit the device: the memory estimate, layer buffers, and the stream that fills them."""
