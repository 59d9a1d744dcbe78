"""Image files: which ones are refused, with which messages, and the pixels of the others."""

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageCms, ImageOps

from model.errors import PictureError
from model.image_files import MAX_INPUT_PIXELS, as_rgb, read_picture
from tests.cli.harness import REPOSITORY
from tests.waiting import PATIENCE


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> list[object]:
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


def png(width: int, height: int, bits: int, colour: int, data: bytes, extra: bytes = b"") -> bytes:
    """Build a PNG that Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gradient() -> Image.Image:
    image = Image.new("RGB", (48, 40))
    image.putdata([(5 * x, 6 * y, 90) for y in range(40) for x in range(48)])
    return image


# Refused files


def refused(source: str | Path | bytes, *words: str, name: str | None = None) -> PictureError:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning of Pillow may reach stderr
        with pytest.raises(PictureError) as caught:
            read_picture(source, name)
    for word in words:
        assert word in caught.value.what
    assert caught.value.hint
    return caught.value


def test_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "cat.png", "there is no file", str(tmp_path / "cat.png"))


def test_folder(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path), "is a folder")


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty.png", "empty (0 bytes)")
    refused(b"", "standard input", "empty (0 bytes)", name="standard input")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated(form: str, tmp_path: Path) -> None:
    whole = encode(gradient(), form)
    path = tmp_path / "half"
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, str(path))


def test_truncated_is_called_damaged() -> None:
    whole = encode(gradient())
    refused(whole[: len(whole) - 40], "in.png", "damaged or incomplete", name="in.png")


def test_not_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("these are words")
    assert "PNG" in refused(path, "notes.png", "not a picture in a supported format").hint


def test_postscript_is_not_run() -> None:
    """Pillow passes EPS files to Ghostscript, a program that would run their code."""
    refused(encode(gradient(), "EPS"), "not a picture in a supported format")


def test_decompression_bomb() -> None:
    side = 20_000
    assert side * side > MAX_INPUT_PIXELS
    bomb = png(side, side, 1, 0, bytes(64))
    refused(bomb, "bomb.png", "more than 178,956,970 pixels", name="bomb.png")


def test_decompression_bomb_without_pillows_own_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    refused(png(20_000, 20_000, 1, 0, bytes(64)), "more than 178,956,970 pixels")


def test_large_picture_below_the_limit_is_read_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    side = 9504  # Pillow warns from 89,478,485 pixels on
    image = read_picture(encode(Image.new("1", (side, side), 1)))
    assert image.size == (side // 2, side // 2)
    assert not recwarn.list


def test_aspect_above_200() -> None:
    refused(encode(Image.new("RGB", (201, 1))), "thin.png", "201x1", "200", name="thin.png")
    assert read_picture(encode(Image.new("RGB", (200, 1)))).size == (200, 1)


def test_web_address() -> None:
    assert "download" in refused("https://example.com/cat.png", "web address").hint


def test_impossible_names() -> None:
    refused("cat\0.png", "cannot be read")
    refused("x" * 5000 + ".png", "cannot be read")
    refused("~no-such-user-here/cat.png", "cannot be read")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(tmp_path / "secret.png", "secret.png", "Permission denied")


def test_floating_point_samples() -> None:
    refused(encode(Image.new("F", (4, 4)), "TIFF"), "floating-point")
    refused(encode(Image.new("I", (4, 4), 70_000), "TIFF"), "32-bit")


# Accepted files


def test_rgb_is_untouched(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    gradient().save(path)
    for source in (path, str(path), path.read_bytes()):
        image = read_picture(source)
        assert image.mode == "RGB"
        assert image.tobytes() == gradient().tobytes()


def test_transparency_is_blended_with_white_as_in_the_reference() -> None:
    image = Image.new("RGBA", (256, 256))
    image.putdata([(x, 255 - x, (3 * x) % 256, y) for y in range(256) for x in range(256)])
    expected = Image.new("RGB", image.size, (255, 255, 255))
    expected.paste(image, mask=image.split()[3])
    assert read_picture(encode(image)).tobytes() == expected.tobytes()


def test_grey_with_alpha() -> None:
    image = Image.new("LA", (3, 1))
    image.putdata([(10, 255), (10, 0), (0, 128)])
    assert pixels(read_picture(encode(image))) == [(10,) * 3, (255,) * 3, (127,) * 3]


def test_palette_with_alpha() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0])
    image.putdata([0, 1, 2])
    encoded = encode(image, transparency=bytes([255, 0, 128]))
    assert pixels(read_picture(encoded)) == [(255, 0, 0), (255, 255, 255), (127, 255, 127)]


def test_one_transparent_colour() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    assert pixels(read_picture(encode(image, transparency=(1, 2, 3)))) == [(255, 255, 255), (9, 9, 9)]


def test_sixteen_bit_grey_is_scaled() -> None:
    image = Image.new("I;16", (5, 1))
    image.putdata([0, 257, 384, 32768, 65535])
    expected = [0, 1, 1, 128, 255]
    for form in ("PNG", "TIFF", "PPM"):
        assert pixels(read_picture(encode(image, form))) == [(value,) * 3 for value in expected], form


def test_sixteen_bit_grey_with_a_transparent_value() -> None:
    body = struct.pack(">H", 257)
    transparency = struct.pack(">I", 2) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))
    row = b"\0" + struct.pack(">3H", 257, 258, 65535)
    assert pixels(read_picture(png(3, 1, 16, 0, row, transparency))) == [(255,) * 3, (1,) * 3, (255,) * 3]


def test_one_bit_and_grey() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels(read_picture(encode(image))) == [(0, 0, 0), (255, 255, 255)]
    assert pixels(read_picture(encode(Image.new("L", (1, 1), 77)))) == [(77, 77, 77)]


def test_cmyk() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink: no cyan, all magenta and yellow
    for form in ("TIFF", "JPEG"):
        red, green, blue = read_picture(encode(image, form)).getpixel((8, 8))  # type: ignore[misc]
        assert red > 240 and green < 15 and blue < 15, form


def test_exif_rotation() -> None:
    image = Image.new("RGB", (32, 16), "blue")
    image.paste("red", (0, 0, 16, 16))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise: the left becomes the top
    upright = read_picture(encode(image, "JPEG", exif=exif, quality=95))
    assert upright.size == (16, 32)
    assert upright.getpixel((8, 4))[0] > 200  # type: ignore[index]
    assert upright.getpixel((8, 28))[2] > 200  # type: ignore[index]
    assert upright.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_animation_gives_its_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    encoded = encode(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]
    red, green, blue = read_picture(encoded).getpixel((8, 8))  # type: ignore[misc]
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_named_pipe(tmp_path: Path) -> None:
    """A shell's <(command) is a pipe, which is not seekable."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(encode(gradient()),), daemon=True)
    writer.start()
    assert read_picture(pipe).tobytes() == gradient().tobytes()
    writer.join(PATIENCE)


