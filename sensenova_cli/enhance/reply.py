"""The reply of a model that has rewritten a prompt. It is a stranger's text."""

import re

from sensenova_cli.errors import EnhanceError
from sensenova_cli.system.unicode import printable

PLACEHOLDER = "<image>"
MODEL_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>")
MAX_LENGTH = 6000
"""Most characters of a prompt that a model has rewritten. The instructions ask for about 1500."""
_LABEL = re.compile(
    r"(?:\*\*)?(?:new |rewritten |enhanced |final )?(?:prompt|instruction)(?:\*\*)?\s*[:：](?:\*\*)?\s*", re.I
)
_FENCE = re.compile(r"```\w*\n(.*?)\n?```", re.DOTALL)
_QUOTES = {'"': '"', "'": "'", "“": "”", "「": "」", "«": "»"}
SENTENCE_END = re.compile(r'[.!?。！？]["”)]?(?=\s|$)|[。！？]')


def clean_reply(reply: str, prompt: str, *, is_cut: bool = False) -> str:
    """Return the prompt in a reply: without think text, wrapping and characters that would control a terminal.

    Args:
        prompt: the user's prompt.
        is_cut: whether the reply has reached its longest length. Its last, incomplete sentence is dropped.

    Raises:
        EnhanceError: nothing is left, it is too long, or it has other places for pictures than the user's prompt.
    """
    text = reply.rpartition("</think>")[2]
    if "<think>" in text:
        text = ""  # the model was still thinking when it was cut off
    text = printable(text.replace("\r\n", "\n").encode("utf-8", "ignore").decode("utf-8")).replace("\t", " ")
    for token in MODEL_TOKENS:
        text = text.replace(token, " ")
    if PLACEHOLDER not in prompt:
        text = text.replace(PLACEHOLDER, " ")
    text = _unwrapped(text.strip())
    if is_cut:
        text = _whole_sentences(text)
    text = re.sub(r" *\n(?:[ ]*\n)+", "\n\n", re.sub(r" {2,}", " ", text)).strip()
    if not any(letter.isalnum() for letter in text):
        raise EnhanceError("the reply contains no prompt")
    if len(text) > MAX_LENGTH:
        raise EnhanceError(f"the reply has {len(text):,} characters; a prompt may have {MAX_LENGTH:,}")
    if text.count(PLACEHOLDER) != prompt.count(PLACEHOLDER):
        raise EnhanceError(f"the reply does not keep the places of pictures ({PLACEHOLDER})")
    return text


def _unwrapped(text: str) -> str:
    """Remove what models write around a prompt in spite of the instruction: a code block, a label, quotation marks."""
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1].strip()
    if label := _LABEL.match(text):
        text = text[label.end() :]
    if len(text) > 2 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        text = text[1:-1]
    return text


def _whole_sentences(text: str) -> str:
    """Return a text up to the end of its last sentence; the whole text if it has none."""
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text
