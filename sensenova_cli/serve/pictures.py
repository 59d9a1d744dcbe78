"""Pictures from clients: data URLs, uploads and form files, with limits; and the store of uploaded pictures."""

import asyncio
import base64
import binascii
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from config.errors import SenseNovaError
from model import open_picture, read_picture
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.outputs.picture_record import InputFile, checksum
from sensenova_cli.serve.errors import ApiError, bad_request

MAX_FILE_BYTES = 50_000_000
"""Maximum number of bytes of a picture file."""
MAX_FILES = 16
"""Maximum number of pictures of a request."""
MAX_INPUT_PIXELS = 64_000_000
"""Maximum number of pixels of all pictures of a request. Decoding takes up to seven bytes a pixel."""

_DECODERS = ThreadPoolExecutor(2, thread_name_prefix="pictures")
"""Threads that decode pictures. Their number limits the memory that is needed at once."""

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}


def media_type(content: bytes) -> str | None:
    """Return the media type of a PNG, JPEG, GIF or WebP file; None for other files."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _SIGNATURES.items() if content.startswith(start)), None)


def require_few(count: int, param: str) -> None:
    """Raise ApiError if a request has too many pictures."""
    if count > MAX_FILES:
        raise bad_request(f"{count} pictures are too many", f"send {MAX_FILES} at most", param=param)


def decode_data_url(url: object, param: str) -> bytes:
    """Return the file in a data URL, or in plain base64.

    Raises:
        ApiError: it is another URL, which the server never fetches, is not base64, or is too large.
    """
    if not isinstance(url, str) or not url:
        raise bad_request("a picture must be a data URL", 'write it like "data:image/png;base64,…"', param=param)
    head = url[:200].lower()
    if head.startswith("data:"):
        kind, comma, payload = url.partition(",")
        if not comma or not kind.lower().endswith(";base64"):
            raise bad_request("this data URL is not base64", 'write it like "data:image/png;base64,…"', param=param)
        url = payload
    elif ":" in head.partition("/")[0] or head.startswith(("/", ".")):
        raise bad_request(
            "the server fetches no addresses and reads no files for clients",
            "send the picture itself as a data URL",
            param=param,
            code="picture_url_refused",
        )
    if len(url) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise ApiError(413, f"a picture has more than {MAX_FILE_BYTES:,} bytes", "picture_too_large", param=param)
    try:
        return base64.b64decode(url.encode("ascii").translate(None, b" \t\r\n"), validate=True)
    except (binascii.Error, ValueError):
        raise bad_request(
            "this picture is not base64", 'write it like "data:image/png;base64,…"', param=param
        ) from None


async def read_uploads(files: Sequence[tuple[bytes, str]], param: str) -> tuple[InputImage, ...]:
    """Decode the picture files of a request on another thread.

    Args:
        files: files with their names for messages and records.
        param: field of the request, for errors.

    Raises:
        ApiError: there are too many, they are too large, or one of them is damaged or in another format than PNG, JPEG,
            WebP and GIF.
    """
    require_few(len(files), param)
    return await asyncio.get_running_loop().run_in_executor(_DECODERS, _decode_all, files, param)


def _decode_all(files: Sequence[tuple[bytes, str]], param: str) -> tuple[InputImage, ...]:
    images: list[InputImage] = []
    left = MAX_INPUT_PIXELS
    for content, name in files:
        images.append(_decode(content, name, param, left))
        left -= images[-1].image.width * images[-1].image.height
    return tuple(images)


def _decode(content: bytes, name: str, param: str, most_pixels: int) -> InputImage:
    if len(content) > MAX_FILE_BYTES:
        raise ApiError(413, f"{name} has more than {MAX_FILE_BYTES:,} bytes", "picture_too_large", param=param)
    if media_type(content) is None:
        raise bad_request(
            f"{name} is not a picture in a supported format",
            "send a PNG, JPEG, WebP or GIF file",
            param=param,
            code="not_a_picture",
        )
    try:
        with open_picture(content, name) as opened:
            pixels = opened.width * opened.height
        if pixels > most_pixels:
            raise bad_request(
                f"{name} has {pixels:,} pixels; the limit for all pictures of a request is {MAX_INPUT_PIXELS:,}",
                "make it smaller",
                param=param,
                code="picture_too_large",
            )
        image = read_picture(content, name)
    except SenseNovaError as error:
        raise bad_request(error.what, error.hint, param=param, code="not_a_picture") from None
    source = InputFile(path=name, sha256=checksum(content))
    try:
        record = read_record(content, name)
    except SenseNovaError:  # the picture is intact, and its seed does not matter much
        return InputImage(image, source, name)
    return InputImage(image, source, name, record.settings.seed if record else None)


class PictureStore:
    """Picture files by checksum, in bounded memory. The files that were used longest ago are removed first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._bytes

    def add(self, content: bytes) -> str:
        """Store a file and return its checksum. A file larger than the store is not stored."""
        name = checksum(content)
        if name in self._files:
            self._files.move_to_end(name)
        elif len(content) <= self._max_bytes:
            self._files[name] = content
            self._bytes += len(content)
            while self._bytes > self._max_bytes:
                _, removed = self._files.popitem(last=False)
                self._bytes -= len(removed)
        return name

    def get(self, name: str) -> bytes | None:
        """Return a file; None if it is unknown or was removed."""
        content = self._files.get(name)
        if content is not None:
            self._files.move_to_end(name)
        return content
