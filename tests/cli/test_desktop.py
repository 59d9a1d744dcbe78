"""--open, --copy and the word `clipboard`, on a desktop, on a terminal and without both."""

import base64
import io
import os
from pathlib import Path

import pytest
from PIL import Image

from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.system import clipboard
from tests.cli.desktop import Desktop
from tests.cli.harness import Program
from tests.waiting import until

PNG = b"\x89PNG"


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desktop:
    return Desktop.start(tmp_path, monkeypatch)


def without_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")


def encoded(color: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 64), color).save(file, kind)
    return file.getvalue()


def opened(desktop: Desktop) -> list[str]:
    until(lambda: bool(desktop.opened))
    return desktop.opened


# --open


def test_a_picture_is_opened(program: Program, home: Path, desktop: Desktop) -> None:
    outcome = program("generate", "a cat", "--open", "-o", "-x.png")
    assert (outcome.code, outcome.stdout) == (0, "-x.png\n")
    assert opened(desktop) == [str(home / "-x.png")]


def test_the_folder_of_several_pictures_is_opened(program: Program, home: Path, desktop: Desktop) -> None:
    assert program("generate", "a cat", "-n", "3", "--open", "-o", "cats/").code == 0
    assert opened(desktop) == [str(home / "cats")]


def test_an_interleaved_answer_is_opened(program: Program, home: Path, desktop: Desktop) -> None:
    """The folder of its pictures; with --html the page, which contains them."""
    assert program("interleave", "a tale", "--open", "-o", "tale/").code == 0
    assert opened(desktop) == [str(home / "tale")]
    (desktop.folder / "opened").unlink()
    assert program("interleave", "a tale", "--open", "-o", "tale/", "--html", "tale.html", "-f").code == 0
    assert opened(desktop) == [str(home / "tale.html")]


def test_a_picture_of_run_is_opened_and_copied(program: Program, home: Path, desktop: Desktop) -> None:
    assert program("run", "--open", "--copy").code == 0
    assert opened(desktop) == [str(home / "sensenova_u1_output_0.png")]
    assert desktop.copied().startswith(PNG)


def test_an_answer_of_run_cannot_be_opened(program: Program, desktop: Desktop) -> None:
    words = ("run", "--modality", "text2text", "--prompt", "Hello")
    outcome = program(*words, "--open")
    assert outcome.code == 2 and "--open shows pictures, and --modality text2text makes none" in outcome.stderr
    assert not program.engines
    outcome = program(*words, "--copy")
    assert desktop.copied("text/plain").decode() == outcome.stdout.rstrip("\n")


