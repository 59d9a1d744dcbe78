"""Pictures from outside: read, checked, and turned into upright 8-bit RGB."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from config.sizes import MAX_ASPECT
from model.errors import PictureError

MAX_INPUT_PIXELS = 178_956_970
"""Largest picture that is decoded: the size at which Pillow, too, suspects an attack."""

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO", "JPEG2000")
"""Formats that are read: those pictures come in. Pillow knows more, some of which start other programs."""

_EIGHT_BITS = [(value * 255 + 32767) // 65535 for value in range(65536)]
"""16-bit grey value → 8-bit grey value, rounded to the nearest."""


def read_picture(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """Read a picture as the models see it.

    The first frame of an animation, turned upright as its EXIF orientation says; transparent parts on white;
    16-bit grey scaled to 8 bits; every other colour mode converted.

    Args:
        source: a file, or the encoded picture itself.
        name: what messages call the picture; the file's name unless told.

    Returns:
        An RGB picture, 8 bits a channel.

    Raises:
        PictureError: there is no such file, it is no picture or a damaged one, it has more than
            `MAX_INPUT_PIXELS` pixels, or its sides differ by a factor of more than 200.
    """
    with open_picture(source, name) as image:
        return as_rgb(image, _name_of(source, name))


def as_rgb(image: Image.Image, name: str = "the picture") -> Image.Image:
    """A picture that is open already, as `read_picture` would give it; an upright RGB one stays as it is.

    Raises:
        PictureError: it holds floating-point or 32-bit numbers, or its sides differ by a factor of more than 200.
    """
    _check_shape(image.size, name)
    return _on_white(_eight_bit(ImageOps.exif_transpose(image), name))


@contextmanager
def open_picture(source: str | Path | bytes, name: str | None = None) -> Iterator[Image.Image]:
    """Open a picture with Pillow, without decoding it yet, and close it afterwards.

    Whatever Pillow says about damage, also while the caller decodes the picture, becomes a PictureError.

    Raises:
        PictureError: as for `read_picture`, except for the ratio of the sides.
    """
    called = _name_of(source, name)
    with _open_file(source, called) as file, warnings.catch_warnings():
        # Pillow remarks on large pictures and odd EXIF blocks: what matters of it is checked here.
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_INPUT_PIXELS:
                    raise Image.DecompressionBombError
                yield image
        except (PictureError, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise PictureError(
                f"{called} has more than {MAX_INPUT_PIXELS:,} pixels, which is more than is ever needed",
                "make it smaller first",
            ) from error
        except UnidentifiedImageError as error:
            raise PictureError(
                f"{called} is no picture in a format that is read",
                "give a PNG, JPEG, WebP, GIF, BMP or TIFF file",
            ) from error
        except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
            raise PictureError(
                f"{called} is a damaged or incomplete picture ({error or type(error).__name__})",
                "save or download it again",
            ) from error


def _name_of(source: str | Path | bytes, name: str | None) -> str:
    if name is not None:
        return name
    return "the picture" if isinstance(source, bytes) else str(source)


def _open_file(source: str | Path | bytes, called: str) -> BinaryIO:
    """The encoded picture as a file that can be sought in and is not empty."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise PictureError(f"{called} is a web address; only files are read", "download the picture first")
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else Path(source).expanduser().open("rb")
    except FileNotFoundError as error:
        raise PictureError(f"there is no file {called}", "check the name and the current folder") from error
    except IsADirectoryError as error:
        raise PictureError(f"{called} is a folder, not a picture", "name a picture in it") from error
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in the name; RuntimeError: ~nobody
        reason = getattr(error, "strerror", None) or error
        raise PictureError(f"{called} cannot be read: {reason}", "check its name and permissions") from error
    if not file.seekable():  # a pipe, such as a shell's <(command)
        with file:
            return _open_file(file.read(), called)
    if not file.read(1):
        file.close()
        raise PictureError(f"{called} is empty (0 bytes)", "save or download it again")
    file.seek(0)
    return file


def _check_shape(size: tuple[int, int], called: str) -> None:
    if min(size) < 1 or max(size) / min(size) > MAX_ASPECT:
        raise PictureError(
            f"{called} is {size[0]}x{size[1]} pixels; sides may differ by a factor of {MAX_ASPECT:g} at most",
            "crop it first",
        )


def _eight_bit(image: Image.Image, called: str) -> Image.Image:
    """Scale 16-bit grey, which Pillow's `convert` would cut off at 255; other modes stay as they are."""
    if image.mode == "F":
        raise PictureError(f"{called} holds floating-point numbers", "save it with 8 or 16 bits a channel")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    wide = image.convert("I")
    lowest, highest = wide.getextrema()
    if lowest < 0 or highest > 65535:  # type: ignore[operator]  # one band: a pair of numbers
        raise PictureError(f"{called} holds 32-bit numbers", "save it with 8 or 16 bits a channel")
    grey = wide.point(_EIGHT_BITS, "L")
    see_through = image.info.get("transparency")
    if not isinstance(see_through, int):
        return grey
    # PNG can name one grey value that is transparent; compared before scaling, where 257 values still differ.
    mask = wide.point([0 if value == see_through else 255 for value in range(65536)], "L")
    return Image.merge("LA", (grey, mask))


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; transparent parts blended with white exactly as the reference implementation does."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    see_through = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(see_through, mask=see_through.getchannel("A"))
    return white
