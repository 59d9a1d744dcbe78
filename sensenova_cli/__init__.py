"""The program people type: words in, requests to the engine, results and errors out. Knows no tensors."""

__version__ = "0.1.0"
