"""The wheel: its contents, and the program that it installs where the repository cannot be imported."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True, timeout=PATIENCE)
    (file,) = folder.glob("sensenova_cli-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment that borrows its dependencies from this one."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(environment, with_pip=False)
    place = next(environment.glob("lib/python*/site-packages"))
    target = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, wheel]
    subprocess.run(target, check=True, capture_output=True, timeout=PATIENCE)
    # A path line makes the packages importable, but does not run this environment's own .pth files. An editable install
    # of the repository would otherwise be found through them.
    (place / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin" / "python"


def run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Call the console script's function as the script does, without the script's folder on the path."""
    code = "import sys; sys.argv[0] = 'sensenova'; from sensenova_cli.__main__ import main; main()"
    return subprocess.run(
        [python, "-P", "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def test_it_has_the_demo_checkpoint_but_not_the_code_that_trained_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    demo = ROOT / "model" / "demo"
    checkpoint = {file.relative_to(ROOT).as_posix() for file in (demo / "checkpoint").iterdir()}
    assert checkpoint and checkpoint <= set(names)
    assert "model/demo/__init__.py" in names
    assert "model/verification/published/SenseNova--SenseNova-U1-8B-MoT.json" in names
    assert (demo / "training").is_dir() and not [name for name in names if name.startswith("model/demo/training")]
    assert {name.split("/")[0] for name in names if name.endswith(".py")} == {"sensenova_cli", "model", "config"}


def test_the_repository_cannot_be_imported(installed: Path, tmp_path: Path) -> None:
    code = "import model, config, sensenova_cli; print(model.__file__, config.__file__, sensenova_cli.__file__)"
    done = subprocess.run([installed, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(ROOT) not in done.stdout
    assert done.stdout.count("site-packages") == 3


def test_it_makes_a_picture_and_has_its_data_files(installed: Path, tmp_path: Path) -> None:
    assert run(installed, "tiny-checkpoint", "tiny", cwd=tmp_path).returncode == 0
    done = run(installed, "generate", "a cat", "--model", "tiny", "--size", "64x64", "-o", "cat.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cat.png").stat().st_size > 1000
    profiles = run(installed, "profile", "list", cwd=tmp_path)
    assert "turbo" in profiles.stdout
    assert profiles.returncode == 0


def test_a_folder_with_modules_of_the_same_names(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("model/__init__.py", "config.py", "torch.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    script = [installed, "-m", "sensenova_cli", "tiny-checkpoint", "tiny"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny" / "config.json").exists()
