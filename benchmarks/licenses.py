"""The licenses of what wheel and sdist contain and of what they depend on, and the page that lists them.

`python -m benchmarks.packaging` writes the page.
"""

import importlib.metadata
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

PROJECT = "sensenova-cli"


@dataclass(frozen=True)
class Part:
    """Content that wheel or sdist may have.

    Attributes:
        patterns: shell patterns of its files' names in the repository.
        license: an SPDX expression.
        text: the license text in the repository.
        origin: where it is from.
    """

    name: str
    patterns: tuple[str, ...]
    license: str
    text: str
    origin: str

    def has(self, name: str) -> bool:
        """Return whether a file of this name belongs to the part, if it belongs to no earlier one."""
        return any(fnmatch(name, pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class Holding:
    """The content of a wheel or sdist that belongs to one part: its number of files, and whether it has the license."""

    files: int
    has_text: bool


SHIPPED = (
    Part("the demo's weights", ("model/demo/checkpoint/*",), "Apache-2.0", "LICENSE", "trained by this project"),
    Part(
        "drawings of objects",
        ("model/demo/training/objects/objects.png",),
        "OFL-1.1",
        "model/demo/training/objects/OFL.txt",
        "Noto Color Emoji 2.042, which the demo was trained on",
    ),
    Part("the program", ("config/*", "model/*", "sensenova_cli/*"), "Apache-2.0", "LICENSE", "this project"),
)
"""A file belongs to the first part that has a pattern for it."""
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "MIT License": "MIT",
}
"""Names in trove classifiers → SPDX."""


def holdings(names: Sequence[str]) -> list[Holding]:
    """Return what a wheel or sdist with files of these names has of each part of `SHIPPED`."""
    counts = Counter(next((part for part in SHIPPED if part.has(name)), None) for name in names)
    inside = {name.partition(".dist-info/licenses/")[2] or name for name in names}
    return [Holding(counts[part], part.text in inside) for part in SHIPPED]


def dependencies() -> Iterator[tuple[str, str, str, str]]:
    """Yield name, version, license and extra of each direct dependency, except of those for development only.

    The license is the one that the installed package states about itself.
    """
    for requirement in importlib.metadata.requires(PROJECT) or ():
        name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if extra is None or extra[1] != "dev":
            stated = _stated(name)
            yield name, *stated, extra[1] if extra else ""


def _stated(name: str) -> tuple[str, str]:
    """Return version and license of an installed package."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return "", "not installed here"
    classifiers = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier") or () if "License" in each]
    known = sorted({CLASSIFIERS[each] for each in classifiers if each in CLASSIFIERS})
    named = metadata["License"] or ""
    short = named if named and len(named) < 40 and "\n" not in named else ""
    stated = metadata["License-Expression"] or " and ".join(known) or short or _from_file(name)
    return metadata["Version"], stated


def _from_file(name: str) -> str:
    """Return the license by the first lines of the package's license file."""
    for file in importlib.metadata.files(name) or ():
        if file.name.upper().startswith("LICEN") and ".dist-info" in str(file):
            head = " ".join(file.read_text(encoding="utf-8").split())[:400]
            for words, spdx in (("Apache License", "Apache-2.0"), ("MIT License", "MIT"), ("BSD", "BSD")):
                if words in head:
                    return spdx
    return "not stated"


def stated_license() -> str:
    """Return the license that the packages state, an SPDX expression."""
    return " AND ".join(sorted({part.license for part in SHIPPED}))


def page(found: Mapping[str, Sequence[Holding]]) -> str:
    """Return the page.

    Args:
        found: by the kind of file, what it has of each part of `SHIPPED`.
    """
    lines = [
        "# Licenses",
        "",
        "`python -m benchmarks.packaging` writes this page. It checks that wheel and sdist contain the license text of",
        "everything that they contain.",
        "",
        "## What is shipped",
        "",
        f"| content | license | from | {' | '.join(f'files in the {kind}' for kind in found)} | text |",
        f"| --- | --- | --- | {' | '.join('---:' for _ in found)} | --- |",
    ]
    for number, part in enumerate(SHIPPED):
        counts = [str(holds[number].files or "none") for holds in found.values()]
        link = f"[{part.text.rpartition('/')[2]}](../{part.text})"
        lines.append(f"| {part.name} | {part.license} | {part.origin} | {' | '.join(counts)} | {link} |")
    lines += [
        "",
        "The wheel has no drawings, but its demo learned to draw from them, so it has their license text, too. So both",
        f"packages state the license `{stated_license()}` (`pyproject.toml`).",
        "",
        "## Direct dependencies",
        "",
        "pip installs these packages; they are not part of wheel or sdist. The licenses are those that the packages",
        "state about themselves. A package may contain or install parts under other licenses: a CUDA build of PyTorch",
        "installs NVIDIA's libraries.",
        "",
        "| package | version | license | installed by |",
        "| --- | --- | --- | --- |",
    ]
    for name, version, stated, extra in sorted(dependencies(), key=lambda each: (each[3], each[0].lower())):
        lines.append(f"| {name} | {version} | {stated} | {f'`[{extra}]`' if extra else 'default'} |")
    return "\n".join([*lines, ""])
