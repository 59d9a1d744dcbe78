"""Names of picture files; a file is complete or does not exist, and never replaces another unasked."""

import errno
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from config.settings import ImageSettings
from sensenova_cli.errors import OutputError, OutputWriteError
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.outputs.picture_names import MAX_SLUG, slug
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.outputs.picture_writer import PictureWriter

IMAGE = Image.new("RGB", (64, 32), "teal")
RECORD = PictureRecord(
    task="generate",
    prompt="A cute cat",
    settings=ImageSettings(size="64x32"),
    model="tiny",
    dtype="float32",
    version="0.1.0",
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.chdir(tmp_path)
    # Pictures that cannot be written elsewhere are saved in the folder for temporary files.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("temporary")))
    return tmp_path


def prepare(output: str | None, *, force: bool = False, count: int = 1) -> PictureWriter:
    return PictureWriter.prepare(output, force=force, stdout_is_terminal=False, count=count)


def write(
    output: PictureWriter,
    *,
    prompt: str = "A cute cat",
    seed: int = 42,
    index: int = 0,
    count: int = 1,
    image: Image.Image = IMAGE,
    record: PictureRecord | None = None,
) -> str:
    path = output.write(image, prompt=prompt, seed=seed, index=index, count=count, record=record)
    assert path is not None
    with Image.open(path) as written:
        assert written.tobytes() == image.tobytes()
    return path.as_posix()


def files() -> set[str]:
    return {path.as_posix() for path in Path().rglob("*") if not path.is_dir()}


def refused(output: str | None, *words: str, count: int = 1, terminal: bool = False) -> OutputError:
    with pytest.raises(OutputError) as caught:
        PictureWriter.prepare(output, stdout_is_terminal=terminal, count=count)
    assert not isinstance(caught.value, OutputWriteError)
    for word in words:
        assert word in caught.value.what
    assert caught.value.hint
    return caught.value


# Names


def test_default_name() -> None:
    assert write(prepare(None)) == "a-cute-cat-42.png"
    assert files() == {"a-cute-cat-42.png"}


def test_taken_default_names_are_numbered() -> None:
    names = [write(prepare(None)) for _ in range(3)]
    assert names == ["a-cute-cat-42.png", "a-cute-cat-42-2.png", "a-cute-cat-42-3.png"]


def test_force_replaces_the_default_name() -> None:
    write(prepare(None))
    assert write(prepare(None, force=True), image=Image.new("RGB", (8, 8))) == "a-cute-cat-42.png"
    assert files() == {"a-cute-cat-42.png"}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A cute cat!", "a-cute-cat"),
        ("  ../../etc/passwd  ", "etc-passwd"),
        ("Image-1:<image> make it red", "image-1-make-it-red"),
        ("一只可爱的猫，坐在窗台上", "一只可爱的猫-坐在窗台上"),
        ("हिन्दी में", "हिन्दी-में"),
        ("ＦＵＬＬ ｗｉｄｔｈ", "full-width"),
        ("snake_case", "snake-case"),
        ("?!", "picture"),
        ("🐈", "picture"),
        ("x" * 99, "x" * MAX_SLUG),
        ("a cat that sits on a windowsill in the soft light", "a-cat-that-sits-on-a-windowsill-in-the"),
        ("-rf", "rf"),
        ("a\x1b[31mb\nc", "a-31mb-c"),
    ],
)
def test_slug(prompt: str, expected: str) -> None:
    assert slug(prompt) == expected


def test_file() -> None:
    assert write(prepare("cat.PNG")) == "cat.PNG"
    assert write(prepare("new/deep/cat.png")) == "new/deep/cat.png"


def test_file_and_several_pictures() -> None:
    output = prepare("cat.png", count=2)
    assert [write(output, index=index, count=2) for index in range(2)] == ["cat-0.png", "cat-1.png"]


def test_folder() -> None:
    assert write(prepare("out/")) == "out/a-cute-cat-42.png"
    assert write(prepare("out")) == "out/a-cute-cat-42-2.png"
    Path("od{d").mkdir()
    assert write(prepare("od{d")) == "od{d/a-cute-cat-42.png"


def test_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    write(prepare("~/cat.png"))
    assert files() == {"me/cat.png"}