CASES = Path(__file__).parents[1] / "data" / "cases"


@pytest.mark.parametrize(
    ("name", "size"),
    [("png_long_text.png", (64, 48)), ("png_short_phys.png", (64, 48)), ("exif_negative_resolution.jpg", (48, 64))],
)
def test_damage_that_the_pixels_do_not_need(name: str, size: tuple[int, int]) -> None:
    assert read_picture(CASES / name).size == size


def test_damaged_pixels_stay_an_error() -> None:
    content = (CASES / "png_short_phys.png").read_bytes()
    with pytest.raises(PictureError, match="damaged or incomplete"):
        read_picture(content[:-30])


@pytest.mark.parametrize(
    "kind", [b"pHYs", b"tIME", b"iTXt", b"zTXt", b"tEXt", b"iCCP", b"eXIf", b"gAMA", b"cHRM", b"vpAg"]
)
@pytest.mark.parametrize("data", [b"", b"\0", b"key\0\1\0\0\0x\x9c", bytes(range(256))])
@pytest.mark.parametrize("checksum", [True, False])
def test_any_damaged_chunk_beside_the_pixels(kind: bytes, data: bytes, checksum: bool) -> None:
    content = encode(gradient())
    chunk = kind + data
    crc = zlib.crc32(chunk) if checksum else 1
    damaged = content[:33] + struct.pack(">I", len(data)) + chunk + struct.pack(">I", crc) + content[33:]
    assert read_picture(damaged).tobytes() == gradient().tobytes()


