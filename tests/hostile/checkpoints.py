"""Checkpoints and LoRAs from strangers."""

import json
import os
import struct
from pathlib import Path
from typing import Any

from tests.hostile.attack import Words, attack


def checkpoint(name: str = "config.json", content: str | bytes = "{}") -> Words:
    """Write a folder `theirs` with a file; return the command that reads all but the weights."""
    folder = Path("theirs")
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return ["info", "theirs"]


def config(**changes: Any) -> str:
    """Return the text of a config.json with other sizes of the language model."""
    model = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100, **changes}
    return json.dumps({"model_type": "neo_chat", "llm_config": model})


@attack("checkpoint", 3)
def layers_without_end() -> Words:
    """Fill the memory with a list of 10^9 layers."""
    return checkpoint(content=config(num_hidden_layers=10**9))


@attack("checkpoint", 3)
def huge_number() -> Words:
    """Stop the arithmetic with 10^400."""
    return checkpoint(content=config(hidden_size=10**400))


@attack("checkpoint", 3)
def digits() -> Words:
    """Stop the JSON reader with 6,000 digits."""
    return checkpoint(content='{"a": ' + "9" * 6000 + "}")


@attack("checkpoint", 3)
def brackets() -> Words:
    """Overflow the stack of the JSON reader."""
    return checkpoint(content="[" * 100_000)


@attack("checkpoint", 3)
def config_pipe() -> Words:
    """Let the program wait for a pipe."""
    Path("theirs").mkdir()
    os.mkfifo("theirs/config.json")
    return ["info", "theirs"]


@attack("checkpoint", 3)
def config_without_end() -> Words:
    """Fill the memory from a sparse config.json of 1 TB."""
    words = checkpoint()
    with Path("theirs/config.json").open("wb") as file:
        file.truncate(2**40)
    return words


@attack("checkpoint", 3)
def index_outside() -> Words:
    """Read weights outside the folder."""
    checkpoint("model.safetensors.index.json", json.dumps({"weight_map": {"a": "../secret"}}))
    return checkpoint(content=config())


@attack("checkpoint", 3)
def index_long_name() -> Words:
    """Stop the program with a shard name of 5,000 letters."""
    checkpoint("model.safetensors.index.json", json.dumps({"weight_map": {"a": "x" * 5000}}))
    return checkpoint(content=config())


@attack("checkpoint", 3)
def weights_header() -> Words:
    """Fill the memory with a header of 8 EB."""
    checkpoint("model.safetensors", struct.pack("<Q", 2**63 - 1) + bytes(64))
    return checkpoint(content=config())


@attack("checkpoint", 3)
def gguf_counts() -> Words:
    """Fill the memory with a GGUF file that promises 2^63 tensors."""
    Path("theirs.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63) + bytes(64))
    return ["info", "theirs.gguf"]


@attack("checkpoint", 3)
def gguf_terminal() -> Words:
    """Send commands to the terminal by the names in a GGUF file."""
    name = b"\x1b[2J\x1b]0;owned\x07"
    text = struct.pack("<Q", len(name)) + name
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    architecture = struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<I", 8) + text
    Path("theirs.gguf").write_bytes(header + architecture + text + struct.pack("<IQIQ", 1, 64, 0, 0) + bytes(512))
    return ["info", "theirs.gguf"]


@attack("checkpoint", 3)
def code_in_the_folder() -> Words:
    """Run a program that the configuration names (trust_remote_code)."""
    checkpoint("modeling_evil.py", "import os; os.mkdir('owned')")
    return checkpoint(content=json.dumps({"model_type": "evil", "auto_map": {"AutoModel": "modeling_evil.Model"}}))


@attack("checkpoint", 3)
def pickled_weights() -> Words:
    """Run a program that a pickle contains."""
    checkpoint("pytorch_model.bin", b"cos\nmkdir\n(S'owned'\ntR.")
    return checkpoint(content=config())


@attack("checkpoint", 3)
def recommended_server() -> Words:
    """Recommend a server, so that prompts go there."""
    text = json.dumps({"settings": {"server": "http://evil.example", "output": "/tmp/evil.png"}})
    checkpoint("recommended_settings.json", text)
    checkpoint()
    return ["generate", "a cat", "--model", "theirs"]


@attack("checkpoint", 3)
def lora_pickle() -> Words:
    """Run a program that a LoRA in the format of a pickle contains."""
    Path("lora.bin").write_bytes(b"cos\nmkdir\n(S'owned'\ntR.")
    return ["generate", "a cat", "--lora", "lora.bin"]


@attack("checkpoint", 2)
def unfinished_conversion() -> Words:
    """Replace a file of the user through a link in the unfinished work of a conversion."""
    work = Path("copy.unfinished")
    work.mkdir()
    (work / "conversion.json").write_text(json.dumps({"quantization": "int8", "source": {"files": {}}, "files": {}}))
    (work / "conversion.json.part").symlink_to("../secret")
    (work / "config.json").symlink_to("../secret")
    return ["convert", "demo", "copy", "--quantization", "int8"]


def lora(**metadata: str) -> Words:
    """Write a LoRA file with metadata; return a command that uses it."""
    header = {"__metadata__": metadata, "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    Path("lora.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    return ["generate", "a cat", "--lora", "lora.safetensors"]


@attack("checkpoint", 3)
def lora_brackets() -> Words:
    """Overflow the stack of the reader of a LoRA's recommendations."""
    return lora(recommended_settings="[" * 100_000)


@attack("checkpoint", 3)
def lora_number() -> Words:
    """Stop the program with a number of 6,000 digits in a LoRA's recommendations."""
    return lora(num_inference_steps="9" * 6000)


@attack("checkpoint", 2)
def lora_server() -> Words:
    """Recommend a server, so that prompts go there."""
    return lora(recommended_settings=json.dumps({"server": "http://evil.example"}))