def test_template() -> None:
    output = prepare("out/{slug}/{seed}-{index:02d}-of-{count}-{width}x{height}{{}}.png", count=3)
    assert write(output, seed=7, index=2, count=3) == "out/a-cute-cat/7-02-of-3-64x32{}.png"


def test_template_without_seed_and_index_gets_the_index() -> None:
    output = prepare("{slug}.png", count=2)
    assert [write(output, index=index, count=2) for index in range(2)] == [
        "a-cute-cat-0.png",
        "a-cute-cat-1.png",
    ]


def test_taken_template_names_are_numbered() -> None:
    assert [write(prepare("{seed}.png")) for _ in range(2)] == ["42.png", "42-2.png"]


def test_bad_templates() -> None:
    assert "{seed}" in refused("{sed}.png", "{sed}").hint
    refused("{}.png", "{}")
    refused("{seed.__class__}.png", "{seed.__class__}")
    refused("{seed.png", "not a valid template")
    refused("{slug:d}.png", "not a valid template")
    refused("{seed:{sed}}.png", "not a valid template")
    assert files() == set()


@pytest.mark.parametrize("name", ["cat.tiff", "cat.gif", "cat", "v1.5"])
def test_unknown_formats(name: str) -> None:
    hint = refused(name, name, ".png").hint
    assert f"{Path(name).stem}.png" in hint and f"{name}/" in hint


def test_impossible_names() -> None:
    refused("", "empty")
    refused("x" * 5000 + ".png", "not possible")
    refused("~no-such-user-here/cat.png", "not possible")


# Existing files


def test_an_existing_file_is_an_error_before_the_run() -> None:
    Path("cat.png").write_text("precious")
    assert "-f" in refused("cat.png", "cat.png exists already").hint
    assert Path("cat.png").read_text() == "precious"
    assert write(prepare("cat.png", force=True)) == "cat.png"


def test_an_existing_file_of_several_is_an_error_before_the_run() -> None:
    Path("cat-1.png").touch()
    refused("cat.png", "cat-1.png exists already", count=2)


def test_dangling_link_counts_as_existing() -> None:
    Path("cat.png").symlink_to("elsewhere.png")
    refused("cat.png", "exists already")


def test_folder_of_that_name() -> None:
    Path("{x}.png").mkdir()
    assert write(prepare("{x}.png")) == "{x}.png/a-cute-cat-42.png"
    Path("cat-0.png").mkdir()
    refused("cat.png", "cat-0.png is a folder", count=2)


def test_a_file_that_appears_meanwhile_is_not_replaced() -> None:
    output = prepare("cat.png")
    Path("cat.png").write_text("precious")
    with pytest.raises(OutputWriteError) as caught:
        write(output)
    assert "cat-2.png" in caught.value.what
    assert Path("cat.png").read_text() == "precious"
    assert Image.open("cat-2.png").size == IMAGE.size
    assert files() == {"cat.png", "cat-2.png"}


@pytest.mark.parametrize("force", [False, True])
def test_a_run_never_replaces_its_own_pictures(force: bool) -> None:
    output = prepare("cat.png", force=force)
    assert [write(output) for _ in range(3)] == ["cat.png", "cat-2.png", "cat-3.png"]


