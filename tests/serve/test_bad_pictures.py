"""Pictures that a server must not open, decode or believe: an error, flat memory, and the next request works."""

import builtins
import hashlib
import re
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import PngImagePlugin

from sensenova_cli.serve import pictures
from tests.serve.conftest import Served
from tests.serve.hostile import (  # noqa: F401
    CHAT,
    EDITS,
    RUN,
    WITH_PICTURES,
    data_url,
    edit,
    encoded,
    native,
    peak_memory,
    png,
    png_claiming,
    refused,
    survival,
)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "HTTPS://example.org/cat.png",
        "  http://127.0.0.1:1/",
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "ftp://example.org/cat.png",
        "gopher://127.0.0.1:1/",
        "//example.org/cat.png",
        "/etc/passwd",
        "./cat.png",
        "../../cat.png",
        "~/cat.png",
        "cat.png",
        "C:\\cat.png",
        "\\\\host\\share\\cat.png",
        "data:image/png,plain",
        "data:image/png;base64",
        "data:;base64,!!!!",
        "jar:file:x",
        "\ud800",
        "",
        7,
        None,
        {"url": {"url": 1}},
        ["x"],
    ],
)
def test_only_data_urls_are_pictures(served: Served, monkeypatch: pytest.MonkeyPatch, url: object) -> None:
    opened: list[object] = []
    for owner, name in ((builtins, "open"), (Path, "open"), (socket, "getaddrinfo"), (socket, "create_connection")):
        original = getattr(owner, name)

        def record(*arguments: Any, original: Any = original, **more: Any) -> Any:
            if isinstance(url, str) and url.strip() and url.strip() in str(arguments):
                opened.append(arguments)
            return original(*arguments, **more)

        monkeypatch.setattr(owner, name, record)
    for path, body in WITH_PICTURES:
        if url is None and path == "/sdapi/v1/img2img":
            continue
        refused(served, path, body(url))
    assert not opened


def test_files_that_are_not_pictures_in_a_supported_format(served: Served) -> None:
    damaged = png()[:60]
    late = png((300, 300))
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    files = {
        "tiff": encoded("TIFF"),
        "bmp": encoded("BMP"),
        "ico": encoded("ICO"),
        "ppm": encoded("PPM"),
        "tga": encoded("TGA"),
        "svg": svg,
        "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\0" * 50,
        "pdf": b"%PDF-1.7\n",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "html": b"<html><script>alert(1)</script>",
        "empty": b"",
        "only a signature": b"\x89PNG\r\n\x1a\n",
        "truncated header": damaged,
        "truncated data": late[: len(late) // 2],
        "truncated jpeg": encoded("JPEG", (300, 300))[:300],
        "truncated gif": encoded("GIF", (300, 300))[:30],
        "truncated webp": encoded("WEBP", (300, 300))[:40],
        "gif that is a script": b"GIF89a/*" + b"*/=1;alert(1)//" * 9,
        "riff of another kind": b"RIFF\0\0\0\0WAVE" + b"\0" * 50,
        "tga behind a jpeg signature": b"\xff\xd8\xff" + encoded("TGA")[3:],
        "no pixels": png_claiming(0, 5),
        "a line": png((2000, 1)),
    }
    for name, file in files.items():
        for path, body in WITH_PICTURES:
            error = refused(served, path, body(data_url(file)))
            assert error["code"] in ("not_a_picture", "invalid_request"), (name, path, error)
            assert not re.search("0x[0-9a-f]{6}", error["message"]), "an address in memory"


def test_a_polyglot_is_only_the_picture_that_its_start_says(served: Served) -> None:
    file = png() + b"PK\x03\x04<html><script>alert(1)</script>" + encoded("JPEG", color=(200, 0, 0))
    for path, body in WITH_PICTURES:
        assert served.client().post(path, json=body(data_url(file, "text/html"))).status_code == 200
        assert served.engine.requests[-1].images[0].getpixel((0, 0)) == (1, 2, 3)  # type: ignore[union-attr]


def test_pictures_with_too_many_pixels_are_not_decoded(served: Served) -> None:
    bombs = [
        png_claiming(30_000, 30_000),
        png_claiming(2**31 - 1, 2**31 - 1),
        png_claiming(9000, 9000),
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0" + encoded("GIF")[13:],
    ]
    before = peak_memory()
    for bomb in bombs:
        for path, body in WITH_PICTURES:
            assert refused(served, path, body(data_url(bomb)))["code"] in ("not_a_picture", "picture_too_large")
    assert peak_memory() - before < 100_000_000


def test_compressed_text_in_a_picture_is_not_unpacked_without_limit(served: Served) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("sensenova", "[" * 60_000_000, zip=True)
    before = peak_memory()
    for path, body in WITH_PICTURES:  # the pixels are intact, and the text is left out
        assert served.client().post(path, json=body(data_url(png(pnginfo=info)))).status_code == 200
    assert peak_memory() - before < 150_000_000


def test_a_damaged_record_in_a_picture_does_not_matter(served: Served) -> None:
    for text in ("[" * 10_000, "{}", '{"format": 1}', "null", "\x00", '{"format": 1e400}', "1" * 5000):
        info = PngImagePlugin.PngInfo()
        info.add_text("sensenova", text)
        answer = served.client().post(EDITS, json=edit(data_url(png(pnginfo=info))))
        assert answer.status_code == 200


def test_the_pixels_of_all_pictures_are_limited_together(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_INPUT_PIXELS", 3 * 64 * 64)
    for path, body in WITH_PICTURES:
        assert served.client().post(path, json=body(*[data_url(png())] * 3)).status_code == 200
        assert refused(served, path, body(*[data_url(png())] * 4))["code"] == "picture_too_large"
    turns = [{"role": role, "content": "x", "images": [data_url(png())] * 2} for role in ("user", "assistant", "user")]
    assert refused(served, CHAT, {"messages": turns})["code"] == "picture_too_large"


def test_the_number_and_the_bytes_of_pictures_are_limited(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, body in WITH_PICTURES:
        assert served.client().post(path, json=body(*[data_url(png())] * 16)).status_code == 200
        assert "too many" in refused(served, path, body(*[data_url(png())] * 17))["message"]
    files = [("image[]", (f"{n}.png", png())) for n in range(17)]
    assert served.client().post(EDITS, data={"prompt": "red"}, files=files).status_code == 400
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 100)
    for path, body in WITH_PICTURES:
        assert refused(served, path, body(data_url(png((300, 300)))))["code"] == "picture_too_large"


def test_a_stored_file_is_served_as_the_picture_that_it_claims_to_be(served: Served) -> None:
    file = b"GIF89a<html><script>alert(1)</script>"
    name = hashlib.sha256(file).hexdigest()
    assert served.client().put(f"/v1/sensenova/pictures/{name}", content=file).status_code == 201
    answer = served.client().get(f"/v1/sensenova/pictures/{name}")
    assert (answer.headers["content-type"], answer.headers["x-content-type-options"]) == ("image/gif", "nosniff")
    html = b"<html>"
    answer = served.client().put(f"/v1/sensenova/pictures/{hashlib.sha256(html).hexdigest()}", content=html)
    assert answer.status_code == 400
    refused(served, RUN, native({"sha256": name}))
