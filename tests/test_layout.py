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
