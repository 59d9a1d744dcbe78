"""Which package may import what, read from the source text."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import model
import model.bench
from tests.cli.harness import REPOSITORY

OURS = ("config", "model", "sensenova_cli")
MAY_IMPORT = {"config": {"config"}, "model": {"config", "model"}, "sensenova_cli": set(OURS)}


def imports(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Every imported module of a file, and the names taken from it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((each.name, []) for each in node.names)
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module, [each.name for each in node.names]


@pytest.mark.parametrize("package", OURS)
def test_packages_import_only_those_below_them(package: str) -> None:
    for file in (REPOSITORY / package).rglob("*.py"):
        for module, _ in imports(file):
            top = module.partition(".")[0]
            assert top not in OURS or top in MAY_IMPORT[package], f"{file} imports {module}"


def test_the_program_imports_only_public_names_of_the_library() -> None:
    public = {"model": set(model.__all__), "model.bench": set(model.bench.__all__)}
    for file in (REPOSITORY / "sensenova_cli").rglob("*.py"):
        for module, names in imports(file):
            if module.partition(".")[0] == "model":
                assert module in public, f"{file} imports {module}"
                assert set(names) <= public[module], f"{file} imports {names} from {module}"


@pytest.mark.parametrize("package", [model, model.bench])
def test_no_public_name_is_that_of_its_module(package: object) -> None:
    """`from model import name` would give the module, once that is imported."""
    for home, names in package._HOMES.items():  # type: ignore[attr-defined]
        assert home.rpartition(".")[2] not in names


@pytest.mark.parametrize("package", [model, model.bench])
def test_every_public_name_is_there(package: object) -> None:
    assert all(hasattr(package, name) for name in package.__all__)  # type: ignore[attr-defined]
    assert dir(package) == sorted(package.__all__)  # type: ignore[attr-defined]


LEVELS = (
    ("model.opening",),
    ("model.remote",),
    ("model.engine", "model.rank_main"),
    ("model.loading",),
    ("model.runner",),
    ("model.tasks",),
    ("model.loaded_model",),
    ("model.backends",),
    ("model.parallel",),
    ("model.memory",),
    ("model.sampling",),
    ("model.checkpoint", "model.inputs"),
    ("model.network",),
)
"""The rooms of the library, top to bottom, as CONTRIBUTING.md lists them. Every room may use all other modules."""
OUTSIDE = ("model.bench", "model.demo", "model.verification")
"""Rooms that use the library and are used by no other room."""


def level(module: str) -> int:
    """Return the level of a module's room, 0 at the top; one more than the last level for the shared modules."""
    for number, rooms in enumerate(LEVELS):
        if any(module == room or module.startswith(f"{room}.") for room in rooms):
            return number
    return len(LEVELS)


def test_no_room_of_the_library_imports_one_above_it() -> None:
    """Imports for annotations and inside functions count, too."""
    for file in (REPOSITORY / "model").rglob("*.py"):
        module = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        if module == "model" or module.startswith(OUTSIDE):
            continue
        for imported, _ in imports(file):
            if imported.startswith("model."):
                assert not imported.startswith(OUTSIDE), f"{module} imports {imported}"
                assert level(imported) >= level(module), f"{module} imports {imported}, which is above it"


PLATFORM_MODULES = {"fcntl", "grp", "msvcrt", "pwd", "resource", "termios", "tty", "winreg"}
"""Modules that some operating systems do not have."""


def test_one_module_imports_what_only_some_systems_have() -> None:
    for package in OURS:
        for file in (REPOSITORY / package).rglob("*.py"):
            if file.relative_to(REPOSITORY) != Path("config/operating_system.py"):
                found = PLATFORM_MODULES.intersection(module for module, _ in imports(file))
                assert not found, f"{file} imports {found}: config/operating_system.py does that"
