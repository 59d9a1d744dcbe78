"""A desktop for tests: programs that show files, and a clipboard that is a folder."""

from dataclasses import dataclass
from pathlib import Path

import pytest

XCLIP = """#!/bin/sh
/usr/bin/cut -d ' ' -f 6 /proc/$$/stat > FOLDER/session
out=0; type=text/plain
while [ $# -gt 0 ]; do
  case $1 in -o) out=1;; -t) type=$2; shift;; esac
  shift
done
file=FOLDER/$(echo $type | /usr/bin/tr / _)
if [ $out = 0 ]; then
  /bin/cat > $file; echo $type > FOLDER/TARGETS
else
  /bin/cat $file
fi
"""
OPENER = """#!/bin/sh
echo "$*" >> FOLDER/opened
"""


@dataclass(frozen=True)
class Desktop:
    """A desktop on X11 with xclip and xdg-open.

    Attributes:
        folder: the clipboard: one file for each type of content, and `opened`, the list of the opened files.
    """

    folder: Path

    def put(self, kind: str, content: bytes) -> None:
        """Copy something of a type such as image/png."""
        (self.folder / kind.replace("/", "_")).write_bytes(content)
        (self.folder / "TARGETS").write_text(f"TARGETS\n{kind}\n")

    def copied(self, kind: str = "image/png") -> bytes:
        """Return what was copied."""
        return (self.folder / kind.replace("/", "_")).read_bytes()

    @property
    def opened(self) -> list[str]:
        """The files that were opened. The program does not wait for the viewer, so a test waits for `opened`."""
        file = self.folder / "opened"
        return file.read_text().splitlines() if file.exists() else []

    @classmethod
    def start(
        cls, folder: Path, monkeypatch: pytest.MonkeyPatch, tools: tuple[str, ...] = ("xclip", "xdg-open")
    ) -> "Desktop":
        """Make a desktop with these programs, and no others, in a folder."""
        programs = folder / "tools"
        clipboard = folder / "clipboard"
        programs.mkdir()
        clipboard.mkdir()
        for name in tools:
            text = XCLIP if name == "xclip" else OPENER
            (programs / name).write_text(text.replace("FOLDER", str(clipboard)))
            (programs / name).chmod(0o755)
        monkeypatch.setattr("sys.platform", "linux")
        monkeypatch.setenv("PATH", str(programs))
        monkeypatch.setenv("DISPLAY", ":9")
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        return cls(clipboard)
