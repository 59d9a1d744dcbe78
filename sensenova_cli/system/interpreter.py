"""Settings of the Python interpreter for this program."""

import gc
import sys

OBJECTS_BETWEEN_COLLECTIONS = 50_000
"""New objects after which Python looks for garbage. Importing PyTorch makes half a million that stay; with Python's
default of 700, looking at them again and again is a tenth of the import's time."""

OBJECTS_AFTER_LOADING = 5_000
"""The same when the model is loaded. Small collections come often, so that no turn waits for a large one."""

SECONDS_BETWEEN_THREADS = 0.0005
"""Longest time for which one thread runs Python code while another one waits. With Python's default of 0.005 s, drawing
on the terminal holds up the loop that writes a token every 0.005 s, and compiling holds up the threads that read
weights."""


def tune_interpreter() -> None:
    """Set how often Python collects garbage and switches between threads."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    sys.setswitchinterval(SECONDS_BETWEEN_THREADS)


def freeze_loaded() -> None:
    """Leave the libraries and the loaded model out of later collections, in a process that runs for a long time.

    A model that is released is collected all the same, because `LoadedModel.release` undoes this.
    """
    gc.freeze()
    gc.set_threshold(OBJECTS_AFTER_LOADING)
