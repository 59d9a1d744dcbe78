"""Image files from users: read, checked, and converted to upright 8-bit RGB."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageCms, UnidentifiedImageError

from config.sizes import MAX_ASPECT
from model.errors import PictureError
from model.png_chunks import essential_png

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # damaged files are reported by our errors alone

MAX_INPUT_PIXELS = 178_956_970
"""Most pixels of an image to decode. At this size Pillow suspects an attack, too."""

WHOLE_PIXELS = 64 * 2**20
"""Pixels of an image above which it is halved while it is converted. The half has more pixels than a model uses."""

FRUGAL_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "PPM")
"""Formats whose decoders need one copy of the pixels. Images of other formats may have `WHOLE_PIXELS` pixels."""

BAND_ROWS = 512
"""Rows of a large image that are converted at once."""

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO", "JPEG2000")
"""Supported formats: the usual ones. Pillow knows more, and starts other programs for some of them."""

EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PROFILE_MODES = {"RGB": "RGB", "RGBA": "RGB", "P": "RGB", "CMYK": "CMYK", "L": "L", "LA": "L"}
"""Mode of an image → mode that its colour profile is about."""

MAX_FILE_BYTES = 256 * 2**20
"""Most bytes of a picture file."""

_EIGHT_BITS = [(value * 255 + 32767) // 65535 for value in range(65536)]
"""16-bit grey value → nearest 8-bit grey value."""


def read_picture(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """Read a picture as the models see it.

    This is the first frame of an animation, upright according to its EXIF orientation, in sRGB according to its colour
    profile, with transparent parts on white. 16-bit grey is scaled to 8 bits, and other colour modes are converted. A
    picture with more than `WHOLE_PIXELS` pixels is halved.

    Args:
        source: a path, or the contents of a file.
        name: the picture's name in messages; the path if None.

    Returns:
        An RGB image with 8 bits per channel.

    Raises:
        PictureError: the file does not exist, is damaged or not a picture, has too many pixels for its format, or has
            sides that differ by a factor of more than 200.
    """
    with open_picture(source, name) as image:
        return as_rgb(image, _name_of(source, name))


def as_rgb(image: Image.Image, name: str = "the picture") -> Image.Image:
    """Convert an open image as `read_picture` does. An upright RGB image stays as it is.

    An image with more than `WHOLE_PIXELS` pixels is halved in both directions, so that a small file cannot fill the
    memory.

    Raises:
        PictureError: the image has floating-point or 32-bit values, or its sides differ by a factor of more than 200.
    """
    _check_shape(image.size, name)
    if image.width * image.height > WHOLE_PIXELS:
        image.draft(image.mode, (image.width // 2, image.height // 2))  # JPEG decodes fewer pixels
    if image.width * image.height > WHOLE_PIXELS:
        return _upright(_halved(image, name), image)
    return _on_white(_in_srgb(_eight_bit(_upright(image), name)))


@contextmanager
def open_picture(source: str | Path | bytes, name: str | None = None) -> Iterator[Image.Image]:
    """Open a picture with Pillow, without decoding it, and close it at the end of the `with` block.

    Errors of Pillow become PictureErrors, also those while the caller decodes the picture.

    Raises:
        PictureError: as for `read_picture`, except for the ratio of the sides.
    """
    shown = _name_of(source, name)
    with _open_file(source, shown) as file, warnings.catch_warnings():
        # Pillow warns about large pictures, which are checked here, and about EXIF data, which does not matter.
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > _most_pixels(image):
                    raise Image.DecompressionBombError(f"{_most_pixels(image):,}")
                yield image
        except (PictureError, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise PictureError(
                f"{shown} has more than {_limit_in(error)} pixels, which is too large",
                "make it smaller first",
            ) from error
        except UnidentifiedImageError as error:
            raise PictureError(
                f"{shown} is not a picture in a supported format",
                "use a PNG, JPEG, WebP, GIF, BMP or TIFF file",
            ) from error
        except Exception as error:  # Pillow's decoders raise nearly any error for a damaged file
            raise PictureError(
                f"{shown} is a damaged or incomplete picture ({error or type(error).__name__})",
                "save or download it again",
            ) from error


def _most_pixels(image: Image.Image) -> int:
    return MAX_INPUT_PIXELS if image.format in FRUGAL_FORMATS else WHOLE_PIXELS


def _limit_in(error: Image.DecompressionBombError) -> str:
    """Return the number of pixels in our own error; Pillow's has another text."""
    return str(error) if str(error).replace(",", "").isdecimal() else f"{MAX_INPUT_PIXELS:,}"


