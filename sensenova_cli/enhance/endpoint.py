"""The chat of an OpenAI-compatible endpoint, which can rewrite prompts instead of the model that draws."""

import json
import os
import re
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from config.errors import SenseNovaError
from model import Address, Connection, RequestError, is_usable_key
from sensenova_cli.enhance.instructions import HEADINGS, instruction
from sensenova_cli.enhance.reply import clean_reply
from sensenova_cli.errors import EnhanceError
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.system.unicode import printable

KEY_VARIABLE = "SENSENOVA_ENHANCE_KEY"
CHAT, MODELS = "/chat/completions", "/models"
SILENCE_SECONDS = 120.0
"""Longest time without a byte of the answer. The endpoint may have to load its model."""
MOST_SECONDS = 300.0
"""Longest time for a whole answer."""
MAX_ANSWER = 2**20
"""Most bytes of an answer."""
MAX_SHOWN = 500
"""Most characters of an error that the endpoint wrote."""
MOST_LISTED = 10
"""Number of the endpoint's models that a message lists."""

Check = Callable[[], None]
"""Raises KeyboardInterrupt if the user wants to stop."""


def ask_endpoint(url: str, model: str | None, kind: PictureKind, prompt: str, check: Check) -> tuple[str, str]:
    """Return the rewritten prompt, and the name of the model that wrote it.

    The endpoint gets the instruction and the prompt, and no pictures. Its key comes from the environment. Redirects are
    not followed, because they would send the key elsewhere.

    Args:
        model: the endpoint's name of the model; None for its only one.
        check: called ten times a second.

    Raises:
        EnhanceError: the endpoint cannot be used, or its answer contains no prompt.
        KeyboardInterrupt: from `check`.
    """
    try:
        connection = Connection(Address(_base(url), _key()))
        try:
            name = model or _only_model(connection, check)
            messages = [
                {"role": "system", "content": instruction(kind)},
                {"role": "user", "content": f"{HEADINGS[kind]}: {prompt}"},
            ]
            answer = _post(connection, {"model": name, "messages": messages, "stream": False}, check)
        finally:
            connection.close()
        text, is_cut = _text(answer)
        return clean_reply(text, prompt, is_cut=is_cut), shown_name(name)
    except SenseNovaError as error:
        what = printable(error.what)[:MAX_SHOWN]
        where = "" if _base(url) in what else f"{_base(url)}: "
        raise EnhanceError(f"the prompt was not rewritten: {where}{what}", _hint(error)) from None


def shown_name(model: str) -> str:
    """Return a model's name for records and messages."""
    return printable(model).replace("\n", " ")[:100]


def _base(url: str) -> str:
    """Return the address before `/chat/completions`. A host alone gets the usual `/v1`."""
    base = url.rstrip("/").removesuffix(CHAT)
    return base if re.fullmatch(r"https?://[^/]+/.+", base) else f"{base}/v1"


def _key() -> str | None:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key and not is_usable_key(key):
        raise RequestError(f"{KEY_VARIABLE} contains no usable key", "a key is one word of letters and digits")
    return key or None


def _only_model(connection: Connection, check: Check) -> str:
    asked = connection.ask_json(MODELS)
    while True:
        check()
        try:
            next(asked)
        except StopIteration as end:
            listed = end.value
            break
    entries = listed.get("data") if isinstance(listed, dict) else None
    entries = entries if isinstance(entries, list) else []
    names = [each["id"] for each in entries if isinstance(each, dict) and isinstance(each.get("id"), str)]
    if len(names) == 1:
        return str(names[0])
    known = ", ".join(map(shown_name, names[:MOST_LISTED])) + (", …" if len(names) > MOST_LISTED else "")
    raise RequestError(
        f"it has several models: {known}" if names else "it does not list its models",
        "name the one to ask: `enhance_model`",
    )


def _post(connection: Connection, body: dict[str, Any], check: Check) -> Any:
    """Send the request, and return the JSON of its answer."""
    received = bytearray()
    end = time.monotonic() + MOST_SECONDS
    with closing(connection.post_in_background(CHAT, body, SILENCE_SECONDS)) as answer:
        for part in answer.parts():
            check()
            received += part or b""
            if len(received) > MAX_ANSWER:
                raise EnhanceError(f"the answer has more than {MAX_ANSWER:,} bytes")
            if time.monotonic() > end:
                raise EnhanceError(f"the answer takes longer than {MOST_SECONDS:.0f} seconds")
    try:
        return json.loads(received)
    except (ValueError, RecursionError):
        raise EnhanceError("the answer is not JSON") from None


def _text(answer: Any) -> tuple[str, bool]:
    """Return the text of an answer, and whether its length was limited."""
    try:
        choice = answer["choices"][0]
        content = choice["message"]["content"]
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        if not isinstance(content, str):
            raise TypeError
        return content, choice.get("finish_reason") == "length"
    except (KeyError, IndexError, TypeError, AttributeError):
        raise EnhanceError("the answer is not one of a chat") from None


def _hint(error: SenseNovaError) -> str:
    """Return the way out for an error. Those of our own servers name settings that an endpoint does not have."""
    without = "draw your own words: `enhance=false`"
    if "`server" in error.hint or "SERVER_KEY" in error.hint:
        return f"set {KEY_VARIABLE} to its key, or {without}"
    return f"{error.hint}, or {without}" if error.hint else without
