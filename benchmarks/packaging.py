"""Build the wheel and the sdist, install each in a new environment of every Python, and run the demo without a network.

    python -m benchmarks.packaging --output benchmarks/results/packaging.json

For each Python from 3.11 on in `--pythons`, and for each of the two files: a new virtual environment, `pip install`
with all dependencies from the package index, `pip check`, then `generate` and `describe` in a network namespace whose
only interface is the loopback. Also checks that both files contain the license texts of their content, and writes
`docs/licenses.md`. Exits with 1 if something fails; what cannot be tried here is reported with its reason and does not
count as a failure. An environment of a CUDA build of PyTorch takes about 6 GB of disk while it is tried.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.licenses import SHIPPED, Holding, holdings, page

ROOT = Path(__file__).parent.parent
MINIMUM = (3, 11)
DEMO = (
    ("generate", "a red circle on a blue background", "-o", "circle.png"),
    ("describe", "circle.png"),
)
OFFLINE = ("unshare", "--map-root-user", "--net")
INTERFACES = "import socket; print(*(name for _, name in socket.if_nameindex()))"


class Failure(Exception):
    """A command that failed; its text is the end of the command's output."""


class Skipped(Exception):
    """A check that cannot be made on this machine; its text is the reason."""


def run(command: Sequence[str | Path], cwd: Path, environment: Mapping[str, str]) -> str:
    """Run a command and return its stdout.

    Raises:
        Failure: its exit code is not 0.
    """
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"exit code {done.returncode}: {(done.stdout + done.stderr).strip()[-600:]}")
    return done.stdout.strip()


def clean_environment(home: Path) -> dict[str, str]:
    """Return this process's variables without our settings and Python's, and with another home folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SENSENOVA_", "PYTHON", "XDG_"))}
    kept.pop("VIRTUAL_ENV", None)
    cache = os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
    return {**kept, "HOME": str(home), "PIP_CACHE_DIR": cache}


def build(folder: Path) -> tuple[Path, Path]:
    """Build the wheel and the sdist with the build backend in an environment of its own, and return their files."""
    environment = clean_environment(folder)
    run([sys.executable, "-m", "venv", folder / "builder"], folder, environment)
    python = folder / "builder" / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", "hatchling>=1.25"], folder, environment)
    files = folder / "files"
    run([python, "-m", "hatchling", "build", "-d", files], ROOT, environment)
    (wheel,), (sdist,) = files.glob("*.whl"), files.glob("*.tar.gz")
    return wheel, sdist


def content(file: Path) -> list[str]:
    """Return the names of the files in a wheel or an sdist, for an sdist without its top folder."""
    if file.suffix == ".whl":
        return zipfile.ZipFile(file).namelist()
    with tarfile.open(file) as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


def pythons(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield version and executable of every Python in a folder of versions that is new enough."""
    found = []
    for python in folder.expanduser().glob("*/bin/python"):
        numbers = python.parent.parent.name.split(".")
        if all(number.isdecimal() for number in numbers) and tuple(map(int, numbers)) >= MINIMUM:
            found.append((tuple(map(int, numbers)), python))
    for version, python in sorted(found):
        yield ".".join(map(str, version)), python


def install(python: Path, file: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Install a wheel or an sdist with its dependencies.

    Raises:
        Failure: pip failed.
        Skipped: pip found no PyTorch for this Python.
    """
    try:
        run([python, "-m", "pip", "install", "--quiet", file], folder, environment)
    except Failure as failure:
        if "No matching distribution found for torch" in str(failure):
            raise Skipped("the package index has no PyTorch for this Python and machine") from None
        raise


def try_demo(python: Path, folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Run the demo without a network, and return what it printed.

    Raises:
        Failure: a command failed, or the network was not cut off.
        Skipped: this machine does not permit network namespaces.
    """
    try:
        interfaces = run([*OFFLINE, python, "-c", INTERFACES], folder, environment)
    except (Failure, FileNotFoundError) as error:
        raise Skipped(f"network namespaces are not permitted here ({str(error)[:120]})") from None
    if interfaces != "lo":
        raise Failure(f"the namespace has the interfaces {interfaces}")
    printed = {}
    for words in DEMO:
        printed[words[0]] = run([*OFFLINE, python.parent / "sensenova", *words], folder, environment)
    if (folder / "circle.png").stat().st_size < 1000 or not printed["describe"]:
        raise Failure("the demo made no picture or no answer")
    return printed


def outcome(check: Any, *arguments: Any) -> str:
    """Return `passed`, `failed: …` or `skipped: …` for a check."""
    try:
        check(*arguments)
    except Failure as failure:
        return f"failed: {failure}"
    except Skipped as skipped:
        return f"skipped: {skipped}"
    return "passed"


def try_file(file: Path, python: Path) -> dict[str, Any]:
    """Install a wheel or an sdist in a new environment, which is removed afterwards; return each check's outcome."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="packaging-") as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        environment = clean_environment(home)
        installed = folder / "installed" / "bin" / "python"
        run([python, "-m", "venv", folder / "installed"], folder, environment)
        checks = {"install": outcome(install, installed, file, folder, environment)}
        if checks["install"] == "passed":
            checks["pip check"] = outcome(run, [installed, "-m", "pip", "check"], folder, environment)
            checks["demo without a network"] = outcome(try_demo, installed, home, environment)
            code = "import importlib.metadata as m; print(m.version('torch'))"
            checks["torch"] = run([installed, "-c", code], folder, environment)
    return {**checks, "seconds": round(time.perf_counter() - began)}


def license_failures(found: Mapping[str, Sequence[Holding]]) -> list[str]:
    """Return a sentence for each content whose license text is missing."""
    return [
        f"the {kind} has {holding.files} files of {part.name}, but not {part.text}"
        for kind, holds in found.items()
        for part, holding in zip(SHIPPED, holds, strict=True)
        if holding.files and not holding.has_text
    ]


def main() -> None:
    """Build, try and report."""
    options = arguments()
    tried: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="packaging-") as name:
        files = dict(zip(("wheel", "sdist"), build(Path(name)), strict=True))
        sizes = {kind: file.stat().st_size for kind, file in files.items()}
        found = {kind: holdings(content(file)) for kind, file in files.items()}
        options.page.write_text(page(found), encoding="utf-8")
        for version, python in pythons(options.pythons):
            for kind, file in files.items():
                harness.progress(f"Python {version}, {kind}")
                tried.append({"python": version, "file": kind, **try_file(file, python)})
                harness.progress(json.dumps(tried[-1]))
    missing = license_failures(found)
    result = {"bytes": sizes, "tried": tried, "missing_licenses": missing}
    columns = ("install", "pip check", "demo without a network")
    rows = [
        (f"{row['python']}, {row['file']}", row.get("torch", ""), *(row.get(column, "not tried") for column in columns))
        for row in tried
    ]
    harness.finish(options, result, harness.table("Python", "PyTorch", *columns, rows=rows))
    for sentence in missing:
        harness.progress(sentence)
    has_failed = any(str(value).startswith("failed") for row in tried for value in row.values())
    sys.exit(1 if missing or has_failed or not tried else 0)


def arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    made = harness.parser(__doc__ or "")
    made.add_argument(
        "--pythons",
        type=Path,
        default=Path("~/.pyenv/versions"),
        metavar="FOLDER",
        help="folder with one Python per version, as pyenv makes it (default: ~/.pyenv/versions)",
    )
    made.add_argument("--page", type=Path, default=ROOT / "docs" / "licenses.md", help="where the page is written")
    return made.parse_args()


if __name__ == "__main__":
    main()