def test_nothing_is_opened_without_a_desktop(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Desktop.start(tmp_path, monkeypatch, tools=())
    outcome = program("generate", "a cat", "--open")
    assert outcome.code == 2 and "xdg-open, which opens files, is not installed" in outcome.stderr
    without_desktop(monkeypatch)
    outcome = program("generate", "a cat", "--open")
    assert outcome.code == 2 and "no desktop was found" in outcome.stderr
    assert not program.engines and not list(Path().glob("*.png"))


# --copy


def test_a_picture_is_copied_as_png_without_folders(program: Program, home: Path, desktop: Desktop) -> None:
    for name in ("a.png", "a.jpg", "a.webp"):
        outcome = program("generate", "a cat", "--copy", "-o", name)
        assert outcome.code == 0 and f"copied {name}" in outcome.stderr
        copied = desktop.copied()
        assert copied.startswith(PNG) and str(home.parent).encode() not in copied
        record = read_record(copied)
        assert record is not None and record.prompt == "a cat"


def test_what_was_copied_stays_when_the_terminal_is_closed(program: Program, desktop: Desktop) -> None:
    """xclip goes on running in the background. The hangup of the terminal must not end it."""
    assert program("generate", "a cat", "--copy").code == 0
    assert int((desktop.folder / "session").read_text()) != os.getsid(0)


def test_several_pictures_are_not_copied(program: Program, desktop: Desktop) -> None:
    outcome = program("generate", "a cat", "-n", "2", "--copy")
    assert outcome.code == 2 and "--copy takes one picture, and this run makes 2" in outcome.stderr
    assert not program.engines


@pytest.mark.parametrize("option", ["--open", "--copy"])
@pytest.mark.parametrize("output", ["-", "/dev/null"])
def test_no_file_is_an_error(program: Program, desktop: Desktop, option: str, output: str) -> None:
    outcome = program("generate", "a cat", option, "-o", output)
    assert outcome.code == 2 and f"{option} needs a file, and -o {output} writes none" in outcome.stderr


@pytest.mark.parametrize("words", [("generate", "a cat"), ("chat", "hello"), ("interleave", "a tale")])
def test_no_clipboard_is_an_error(program: Program, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    without_desktop(monkeypatch)
    outcome = program(*words, "--copy")
    assert outcome.code == 2 and "there is no clipboard" in outcome.stderr and not program.engines


def test_the_text_of_an_interleaved_answer_is_copied(program: Program, desktop: Desktop) -> None:
    outcome = program("interleave", "a tale", "--copy")
    assert outcome.code == 0 and "copied the answer" in outcome.stderr
    text = desktop.copied("text/plain").decode()
    assert text.startswith("# The kite") and text.endswith("The end.") and "![" not in text


def test_an_answer_is_copied(program: Program, desktop: Desktop) -> None:
    outcome = program("chat", "hello", "--copy")
    assert outcome.code == 0 and outcome.stdout
    assert desktop.copied("text/plain").decode() == outcome.stdout.rstrip("\n")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_copies_text(monkeypatch: pytest.MonkeyPatch) -> None:
    without_desktop(monkeypatch)
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert clipboard.copy_text("caf\udce9 \x1b]0;owned\x07") and clipboard.can_copy_text()
    start, content = screen.getvalue()[:7], screen.getvalue()[7:-1]
    assert (start, screen.getvalue()[-1]) == ("\x1b]52;c;", "\x07")
    assert base64.b64decode(content) == b"caf\\udce9 \x1b]0;owned\x07"
    assert not clipboard.copy_text("x" * 80_000)
    for term in ("dumb", "linux", ""):
        monkeypatch.setenv("TERM", term)
        assert not clipboard.copy_text("hello") and not clipboard.can_copy_text()


# The word `clipboard`


@pytest.mark.parametrize("words", [("clipboard", "make it red"), ("--image", "clipboard", "-p", "make it red")])
def test_the_clipboard_is_edited(program: Program, home: Path, desktop: Desktop, words: tuple[str, ...]) -> None:
    desktop.put("image/png", encoded("teal"))
    assert program("edit", *words, "-o", "red.png").code == 0
    assert program.request.images[0].getpixel((0, 0)) == (0, 128, 128)
    assert "input: clipboard\n" in program("info", "red.png").stdout
    outcome = program("edit", "--from", "red.png")
    assert outcome.code == 2 and "from the clipboard, which cannot be read again" in outcome.stderr


def test_other_types_of_pictures(program: Program, desktop: Desktop) -> None:
    desktop.put("image/jpeg", encoded("white", "JPEG"))
    assert program("describe", "clipboard").code == 0
    assert program.request.images[0].getpixel((0, 0)) == (255, 255, 255)


def test_a_file_with_this_name(program: Program, desktop: Desktop) -> None:
    Path("clipboard").write_bytes(encoded("teal"))
    desktop.put("image/png", encoded("white"))
    assert program("describe", "./clipboard").code == 0
    assert program.request.images[0].getpixel((0, 0)) == (0, 128, 128)


def test_the_clipboard_has_no_picture(program: Program, desktop: Desktop) -> None:
    outcome = program("edit", "clipboard", "make it red")
    assert outcome.code == 2 and "there is no picture in the clipboard" in outcome.stderr
    for kind in ("text/plain", "UTF8_STRING"):
        desktop.put(kind, b"hello")
        outcome = program("edit", "clipboard", "make it red")
        assert outcome.code == 2 and "there is no picture in the clipboard, only text" in outcome.stderr
    desktop.put("image/png", b"no picture")
    outcome = program("edit", "clipboard", "make it red")
    assert outcome.code == 2 and "the clipboard is not a picture" in outcome.stderr
    assert not program.engines


def test_no_program_reads_the_clipboard(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Desktop.start(tmp_path, monkeypatch, tools=())
    outcome = program("describe", "clipboard")
    assert outcome.code == 2 and "install wl-clipboard (Wayland) or xclip (X11)" in outcome.stderr
    without_desktop(monkeypatch)
    outcome = program("describe", "clipboard")
    assert outcome.code == 2 and "there is no clipboard: no desktop was found" in outcome.stderr


def test_a_prompt_file_reads_no_clipboard(program: Program, desktop: Desktop) -> None:
    desktop.put("image/png", encoded("teal"))
    Path("theirs.jsonl").write_text('{"prompt": "make it red", "image": "clipboard"}')
    outcome = program("edit", "--prompt-file", "theirs.jsonl")
    assert outcome.code == 2 and "a prompt file cannot read the clipboard" in outcome.stderr


def test_the_clipboard_in_a_session(program: Program, desktop: Desktop) -> None:
    desktop.put("image/png", encoded("teal"))
    outcome = program("repl", stdin="/image clipboard\nmake it red\n/copy 1\n/copy 2\n")
    assert outcome.code == 0 and "copied picture 2" in outcome.stderr
    assert program.request.images[0].getpixel((0, 0)) == (0, 128, 128)
    assert read_record(desktop.copied()) is not None


def test_a_program_that_hangs_is_not_waited_for(
    program: Program, desktop: Desktop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clipboard, "PATIENCE", 0.1)
    (tmp_path / "tools" / "xclip").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    outcome = program("generate", "a cat", "--copy")
    assert outcome.code == 0 and "could not be copied" in outcome.stderr


# Other desktops


def fake(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_wayland(program: Program, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_desktop(monkeypatch)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-1")
    content = tmp_path / "content"
    fake(tools, "wl-copy", f'[ "$*" = "--type image/png" ] && exec /bin/cat > {content}')
    fake(
        tools,
        "wl-paste",
        f"""case "$*" in
          "--no-newline --list-types") echo text/html; echo image/png;;
          "--no-newline --type image/png") exec /bin/cat {content};;
          *) exit 1;;
        esac""",
    )
    assert "copied a.png" in program("generate", "a cat", "--copy", "-o", "a.png").stderr
    assert content.read_bytes().startswith(PNG)
    assert program("describe", "clipboard").code == 0


def test_macos(program: Program, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    digits = encoded("teal").hex().upper()
    fake(
        tools,
        "osascript",
        f"""case "$2" in
          "the clipboard as «class PNGf»") echo "«data PNGf{digits}»";;
          "set the clipboard to (read (POSIX file "*) echo "$2" > {tmp_path}/script;;
          *) exit 1;;
        esac""",
    )
    assert program("describe", "clipboard").code == 0
    assert program.request.images[0].getpixel((0, 0)) == (0, 128, 128)
    assert "copied a.jpg" in program("generate", "a cat", "--copy", "-o", "a.jpg").stderr
    assert "as «class PNGf»)" in (tmp_path / "script").read_text()
    fake(tools, "osascript", "exit 1")
    outcome = program("describe", "clipboard")
    assert outcome.code == 2 and "there is no picture in the clipboard" in outcome.stderr