def _halved(image: Image.Image, name: str) -> Image.Image:
    """Convert a large image to RGB in bands, each of which is halved, without its rotation."""
    width, height = image.size
    half = Image.new("RGB", ((width + 1) // 2, (height + 1) // 2))
    for top in range(0, height, BAND_ROWS):
        band = image.crop((0, top, width, min(top + BAND_ROWS, height)))
        half.paste(_on_white(_in_srgb(_eight_bit(band, name))).reduce(2), (0, top // 2))
    return half


def _name_of(source: str | Path | bytes, name: str | None) -> str:
    if name is not None:
        return name
    return "the picture" if isinstance(source, bytes) else str(source)


def _open_file(source: str | Path | bytes, shown: str) -> BinaryIO:
    """Return the encoded picture as a file in memory that is not empty."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise PictureError(f"{shown} is a web address; only files can be read", "download the picture first")
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else Path(source).expanduser().open("rb")
    except FileNotFoundError as error:
        raise PictureError(f"there is no file {shown}", "check the name and the current folder") from error
    except IsADirectoryError as error:
        raise PictureError(f"{shown} is a folder, not a picture", "name a picture in it") from error
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in the name; RuntimeError: ~nobody
        reason = getattr(error, "strerror", None) or error
        raise PictureError(f"{shown} cannot be read: {reason}", "check its name and permissions") from error
    with file:
        content = file.read(MAX_FILE_BYTES + 1)
    if not content:
        raise PictureError(f"{shown} is empty (0 bytes)", "save or download it again")
    if len(content) > MAX_FILE_BYTES:
        raise PictureError(
            f"{shown} has more than {MAX_FILE_BYTES:,} bytes, which is too large", "make it smaller first"
        )
    return io.BytesIO(essential_png(content))


def _check_shape(size: tuple[int, int], shown: str) -> None:
    if min(size) < 1 or max(size) / min(size) > MAX_ASPECT:
        raise PictureError(
            f"{shown} is {size[0]}x{size[1]} pixels; sides may differ by a factor of {MAX_ASPECT:g} at most",
            "crop it first",
        )


def _upright(image: Image.Image, described: Image.Image | None = None) -> Image.Image:
    """Turn an image as its EXIF orientation says. Pillow's own function also rewrites the EXIF data, and fails at some
    that other programs have written.

    Args:
        described: the image with the EXIF data, if it is another one.
    """
    try:
        orientation = (described or image).getexif().get(EXIF_ORIENTATION)
    except Exception:  # damaged EXIF data, for which Pillow raises nearly any error
        orientation = None
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return image
    turned = image.transpose(turn)
    for name in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        turned.info.pop(name, None)  # otherwise the image would be turned again
    return turned


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert an image with a colour profile to sRGB. A profile that is damaged or of another mode has no effect."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile or image.mode not in _PROFILE_MODES:
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(own).lower():
            return image
        opaque = image.convert(_PROFILE_MODES[image.mode])
        converted = ImageCms.profileToProfile(opaque, own, _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    assert converted is not None
    if image.has_transparency_data:
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    return converted


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _eight_bit(image: Image.Image, shown: str) -> Image.Image:
    """Scale 16-bit grey, which Pillow's `convert` would clip at 255. Other modes stay as they are."""
    if image.mode == "F":
        raise PictureError(f"{shown} has floating-point values", "save it with 8 or 16 bits a channel")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    wide = image.convert("I")
    lowest, highest = wide.getextrema()
    if lowest < 0 or highest > 65535:  # type: ignore[operator]  # one band: a pair of numbers
        raise PictureError(f"{shown} has 32-bit values", "save it with 8 or 16 bits a channel")
    grey = wide.point(_EIGHT_BITS, "L")
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    # PNG can declare one grey value transparent. Compare before scaling, which makes 257 values equal.
    mask = wide.point([0 if value == transparent else 255 for value in range(65536)], "L")
    return Image.merge("LA", (grey, mask))


def _on_white(image: Image.Image) -> Image.Image:
    """Convert to RGB. Blend transparent parts with white exactly as the reference implementation does."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white
