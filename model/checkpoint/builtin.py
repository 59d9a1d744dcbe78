"""The demo checkpoint that ships with the program."""

from pathlib import Path

DEMO_MODEL = "demo"
"""Name of the built-in demo checkpoint, as a value of the setting `model`. A folder of that name is `./demo`."""

DEMO_CHECKPOINT = Path(__file__).parent.parent / "demo" / "checkpoint"
"""Folder of the demo checkpoint, in the official layout. `model/demo` describes how it was trained."""
