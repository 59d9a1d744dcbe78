"""Inputs of the network: prompts and images → token sequences and tensors."""
