import subprocess
import sys
from pathlib import Path

HEAVY = {"torch", "transformers", "huggingface_hub", "numpy", "PIL", "typer", "rich"}


def test_settings_import_no_large_library() -> None:
    program = "import sys, config.sources, config.template; config.sources.resolve(); print(*sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stdout.split())
