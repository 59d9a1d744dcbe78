"""Checkpoints: find and download them, read their tensors into a network, merge LoRAs, write new ones."""