def test_without_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT and some network shares have no hard links."""

    def unsupported(*args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    assert [write(prepare(None)) for _ in range(2)] == ["a-cute-cat-42.png", "a-cute-cat-42-2.png"]
    assert files() == {"a-cute-cat-42.png", "a-cute-cat-42-2.png"}


# Folders that cannot be written


def test_read_only_place() -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("needs /proc, a place where even root cannot create files")
    refused("/proc/self/cat.png", "/proc/self")


def test_folder_without_permission() -> None:
    Path("locked").mkdir(mode=0o500)
    if os.access("locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    refused("locked/cat.png", "locked", "Permission denied")
    refused("locked/deeper/cat.png", "locked/deeper", "Permission denied")


def test_file_in_place_of_a_folder() -> None:
    Path("notes.txt").touch()
    refused("notes.txt/cat.png", "notes.txt is a file")
    refused("notes.txt/deep/{slug}.png", "notes.txt is a file")


def test_a_full_disk_is_noticed_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch)
    refused("out/cat.png", "out", "No space left on device")
    assert files() == set()


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def test_on_a_full_disk_the_picture_is_saved_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    output = prepare(None)
    fill_disk(monkeypatch)
    with pytest.raises(OutputWriteError) as caught:
        write(output, record=RECORD)
    (saved,) = elsewhere.iterdir()
    assert "a-cute-cat-42.png cannot be written: No space left on device" in caught.value.what
    assert str(saved) in caught.value.what
    assert caught.value.hint
    assert read_record(saved) == RECORD
    assert files() == set()


def test_full_disk_and_no_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = prepare("cat.png", force=True)
    fill_disk(monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(OutputWriteError, match="the temporary folder cannot be written either"):
        write(output)
    assert files() == set()


def test_failed_replacement_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cat.png").write_text("precious")
    output = prepare("cat.png", force=True)
    fill_disk(monkeypatch)
    with pytest.raises(OutputWriteError):
        write(output)
    assert files() == {"cat.png"}
    assert Path("cat.png").read_text() == "precious"


@pytest.mark.parametrize("call", ["fsync", "link"])
@pytest.mark.parametrize("hard_links", [True, False])
def test_interrupt_leaves_nothing(call: str, hard_links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    output = prepare("cat.png")

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    def unsupported(*args: object) -> None:
        monkeypatch.setattr(Path, "replace", interrupt)
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, call, interrupt if hard_links or call == "fsync" else unsupported)
    with pytest.raises(KeyboardInterrupt):
        write(output)
    assert files() == set()


def test_files_have_the_usual_permissions() -> None:
    before = os.umask(0o027)
    try:
        path = write(prepare(None))
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o640


# Content of a file


def test_record_is_written() -> None:
    assert read_record(Path(write(prepare("a.png"), record=RECORD))) == RECORD
    assert read_record(Path(write(prepare("b.png")))) is None


def test_the_same_picture_gives_the_same_bytes() -> None:
    first, second = (Path(write(prepare(None), record=RECORD)).read_bytes() for _ in range(2))
    assert first == second


def test_a_fault_in_the_record_does_not_lose_the_picture(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    def fail(record: PictureRecord) -> None:
        raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")

    monkeypatch.setattr("sensenova_cli.outputs.picture_files.png_info", fail)
    for place in ("cat.png", "-"):
        with pytest.raises(OutputWriteError, match="has no record of how it was made: UnicodeEncodeError"):
            prepare(place).write(IMAGE, prompt="a", seed=1, index=0, count=1, record=RECORD)
    for png in (Path("cat.png").read_bytes(), capsysbinary.readouterr().out):
        assert Image.open(io.BytesIO(png)).tobytes() == IMAGE.tobytes()


# stdout


def test_stdout(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    output = prepare("-")
    assert output.write(IMAGE, prompt="a", seed=1, index=0, count=1, record=RECORD) is None
    png = capsysbinary.readouterr().out
    assert Image.open(io.BytesIO(png)).tobytes() == IMAGE.tobytes()
    assert read_record(png) == RECORD
    assert files() == set()


def test_stdout_that_is_a_terminal() -> None:
    assert "-o - >" in refused("-", "terminal", terminal=True).hint


def test_stdout_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.__stdout__", None)
    assert "-o" in refused("-", "stdout is closed").hint
    assert write(prepare("a.png")) == "a.png"


def test_several_pictures_on_stdout() -> None:
    refused("-", "2 pictures", count=2)
    with pytest.raises(OutputError, match="2 pictures"):
        prepare("-").write(IMAGE, prompt="a", seed=1, index=0, count=2, record=None)


WRITE_TO_STDOUT = """
from PIL import Image
from sensenova_cli.errors import OutputWriteError
from sensenova_cli.outputs.picture_writer import PictureWriter
output = PictureWriter.prepare("-", stdout_is_terminal=False)
try:
    output.write(Image.effect_noise((256, 256), 50), prompt="a", seed=1, index=0, count=1, record=None)
except OutputWriteError as error:
    raise SystemExit(f"error: {error.what}")
"""


def test_stdout_on_a_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", WRITE_TO_STDOUT],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
            check=False,
        )
    (saved,) = tmp_path.iterdir()
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == f"error: stdout cannot be written: No space left on device; the picture was saved in {saved}"
    )
