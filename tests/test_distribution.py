"""The distribution's name. PyPI's `sensenova` is another project, so nothing may tell people to install that."""

import re
import tomllib

from benchmarks.licenses import SHIPPED, stated_license
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


def test_the_page_of_licenses_agrees_with_the_project_file() -> None:
    """The license of the packages, and the direct dependencies with the extra that installs each."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    page = (REPOSITORY / "docs" / "licenses.md").read_text()
    assert project["license"] == stated_license() and f"`{stated_license()}` (`pyproject.toml`)" in page
    assert set(project["license-files"]) == {part.text for part in SHIPPED}
    extras = {name: needed for name, needed in project["optional-dependencies"].items() if name != "dev"}
    for installed, needed in {"default": project["dependencies"], **extras}.items():
        shown = installed if installed == "default" else f"`[{installed}]`"
        rows = re.findall(rf"^\| (\S+) \|.*\| {re.escape(shown)} \|$", page, re.MULTILINE)
        names = {re.split(r"[<>=\[]", each)[0].replace("_", "-") for each in needed}
        assert set(rows) == names, installed
