"""The commands, each in a module of its own that is imported when the command is used."""

from importlib import import_module
from typing import Any

COMMANDS = {
    "generate": "Make pictures from a prompt, and print their paths.",
    "edit": "Change pictures as a prompt says, and print the paths of the results.",
    "grid": "Draw pictures that differ in one or two things, and a labelled sheet of them.",
    "enhance": "Rewrite a prompt in more detail, and print it, without drawing it.",
    "describe": "Describe pictures, or answer a question about them (-p).",
    "chat": "Send a message to the model, and print its answer. Without a message, start a conversation.",
    "interleave": "Answer a prompt with text and pictures, as a Markdown document.",
    "repl": "Make, change and discuss pictures, turn by turn; the model stays loaded.",
    "serve": "Serve a model to OpenAI clients, other tools and a web page.",
    "mcp": "Offer the model to assistants and other programs that speak MCP, over standard input and output.",
    "run": "Drop-in replacement for vLLM-Omni's example script: replace `python end2end.py` with `sensenova run`.",
    "info": "Print how a picture was made, or what a checkpoint or a server is. No model is loaded.",
    "compare": "Compare two pictures: their settings and their pixels. No model is loaded.",
    "bench": "Measure how fast a model runs here and how fast the device could be, or how fast a server answers.",
    "doctor": "Check what fits on this machine, and how fast it runs.",
    "verify": "Check a checkpoint's files, and compare pictures that it draws.",
    "convert": "Write a copy of a checkpoint with eight-bit weights, up to half as large.",
    "tiny-checkpoint": "Write a tiny checkpoint of random numbers (4 MB) in the official layout.",
    "models": "List, download, remove and name models.",
    "config": "Read and change the settings in your settings file.",
    "profile": "Show, make and check settings files.",
    "log": "List earlier requests, the newest first: prompts, settings and where the files are.",
    "sessions": "List, show, export and remove the sessions of the REPL.",
}
"""Command → its line in `sensenova --help`, in the order of that list: the first line of the command's docstring.

They are repeated here, so that the list is printed without importing the commands, which takes a quarter of a second.
"""


def import_command(name: str) -> Any:
    """Import a command: a function, or the Typer app of a group of commands."""
    module_name = name.replace("-", "_")
    module = import_module(f"{__name__}.{module_name}")
    return getattr(module, "app", None) or getattr(module, module_name)
