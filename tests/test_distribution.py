"""The distribution's name. PyPI's `sensenova` is another project, so nothing may tell people to install that."""

import re
import tomllib

from tests.cli.harness import REPOSITORY

TEXTS = [
    file
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md", "model/**/*.md", "*/**/*.py", "*/**/*.html")
    for file in REPOSITORY.glob(pattern)
    if "tests" not in file.relative_to(REPOSITORY).parts and ".venv" not in file.parts
]


def test_extras_are_installed_from_the_checkout() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["name"] == "sensenova-cli" and list(project["scripts"]) == ["sensenova"]
    named: set[str] = set()
    assert len(TEXTS) > 200
    for file in TEXTS:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"sensenova\[|pip install (-\S+ )*'?sensenova\b", text), file
        for extras in re.findall(r"pip install [^\n]*'\.\[([a-z,]+)\]'", text):
            named |= set(extras.split(","))
    assert {"cache", "serve", "sixel", "dev"} <= named <= set(project["optional-dependencies"])
