"""`<image>` placeholders in a user's text. The model's own image tokens are refused."""

from collections.abc import Sequence

from model.errors import RequestError

PLACEHOLDER = "<image>"

IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>")
"""The model's own tokens for an image."""


def require_placeholders(texts: Sequence[str], images: int) -> None:
    """Check the placeholders in a user's texts.

    Args:
        texts: the user's turns, oldest first.
        images: number of images for them.

    Raises:
        RequestError: there are more placeholders than images, or a text contains one of `IMAGE_TOKENS`.
    """
    written = sum(text.count(PLACEHOLDER) for text in texts)
    if written > images:
        raise RequestError(
            f"the prompt has {written} {PLACEHOLDER} placeholders for {images} picture(s)",
            f"add pictures, or remove {PLACEHOLDER} from the prompt",
        )
    for text in texts:
        refuse_image_tokens(text, "prompt")


def refuse_image_tokens(text: str, name: str) -> None:
    """Raise RequestError if a text contains one of `IMAGE_TOKENS`; `name` is the text's name in the message."""
    for token in IMAGE_TOKENS:
        if token in text:
            raise RequestError(
                f"the {name} contains {token}, which is one of the model's own tokens for a picture",
                f"write {PLACEHOLDER} in place of a picture, or remove {token}",
            )
