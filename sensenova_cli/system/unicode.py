"""Text that holds bytes of a file name, which may be no UTF-8: Python carries those bytes as lone surrogates."""

import json
from typing import Any


def valid_unicode(text: str) -> str:
    """The text with lone surrogates spelled out, as in `caf\\udce9.png`, so that any encoding of Unicode takes it."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def json_text(value: Any) -> str:
    """JSON in plain UTF-8; reading it gives back every file name as it was, whatever its bytes."""
    # Where the surrogates stand, inside of JSON strings, the spelling is JSON's own.
    return valid_unicode(json.dumps(value, ensure_ascii=False))
