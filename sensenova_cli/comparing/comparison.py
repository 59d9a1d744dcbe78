"""A comparison of two pictures: what differs in their records, and how alike their pixels are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from config.errors import SenseNovaError
from config.sizes import format_size
from model import read_picture
from sensenova_cli.comparing import likeness
from sensenova_cli.comparing.record_differences import differing_values
from sensenova_cli.inputs.pictures import read_content
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.system.streams import STDIN


@dataclass(frozen=True)
class ComparedPicture:
    """One picture of a comparison.

    Attributes:
        name: its name in messages and tables.
        image: RGB.
        content: the bytes of its file.
        record: how it was made; None if that is not known.
        problem: why its record cannot be read; empty if it can be read or does not exist.
    """

    name: str
    image: Image.Image
    content: bytes
    record: PictureRecord | None
    problem: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two pictures and their differences.

    Attributes:
        settings: name → both values, of the recorded values that differ; None if a picture has no record.
        notes: sentences about what could not be compared.
    """

    one: ComparedPicture
    other: ComparedPicture
    settings: dict[str, list[Any]] | None
    notes: tuple[str, ...]

    @property
    def same_file(self) -> bool:
        """Whether both files have the same bytes."""
        return self.one.content == self.other.content

    @property
    def same_size(self) -> bool:
        """Whether both pictures have the same width and height. Only then their pixels can be compared."""
        return self.one.image.size == self.other.image.size

    @cached_property
    def psnr(self) -> float | None:
        """Peak signal-to-noise ratio in dB; infinity for equal pixels; None for pictures of different sizes."""
        return likeness.psnr(self.one.image, self.other.image) if self.same_size else None

    @cached_property
    def ssim(self) -> float | None:
        """Structural similarity; None for pictures of different sizes, and for tiny ones."""
        return likeness.ssim(self.one.image, self.other.image) if self.same_size else None

    @cached_property
    def largest_difference(self) -> int | None:
        """The largest difference of a channel, from 0 to 255; None for pictures of different sizes."""
        return likeness.largest_difference(self.one.image, self.other.image) if self.same_size else None

    @property
    def same_pixels(self) -> bool:
        """Whether both pictures have the same pixels."""
        return self.largest_difference == 0

    @property
    def measures(self) -> str:
        """The likeness in one line, such as `PSNR 31.20 dB · SSIM 0.9312`."""
        if not self.same_size:
            return "not comparable by pixels: the sizes differ"
        if self.same_pixels:
            return "the pixels are the same"
        assert self.psnr is not None
        return f"PSNR {self.psnr:.2f} dB" + (f" · SSIM {self.ssim:.4f}" if self.ssim is not None else "")

    def as_json(self) -> dict[str, Any]:
        """Return the comparison for programs. An infinite PSNR is null, which JSON can express."""
        psnr = None if self.psnr is None or math.isinf(self.psnr) else round(self.psnr, 4)
        return {
            "pictures": [self.one.name, self.other.name],
            "sizes": [format_size(each.image.size) for each in (self.one, self.other)],
            "settings": self.settings,
            "same_file": self.same_file,
            "same_pixels": self.same_pixels,
            "psnr": psnr,
            "ssim": None if self.ssim is None else round(self.ssim, 6),
            "largest_difference": self.largest_difference,
        }


def read_compared(name: str) -> ComparedPicture:
    """Read a picture and its record; `-` stands for standard input. A record that cannot be read is a `problem`.

    Raises:
        PictureError: the file is missing, damaged or not a picture.
        UsageError: standard input is closed.
    """
    content = read_content(name)
    return compared("standard input" if name == STDIN else name, content)


def compared(name: str, content: bytes) -> ComparedPicture:
    """Read a picture and its record from the bytes of a file; errors as for `read_compared`."""
    image = read_picture(content, name)
    try:
        record, problem = read_record(content, name), ""
    except SenseNovaError as error:
        record, problem = None, error.what
    return ComparedPicture(name, image, content, record, problem)


def compare_pictures(one: ComparedPicture, other: ComparedPicture) -> Comparison:
    """Compare two pictures. Their pixels are measured when they are asked for."""
    notes = [each.problem for each in (one, other) if each.problem]
    unknown = [each.name for each in (one, other) if each.record is None and not each.problem]
    if unknown:
        has = "have no record" if len(unknown) == 2 else "has no record"
        notes.append(f"{' and '.join(unknown)} {has} of how {'they were' if len(unknown) == 2 else 'it was'} made")
    if one.image.size != other.image.size:
        sizes = " and ".join(format_size(each.image.size) for each in (one, other))
        notes.append(f"the sizes differ ({sizes}), so the pixels are not compared")
    elif min(one.image.size) < likeness.WINDOW:
        notes.append(f"SSIM needs at least {likeness.WINDOW} pixels in both directions")
    records: Sequence[PictureRecord] = [each.record for each in (one, other) if each.record is not None]
    settings = differing_values(records) if len(records) == 2 else None
    return Comparison(one, other, settings, tuple(notes))
