"""`<image>` placeholders mark pictures in a user's text. The model's own picture tokens are refused."""

from collections.abc import Sequence

from model.errors import RequestError

PLACEHOLDER = "<image>"

IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>")
"""The model's own words for a picture."""


def require_placeholders(texts: Sequence[str], pictures: int) -> None:
    """Check the placeholders of a user's texts.

    Args:
        texts: the user's turns, oldest first.
        pictures: how many pictures there are for them.

    Raises:
        RequestError: more placeholders than pictures, or one of `IMAGE_TOKENS` as plain text.
    """
    written = sum(text.count(PLACEHOLDER) for text in texts)
    if written > pictures:
        raise RequestError(
            f"the prompt has {written} {PLACEHOLDER} placeholders for {pictures} picture(s)",
            f"add pictures, or remove {PLACEHOLDER} from the prompt",
        )
    for text in texts:
        refuse_image_tokens(text, "prompt")


def refuse_image_tokens(text: str, name: str) -> None:
    """Raise RequestError if a text holds one of the model's own words for a picture; `name` is what it is called."""
    for token in IMAGE_TOKENS:
        if token in text:
            raise RequestError(
                f"the {name} contains {token}, which stands for a picture in the model's own language",
                f"write {PLACEHOLDER} where a picture belongs, or leave it out",
            )
