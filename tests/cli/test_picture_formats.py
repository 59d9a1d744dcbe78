"""JPEG and WebP files: their records, descriptions and names, and what they have no room for."""

import base64
import hashlib
import io
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from config.settings import PictureFormat
from model import PictureError
from sensenova_cli.errors import OutputError, OutputWriteError
from sensenova_cli.outputs import exif, xmp
from sensenova_cli.outputs.picture_files import (
    encode_picture,
    png_info,
    read_parameters,
    read_record,
    without_folders,
)
from sensenova_cli.outputs.picture_names import PictureForm
from sensenova_cli.outputs.picture_record import InputFile, PictureRecord, parameters_text
from sensenova_cli.outputs.picture_writer import PictureWriter
from tests.cli.harness import Program
from tests.cli.test_picture_records import RECORD, changed_record

FORMATS: tuple[PictureFormat, ...] = ("png", "jpeg", "webp")
COMPRESSED: tuple[PictureFormat, ...] = ("jpeg", "webp")
GRADIENT = Image.radial_gradient("L").resize((96, 64)).convert("RGB")


def encoded(form: PictureFormat, record: PictureRecord | None = RECORD, quality: int = 95) -> bytes:
    return encode_picture(GRADIENT, record, form, quality).content


def opened(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image


def with_packet(packet: bytes, form: PictureFormat = "jpeg", comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    GRADIENT.save(buffer, form.upper(), xmp=packet, exif=comment)
    return buffer.getvalue()


def test_the_texts_of_png_files_never_change() -> None:
    """Pixels depend on the version of zlib, so they are not part of the checksum."""
    chunks = b"".join(kind + data for kind, data, *_ in png_info(RECORD).chunks)
    assert hashlib.sha256(chunks).hexdigest() == "c78b87ecbe55e5272bd6fe7f13c9facd2b0dc922eb44836d00f323f4a951783a"


@pytest.mark.parametrize("form", FORMATS)
def test_round_trip(form: PictureFormat) -> None:
    content = encoded(form)
    assert opened(content).format == form.upper()
    assert read_record(content) == RECORD
    assert read_parameters(content) == parameters_text(RECORD)
    assert encoded(form, read_record(content)) == content
    assert encoded("png", read_record(content)) == encoded("png")


@pytest.mark.parametrize("form", FORMATS)
def test_without_a_record(form: PictureFormat) -> None:
    content = encoded(form, None)
    assert read_record(content) is None
    assert read_parameters(content) is None


@pytest.mark.parametrize("form", COMPRESSED)
def test_names_and_words_that_are_no_unicode(form: PictureFormat) -> None:
    record = changed_record(prompt="a \udcff <cat> & \x07 ]]>", model="/models/u\udcff")
    assert read_record(encoded(form, record)) == record
    assert "Model: u\\udcff, " in (read_parameters(encoded(form, record)) or "")


def test_quality() -> None:
    for form in COMPRESSED:
        assert len(encoded(form, quality=20)) < len(encoded(form, quality=95))
    assert opened(encoded("webp", quality=100)).tobytes() == GRADIENT.tobytes(), "lossless"
    assert opened(encoded("webp", quality=99)).tobytes() != GRADIENT.tobytes()


def test_colored_text_keeps_its_edges_at_the_default_quality() -> None:
    image = Image.new("RGB", (64, 64), "blue")
    for x in range(0, 64, 4):
        image.paste("red", (x, 0, x + 1, 64))
    red = [opened(encode_picture(image, None, "jpeg", quality).content).getpixel((32, 32)) for quality in (95, 85)]
    assert red[0][0] > 200 > red[1][0]  # type: ignore[index]


def test_a_long_think_text_has_no_room_in_a_jpeg_file() -> None:
    record = changed_record(think_text="思" * 20_000)
    jpeg = encode_picture(GRADIENT, record, "jpeg")
    assert jpeg.missing == "the think text"
    assert read_record(jpeg.content) == changed_record(think_text=None)
    webp = encode_picture(GRADIENT, record, "webp")
    assert webp.missing == ""
    assert read_record(webp.content) == record


def test_a_long_conversation_has_no_room_in_a_jpeg_file() -> None:
    history = [{"role": "user", "text": "word " * 20_000}, {"role": "assistant", "text": "Yes."}]
    record = changed_record(task="interleave", answer={"index": 0, "settings": {}, "history": history})
    jpeg = encode_picture(GRADIENT, record, "jpeg")
    assert jpeg.missing == "the record of how it was made"
    assert read_record(jpeg.content) is None
    assert read_parameters(jpeg.content) == parameters_text(record)


def test_a_long_prompt_has_no_room_in_a_jpeg_file() -> None:
    jpeg = encode_picture(GRADIENT, changed_record(prompt="word " * 20_000), "jpeg")
    assert jpeg.missing == "the record of how it was made and the description for other programs"
    assert read_record(jpeg.content) is read_parameters(jpeg.content) is None
    assert opened(jpeg.content).size == GRADIENT.size


@pytest.mark.parametrize("form", FORMATS)
def test_exports_name_no_folders(form: PictureFormat) -> None:
    record = changed_record(
        model="/home/me/u1",
        weights="/home/me/u1.gguf",
        lora="/home/me/style.safetensors",
        inputs=(InputFile(path="/home/me/in.png", sha256="ab" * 32),),
    )
    bare = without_folders(encoded(form, record))
    assert b"/home/me" not in bare
    assert opened(bare).tobytes() == opened(encoded(form, record)).tobytes()
    read = read_record(bare)
    assert read is not None
    assert (read.loaded.model, read.loaded.weights, read.loaded.lora) == ("u1", "u1.gguf", "style.safetensors")
    assert read.inputs[0].path == "in.png"
    assert read_parameters(bare) == parameters_text(record)
    assert without_folders(encoded(form, None)) == encoded(form, None)


# Texts of other programs


def test_other_programs_may_write_the_packet_again() -> None:
    text = '{"a": "b & c"}'
    as_attribute = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<r:Description xmlns:q="urn:sensenova:record:" q:record="{&quot;a&quot;: &quot;b &amp; c&quot;}"/></r:RDF>'
        "</x:xmpmeta>"
    )
    assert xmp.record_in_xmp(as_attribute.encode()) == text
    assert xmp.record_in_xmp(xmp.xmp_packet(text) + bytes(2000)) == text, "padding"
    assert xmp.record_in_xmp(b"<x:xmpmeta") is None, "damage in the texts of another program does not matter"


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (exif.UNICODE + "a cat\nSteps: 4".encode("utf-16-le"), "a cat\nSteps: 4"),
        (exif.UNICODE + "a cat\nSteps: 4".encode("utf-16-be"), "a cat\nSteps: 4"),
        (exif.UNICODE + "猫\nSteps: 4".encode("utf-16"), "猫\nSteps: 4"),
        (exif.ASCII + b"a cat\nSteps: 4\0\0", "a cat\nSteps: 4"),
        (exif.UNDEFINED + "猫\nSteps: 4".encode(), "猫\nSteps: 4"),
        (exif.ASCII + b"Screenshot", None),
        (b"JIS\0\0\0\0\0Steps: 4", None),
        (b"", None),
    ],
)
def test_descriptions_of_other_programs(comment: bytes, text: str | None) -> None:
    data = Image.Exif()
    data.get_ifd(exif.EXIF_IFD)[exif.USER_COMMENT] = comment
    for form in COMPRESSED:
        assert read_parameters(with_packet(b"<x/>", form, data.tobytes())) == text


