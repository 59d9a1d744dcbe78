"""The program that people type. It turns command lines into requests, and events into output; it uses no tensors."""

__version__ = "0.1.0"
