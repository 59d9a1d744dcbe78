"""The checkpoint that ships with the program."""

from pathlib import Path

DEMO_MODEL = "demo"
"""The name of the built-in demo checkpoint where a model is named; a folder of that name is `./demo`."""

DEMO_CHECKPOINT = Path(__file__).parent.parent / "demo" / "checkpoint"
"""Its folder, in the official layout; how it was made is told in `model/demo`."""