# Damage


def refused(content: bytes, *words: str) -> None:
    with pytest.raises(PictureError) as caught:
        read_record(content, "cat.jpg")
    for word in words:
        assert word in caught.value.what


@pytest.mark.parametrize("form", COMPRESSED)
def test_damaged_records(form: PictureFormat) -> None:
    packet = xmp.xmp_packet('{"format": 1}')
    refused(with_packet(packet[:-60], form), "cat.jpg", "XMP is damaged")
    refused(with_packet(xmp.xmp_packet("[" * 50_000), form), "cannot be read")
    refused(with_packet(xmp.xmp_packet("{}"), form), "not a record")
    refused(with_packet(xmp.xmp_packet('{"format": "1"}'), form), "not a record")
    refused(with_packet(xmp.xmp_packet('{"format": 99}'), form), "newer version")
    latin = packet.replace(b"1}", b"1, \xe4}")
    refused(with_packet(latin, form), "XMP is damaged")
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + packet
    refused(with_packet(bomb, form), "declares entities")
    refused(encoded(form)[:-200], "damaged")


def test_deep_packets_are_read_within_limits() -> None:
    """Thousands of open elements do not overflow a stack."""
    deep = b"<a>" * 100_000 + xmp.NAMESPACE.encode()
    refused(with_packet(deep, "webp"), "XMP is damaged")


