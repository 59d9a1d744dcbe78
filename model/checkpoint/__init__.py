"""Checkpoints: found, described by a layout, streamed into the network, or made of random numbers."""
