"""The program that people type. It turns command lines into requests, and events into output; it uses no tensors."""

from time import perf_counter

IMPORTED_AT = perf_counter()
__version__ = "0.1.0"