def test_a_colour_profile_is_converted_to_srgb() -> None:
    red, _, blue = read_picture(CASES / "profile_red_is_blue.png").getpixel((0, 0))  # type: ignore[misc]
    assert red < 60 and blue > 190


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA"])
def test_an_srgb_or_damaged_profile_changes_nothing(mode: str) -> None:
    picture = gradient().convert(mode)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = read_picture(encode(picture))
    for profile in (srgb, b"no profile", srgb[:200]):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", icc_profile=profile)
        assert read_picture(buffer.getvalue()).tobytes() == plain.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    picture = gradient()
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    assert read_picture(buffer.getvalue()).tobytes() == expected.convert("RGB").tobytes()


# Large pictures

READ_WITH_LITTLE_MEMORY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1600 * 2**20, 1600 * 2**20))
from model.image_files import read_picture
print(read_picture(sys.argv[1]).size)
"""


def large_png(path: Path, side: int, color_type: int, bytes_per_pixel: int) -> None:
    """Write a black PNG whose file is small, row by row."""
    packer = zlib.compressobj(9)
    row = bytes(1 + side * bytes_per_pixel)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, color_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_a_small_file_with_many_pixels_does_not_fill_the_memory(tmp_path: Path) -> None:
    """A PNG of 0.7 MB with 179 megapixels needed 2.9 GiB."""
    large_png(tmp_path / "large.png", 13370, color_type=6, bytes_per_pixel=4)
    assert (tmp_path / "large.png").stat().st_size < 10**6
    command = [sys.executable, "-c", READ_WITH_LITTLE_MEMORY, str(tmp_path / "large.png")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(6685, 6685)\n"), done.stderr


@pytest.fixture
def few_pixels_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat images with more than 1000 pixels as large ones."""
    monkeypatch.setattr("model.image_files.WHOLE_PIXELS", 1000)
    monkeypatch.setattr("model.image_files.BAND_ROWS", 16)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_large_picture_is_halved(few_pixels_are_many: None, mode: str) -> None:
    gradient = Image.linear_gradient("L").resize((75, 63))
    image = gradient.convert("RGBA").convert(mode) if mode not in ("I;16",) else gradient.convert("I").convert("I;16")
    file = io.BytesIO()
    image.save(file, "PNG")
    half = read_picture(file.getvalue())
    assert half.size == (38, 32)
    with Image.open(file) as opened:
        whole = as_rgb_whole(opened).reduce(2)
    assert ImageChops.difference(half, whole).getbbox() is None


def as_rgb_whole(image: Image.Image) -> Image.Image:
    """Convert an image without halving it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.image_files.WHOLE_PIXELS", 10**9)
        return as_rgb(image)


def test_a_large_jpeg_is_halved_and_upright(few_pixels_are_many: None) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.linear_gradient("L").resize((72, 54)).convert("RGB").save(file, "JPEG", exif=exif)
    assert read_picture(file.getvalue()).size == (27, 36)


def test_formats_that_need_much_memory_have_a_lower_limit(few_pixels_are_many: None) -> None:
    file = io.BytesIO()
    Image.new("RGB", (80, 60)).save(file, "WEBP")
    with pytest.raises(PictureError, match="more than 1,000 pixels"):
        read_picture(file.getvalue())
