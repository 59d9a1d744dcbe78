"""Names of weight files in a checkpoint folder."""

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
