"""Backends: what makes the network's block fast on one kind of device."""
