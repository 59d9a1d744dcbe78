"""PNG files beside a JSON value, and the type of image fields in requests and events."""

import io
from collections.abc import Sequence
from typing import Annotated, Any

from PIL import Image
from pydantic import GetCoreSchemaHandler, SerializationInfo, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from model.errors import PictureError
from model.image_files import as_rgb, read_picture
from model.png_chunks import PNG_SIGNATURE


class PNGFiles:
    """The PNG files beside one JSON value. Pydantic gets them as context when it writes and when it reads.

    Attributes:
        files: encoded images; those from `add` are RGB without metadata.
    """

    def __init__(self, files: Sequence[bytes] = ()) -> None:
        self.files = list(files)
        self._images: dict[int, Image.Image] = {}

    def add(self, image: Image.Image) -> int:
        """Encode an image as RGB without metadata, and return its index.

        Raises:
            PictureError: as for `model.image_files.as_rgb`.
        """
        plain = as_rgb(image)
        plain.info.clear()  # Pillow would write some metadata, such as a colour profile
        file = io.BytesIO()
        plain.save(file, "PNG", compress_level=1)  # level 6 takes four times as long and saves a seventh of the bytes
        self.files.append(file.getvalue())
        return len(self.files) - 1

    def image(self, index: int) -> Image.Image:
        """Decode a file. Further calls with its index return the same image.

        Raises:
            ValueError: there is no file with this index, or `model.image_files.read_picture` cannot read it as PNG.
        """
        if index not in self._images:
            if not 0 <= index < len(self.files):
                raise ValueError(f"there is no picture {index}: the number of pictures is {len(self.files)}")
            if not self.files[index].startswith(PNG_SIGNATURE):
                raise ValueError(f"picture {index} is not a PNG file")
            try:
                image = read_picture(self.files[index], f"picture {index}")
            except PictureError as error:
                raise ValueError(error.what) from error
            image.info.clear()
            self._images[index] = image
        return self._images[index]


class _AsPNG:
    """Pydantic annotation that writes an image as `{"png": 0}`, its index in the context's `PNGFiles`, and reads it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _read, serialization=core_schema.plain_serializer_function_ser_schema(_write, info_arg=True)
        )


PNGImage = Annotated[Image.Image, _AsPNG()]
"""An image, which `model.wire` writes as a PNG file beside the JSON."""


def _read(value: Any, info: ValidationInfo[PNGFiles]) -> Image.Image:
    index = value.get("png") if isinstance(value, dict) else None
    if type(index) is not int:
        raise ValueError('must name a picture like {"png": 0}')
    return info.context.image(index)


def _write(image: Image.Image, info: SerializationInfo[PNGFiles]) -> dict[str, int]:
    return {"png": info.context.add(image)}
