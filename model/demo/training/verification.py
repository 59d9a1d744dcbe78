"""Makes `verification.json` of the demo: pictures and pixels that `sensenova verify` compares.

    python -m model.demo.training.verification

Draws each picture in float32 and in bfloat16 on the CPU, which takes minutes where bfloat16 is slow. In each cell of a
grid it takes the pixel around which both pictures differ least and the colors vary least. Expected colors are those in
float32. Two pictures have strong guidance and few steps: they are ugly, but a small change of a weight changes them by
several levels.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from model import Engine, Picture
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.network.configuration import CONFIG_FILE
from model.verification.checks import VERIFICATION_FILE, Checks, PictureCheck

SHARED = {"size": "256x256", "noise": "cpu", "timestep_shift": 3.0}
PICTURES: list[dict[str, Any]] = [
    {
        "name": "circle",
        "prompt": "a red circle on a blue background",
        "settings": {**SHARED, "seed": 42, "num_steps": 8, "cfg_scale": 2.5},
        "tolerance": 10,
        "tolerance_in_dtype": 3,
    },
    {
        "name": "strong guidance",
        "prompt": "a red circle on a blue background",
        "settings": {**SHARED, "seed": 42, "num_steps": 2, "cfg_scale": 10.0, "think": True, "max_think_tokens": 32},
        "tolerance": 24,
        "tolerance_in_dtype": 3,
    },
    {
        "name": "edit",
        "prompt": "change the background to green",
        "edits": "circle",
        "settings": {**SHARED, "seed": 43, "num_steps": 2, "cfg_scale": 10.0},
        "tolerance": 24,
        "tolerance_in_dtype": 3,
    },
]
CONFIGURATION = (
    "use_pixel_head",
    "noise_scale",
    "noise_scale_base_image_seq_len",
    "noise_scale_max_value",
    "llm_config.num_attention_heads",
    "llm_config.num_key_value_heads",
    "llm_config.rms_norm_eps",
    "llm_config.rope_theta",
    "llm_config.rope_theta_hw",
    "vision_config.rope_theta_vision",
)
"""Values of `config.json` that no tensor's shape shows."""
ROWS, COLUMNS = 4, 4
RADIUS = 4
"""Pixels this far around a chosen one count, too."""
UNSATURATED = (12, 243)
"""Range of the channels of a chosen pixel. A saturated channel shows no change."""


def draw_all(dtype: str) -> list[np.ndarray]:
    """Draw the pictures on the CPU, as arrays (height, width, channel) of int16."""
    engine = Engine.load(DEMO_CHECKPOINT, device="cpu", dtype=dtype)
    made: dict[str, Image.Image] = {}
    for fields in PICTURES:
        check = PictureCheck.model_validate({**fields, "pixels": [{"at": [0, 0], "rgb": [0, 0, 0]}]})
        request = check.request(made.get(check.edits or ""))
        (made[check.name],) = (event.image for event in engine.run(request) if isinstance(event, Picture))
    engine.close()
    return [np.asarray(image).astype(np.int16) for image in made.values()]


def choose_pixels(picture: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """Return (x, y) of the steadiest pixel in each cell of the grid that has unsaturated pixels."""
    side = 2 * RADIUS + 1
    windows = sliding_window_view(picture, (side, side), axis=(0, 1))
    variation = (windows.max((-1, -2)) - windows.min((-1, -2))).max(-1)
    difference = sliding_window_view(np.abs(picture - other).max(-1), (side, side), axis=(0, 1)).max((-1, -2))
    inner = picture[RADIUS:-RADIUS, RADIUS:-RADIUS]
    low, high = UNSATURATED
    usable = np.all((inner >= low) & (inner <= high), axis=-1)
    if not usable.any():
        usable = np.ones_like(usable)
    unsteadiness = np.where(usable, variation + 2.0 * difference, np.inf)
    chosen = []
    for rows in np.array_split(np.arange(unsteadiness.shape[0]), ROWS):
        for columns in np.array_split(np.arange(unsteadiness.shape[1]), COLUMNS):
            cell = unsteadiness[np.ix_(rows, columns)]
            y, x = np.unravel_index(int(cell.argmin()), cell.shape)
            if np.isfinite(cell[y, x]):
                chosen.append((int(columns[x]) + RADIUS, int(rows[y]) + RADIUS))
    return chosen


def checksum(file: Path) -> str:
    """Return the sha256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def main() -> None:
    """Draw, choose and write the file; print the largest difference of bfloat16 at the chosen pixels."""
    parser = argparse.ArgumentParser(description="Make the demo's verification.json.")
    parser.add_argument("--output", type=Path, default=DEMO_CHECKPOINT / VERIFICATION_FILE)
    output = parser.parse_args().output
    config = json.loads((DEMO_CHECKPOINT / CONFIG_FILE).read_text(encoding="utf-8"))
    checks = []
    for fields, exact, rounded in zip(PICTURES, draw_all("float32"), draw_all("bfloat16"), strict=True):
        points = choose_pixels(exact, rounded)
        differences = [int(np.abs(exact[y, x] - rounded[y, x]).max()) for x, y in points]
        print(f"{fields['name']}: {len(points)} pixels, bfloat16 differs by up to {max(differences)}")
        pixels = [{"at": [x, y], "rgb": exact[y, x].tolist()} for x, y in points]
        checks.append({**fields, "pixels": pixels})
    contents = {
        "source": "python -m model.demo.training.verification, in float32 on a CPU",
        "dtype": "float32",
        "configuration": {name: _value(config, name) for name in CONFIGURATION},
        "checksums": {file.name: checksum(file) for file in sorted(DEMO_CHECKPOINT.glob("*.safetensors"))},
        "pictures": checks,
    }
    Checks.model_validate(contents)
    text = json.dumps(contents, indent=1)
    for pixel in (pixel for check in checks for pixel in check["pixels"]):
        text = text.replace(json.dumps(pixel, indent=1).replace("\n", "\n    "), json.dumps(pixel))
    output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