def test_damaged_exif_is_no_error() -> None:
    content = encoded("jpeg")
    start = content.index(b"Exif\0\0") + 6
    for damage in (b"XX", b"MM\0*\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\0"):
        damaged = content[:start] + damage + content[start + len(damage) :]
        assert read_parameters(damaged) is None
        assert read_record(damaged) == RECORD


def test_a_packet_that_claims_to_be_longer() -> None:
    content = encoded("webp")
    place = content.index(b"XMP ") + 4
    longer = content[:place] + struct.pack("<I", 2**31) + content[place + 4 :]
    with pytest.raises(PictureError):
        read_record(longer)


# Names


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Go into an empty folder; return the notes of writers."""
    monkeypatch.chdir(tmp_path)
    return []


Prepare = Callable[..., PictureWriter]


@pytest.fixture
def prepare(noted: list[str]) -> Prepare:
    def prepare(output: str | None, form: PictureForm, **options: object) -> PictureWriter:
        return PictureWriter.prepare(output, stdout_is_terminal=False, form=form, note=noted.append, **options)  # type: ignore[arg-type]

    return prepare


def write(writer: PictureWriter, record: PictureRecord | None = RECORD, image: Image.Image = GRADIENT) -> str:
    path = writer.write(image, prompt="A cat", seed=1, index=0, count=1, record=record)
    assert path is not None
    return path.as_posix()


def format_of(name: str) -> str | None:
    with Image.open(name) as image:
        return image.format


@pytest.mark.parametrize(
    ("output", "form", "name"),
    [
        ("x.jpg", "png", "x.jpg"),
        ("x.JPEG", "png", "x.JPEG"),
        ("x.webp", "jpeg", "x.webp"),
        ("{slug}.webp", "png", "a-cat.webp"),
        (None, "jpeg", "a-cat-1.jpg"),
        ("out/", "webp", "out/a-cat-1.webp"),
    ],
)
def test_the_ending_of_a_name_decides(prepare: Prepare, output: str | None, form: PictureFormat, name: str) -> None:
    assert write(prepare(output, PictureForm(form))) == name
    assert format_of(name) == {".jpg": "JPEG", ".JPEG": "JPEG", ".webp": "WEBP"}[Path(name).suffix]
    assert read_record(name) == RECORD


def test_taken_names_are_numbered(prepare: Prepare) -> None:
    form = PictureForm("jpeg")
    assert [write(prepare(None, form)) for _ in range(2)] == ["a-cat-1.jpg", "a-cat-1-2.jpg"]


def test_a_typed_format_contradicts_a_name(prepare: Prepare) -> None:
    with pytest.raises(OutputError) as caught:
        prepare("x.png", PictureForm("jpeg", is_typed=True))
    assert caught.value.what == "`format=jpeg` and the name x.png contradict each other"
    assert "x.jpg" in caught.value.hint
    assert write(prepare("x.jpg", PictureForm("jpeg", is_typed=True))) == "x.jpg"


def test_quality_of_a_writer(prepare: Prepare) -> None:
    sizes = [
        Path(write(prepare(f"{quality}.jpg", PictureForm(quality=quality)))).stat().st_size for quality in (20, 95)
    ]
    assert sizes[0] < sizes[1]


def test_a_missing_part_is_noted(prepare: Prepare, noted: list[str]) -> None:
    write(prepare("x.jpg", PictureForm()), changed_record(think_text="思" * 20_000))
    assert noted == [
        "x.jpg is complete, but without the think text, for which a JPEG file has no room; PNG and WebP files have it"
    ]


WIDE = Image.new("RGB", (16_416, 96), "teal")
"""A picture that is too wide for WebP."""


@pytest.mark.parametrize("force", [False, True])
def test_a_picture_that_is_too_large_is_written_as_png(prepare: Prepare, noted: list[str], force: bool) -> None:
    assert write(prepare("x.webp", PictureForm(), force=force), image=WIDE) == "x.png"
    assert read_record("x.png") == RECORD
    assert "a WebP file cannot hold this picture of 16416x96" in noted[0] and "was written to x.png" in noted[0]
    Path("x.png").write_text("precious")
    assert write(prepare("x.webp", PictureForm(), force=force), image=WIDE) == "x-2.png"
    assert Path("x.png").read_text() == "precious"


def test_a_picture_that_is_too_large_for_stdout_is_saved(
    prepare: Prepare, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(OutputWriteError, match="cannot hold this picture of 16416x96"):
        prepare("-", PictureForm("webp")).write(WIDE, prompt="A cat", seed=1, index=0, count=1, record=RECORD)
    (saved,) = folder.iterdir()
    assert read_record(saved) == RECORD


def test_webp_needs_a_pillow_that_has_it(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda feature: feature != "webp")
    for output, form in (("x.webp", "png"), (None, "webp"), ("out/", "webp"), ("-", "webp")):
        with pytest.raises(OutputError, match="cannot write WebP"):
            prepare(output, PictureForm(form))  # type: ignore[arg-type]


# The whole program


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_picture_of_any_format_is_repeated(program: Program, home: Path, name: str) -> None:
    words = ("generate", "a cat", "--think", "--seed", "7", "--steps", "3")
    assert program(*words, "-o", "first.png").code == program(*words, "-o", name, "-f").code == 0
    assert "prompt: a cat\n" in program("info", name).stdout
    assert program("generate", "--from", name, "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("first.png").read_bytes()
    assert program("generate", "--from", name, "-o", f"again-{name}").code == 0
    assert Path(f"again-{name}").read_bytes() == Path(name).read_bytes()


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_an_edit_and_a_picture_of_a_session_are_repeated(program: Program, home: Path, ending: str) -> None:
    assert program("generate", "a cat", "-o", f"cat.{ending}").code == 0
    for name in (f"red.{ending}", "red.png"):
        assert program("edit", f"cat.{ending}", "make it red", "-o", name).code == 0
    assert program("edit", "--from", f"red.{ending}", "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("red.png").read_bytes()
    lines = f"a cat\n/generate a dog\n/save 2 dog.{ending}\n/save 2 dog.png\n/set format {ending}\n/save 2 saved/\n"
    Path("saved").mkdir()
    assert program("repl", stdin=lines).code == 0
    assert program("generate", "--from", f"dog.{ending}", "-o", "dog-again.png").code == 0
    assert Path("dog-again.png").read_bytes() == Path("dog.png").read_bytes()
    assert [file.name for file in Path("saved").iterdir()] == [f"002-a-dog-42.{ending}"]


def test_bytes_on_stdout(program: Program) -> None:
    outcome = program("generate", "a cat", "--format", "jpg", "--quality", "50", "-o", "-")
    assert opened(outcome.stdout_bytes).format == "JPEG"
    record = read_record(outcome.stdout_bytes)
    assert record is not None and record.prompt == "a cat"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "jpeg", "-o", "x.png"), "--format jpeg and the name x.png contradict each other"),
        (("--format", "gif"), "--format gif: must be png, jpeg or webp"),
        (("--quality", "0"), "--quality 0: must be"),
        (("--quality", "101"), "--quality 101: must be"),
        (("-o", "x.tiff"), "x.tiff does not end in .png, .jpg, .jpeg or .webp"),
    ],
)
def test_wrong_formats_are_refused_before_loading(program: Program, words: tuple[str, ...], message: str) -> None:
    outcome = program("generate", "a cat", *words)
    assert outcome.code == 2 and message in outcome.stderr
    assert not program.engines


def test_a_typed_name_wins_over_a_settings_file(program: Program) -> None:
    Path("sensenova.toml").write_text('format = "webp"\nquality = 100\n')
    outcome = program("generate", "a cat", "-o", "x.jpg")
    assert (outcome.code, format_of("x.jpg")) == (0, "JPEG")
    assert program("generate", "a cat").stdout == "a-cat-42.webp\n"
    assert program("run", "--prompt", "a cat").stdout == "sensenova_u1_output_0.webp\n"
    assert program("run", "--prompt", "a cat", "--format", "png").stdout == "sensenova_u1_output_1.png\n"


def test_a_format_for_a_picture_that_stays_in_the_session_has_no_effect(program: Program) -> None:
    outcome = program("repl", stdin="a cat --format webp\na dog -o out/ --format webp\n")
    assert "the session's own pictures are PNG files" in outcome.stderr
    assert [file.name for file in Path("out").iterdir()] == ["a-dog-43.webp"]


def test_a_note_about_a_missing_part(program: Program) -> None:
    outcome = program("generate", "a cat " * 11_000, "-o", "x.jpg")
    assert outcome.code == 0 and "x.jpg is complete, but without the record of how it was made" in outcome.stderr
    assert "the description for other programs" in outcome.stderr
    outcome = program("info", "x.jpg")
    assert outcome.code == 1 and "x.jpg has no record" in outcome.stderr


def test_a_quality_for_png_files_is_noted(program: Program) -> None:
    note = "--quality has no effect on PNG files"
    assert note in program("generate", "a cat", "--quality", "80").stderr
    assert note not in program("generate", "a cat", "--quality", "80", "-o", "x.jpg").stderr
    Path("sensenova.toml").write_text("quality = 80\n")
    assert note not in program("generate", "a cat").stderr


def test_a_page_contains_pictures_of_every_format_without_folders(program: Program, home: Path) -> None:
    for form in FORMATS:
        assert program("interleave", "a tale", "--html", f"{form}.html", "--format", form).code == 0
        found = re.findall('src="data:image/([a-z]+);base64,([^"]+)"', Path(f"{form}.html").read_text())
        assert found and all(kind == form for kind, _ in found)
        for _, data in found:
            content = base64.b64decode(data)
            assert opened(content).format == form.upper() and str(home.parent).encode() not in content


def test_descriptions_of_other_programs_are_printed(program: Program) -> None:
    data = Image.Exif()
    data.get_ifd(exif.EXIF_IFD)[exif.USER_COMMENT] = exif.UNICODE + "a cat\nSteps: 4".encode("utf-16-be")
    Path("theirs.jpg").write_bytes(with_packet(b"<x/>", "jpeg", data.tobytes()))
    outcome = program("info", "theirs.jpg")
    assert outcome.code == 1 and outcome.stdout == "picture: theirs.jpg\nparameters: a cat\n  Steps: 4\n"
    assert "only the text of another program" in program("generate", "--from", "theirs.jpg").stderr
