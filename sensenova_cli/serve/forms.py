"""Forms with pictures, as clients of the Images API send them for edits."""

import re
from contextlib import suppress
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from sensenova_cli.serve.errors import ApiError, bad_request
from sensenova_cli.serve.picture_fields import REFUSED, from_form, merge_nested
from sensenova_cli.serve.pictures import MAX_FILE_BYTES, MAX_FILES, decode_data_url, require_few
from sensenova_cli.serve.service import MAX_TEXT

PICTURE_NAMES = ("image", "image[]", "images", "images[]", "url", "url[]")
"""Fields with the pictures of an edit."""
MAX_FIELDS = 200


async def read_form(request: Request) -> tuple[dict[str, Any], list[tuple[bytes, str]]]:
    """Return the fields of a form, with the types that JSON would have, and its pictures as files with names.

    Raises:
        ApiError: the form is damaged, has a file in an unknown field, or gives a field twice.
    """
    try:
        form = await request.form(max_files=MAX_FILES + 1, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT * 4)
    except ApiError:
        raise
    except Exception as error:  # the parser's own errors, which describe the form
        if getattr(error, "status_code", 400) == 413:
            raise
        raise bad_request(f"the form cannot be read: {str(error)[:200] or type(error).__name__}") from None
    try:
        return await _read(form)
    finally:
        await form.close()


async def _read(form: FormData) -> tuple[dict[str, Any], list[tuple[bytes, str]]]:
    texts: dict[str, str] = {}
    files: list[tuple[bytes, str]] = []
    for name, value in form.multi_items():
        if name in PICTURE_NAMES:
            if isinstance(value, UploadFile):
                files.append((await value.read(MAX_FILE_BYTES + 1), _file_name(value.filename, len(files) + 1)))
            else:
                files.append((decode_data_url(value, name), f"picture {len(files) + 1}"))
        elif isinstance(value, UploadFile):
            if name not in REFUSED:
                raise bad_request(f'"{name[:50]}" takes no file', 'send pictures as "image"', param=name[:50])
            texts[name] = value.filename or name  # refused later, with the reason
        elif name.endswith("[]"):
            items = f"{texts[name[:-2]][:-1]}, {value}]" if name[:-2] in texts else f"[{value}]"
            texts[name[:-2]] = items
        elif name in texts:
            raise bad_request(f'"{name[:50]}" is given twice', "give it once", param=name[:50])
        else:
            texts[name] = value
    require_few(len(files), "image")
    return merge_nested(_unfold(texts)), files


def _unfold(texts: dict[str, str]) -> dict[str, Any]:
    """Return typed fields. OpenAI's clients write the object `{"extra_args": {"seed": 6}}` as `extra_args[seed]=6`."""
    plain: dict[str, str] = {}
    nested: dict[str, dict[str, str]] = {}
    for name, text in texts.items():
        parts = re.fullmatch(r"(\w+)\[(\w+)\]", name)
        if parts is None:
            plain[name] = text
        else:
            nested.setdefault(parts[1], {})[parts[2]] = text
    for name in nested.keys() & plain.keys():
        raise bad_request(f'"{name}" is given twice', "give it once", param=name)
    return from_form(plain) | {name: _typed(inner) for name, inner in nested.items()}


def _typed(inner: dict[str, str]) -> dict[str, Any]:
    """Return the typed fields of an object. `scale` and `strength` are not settings, but numbers of a LoRA."""
    typed = from_form(inner)
    for name in typed.keys() & {"scale", "strength"}:
        with suppress(ValueError):
            typed[name] = float(typed[name])
    return typed


def _file_name(name: str | None, number: int) -> str:
    """Return a client's file name without folders and control characters."""
    plain = "".join(c for c in (name or "").replace("\\", "/").rpartition("/")[2] if c.isprintable())[:100]
    return plain or f"picture {number}"
