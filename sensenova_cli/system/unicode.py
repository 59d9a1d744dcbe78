"""Text with file names that are not UTF-8. Python represents their undecodable bytes as lone surrogates."""

import json
from typing import Any


def valid_unicode(text: str) -> str:
    """Return the text with lone surrogates escaped, as in `caf\\udce9.png`, so that it can be encoded."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def json_text(value: Any) -> str:
    """Return JSON in plain UTF-8. A reader gets every file name back, even if its bytes are not UTF-8."""
    # Surrogates occur only inside JSON strings, where the escape has the same meaning.
    return valid_unicode(json.dumps(value, ensure_ascii=False))
