"""Weights that do not all fit on the device: the memory estimate, layer buffers, and the stream that fills them."""
