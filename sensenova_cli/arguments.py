"""Words as typed, before the parser sees them: options that take several values after one flag.

    edit --image a.png b.png --prompt "swap them"    becomes    edit --image a.png --image b.png --prompt …

The values end at the next word that starts with a dash (`-` alone means standard input and is a value). Where the
command takes a prompt as a bare word too, a word after the first value is one more picture only if it is `-`, an
existing file, or one word with a picture's ending; so `edit --image a.png "make it red"` reads as people mean it.

An option that lacks its values would take the options behind it for them; that is refused here, where it can be seen.
`--cfg-interval 0.1,0.6`, as the environment variable is written, is `--cfg-interval 0.1 0.6`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sensenova_cli.errors import UsageError

PICTURE_ENDINGS = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".ppm", ".tga", ".jp2")
)

WITHOUT_BARE_PROMPT = frozenset(("describe", "run"))
"""Commands whose bare words are pictures, or that take none: every word after `--image` is a picture."""


def spread_values(words: Sequence[str]) -> list[str]:
    """Repeat `--image` before each of its values; everything else stays as it is.

    Raises:
        UsageError: `--image` or `--cfg-interval` lacks its values.
    """
    command = next((word for word in words if not word.startswith("-")), "")
    return list(_spread(words, all_pictures=command in WITHOUT_BARE_PROMPT))


def _spread(words: Sequence[str], all_pictures: bool) -> Iterator[str]:
    rest = list(words)
    while rest:
        word = rest.pop(0)
        yield word
        if word == "--":
            yield from rest
            return
        if word == "--cfg-interval":
            yield from _two_numbers(rest)
        if word != "--image":
            continue
        if not rest or not _is_value(rest[0]):
            raise UsageError("--image names no file", "for example: --image cat.png")
        yield rest.pop(0)
        while rest and _is_value(rest[0]) and (all_pictures or _is_picture(rest[0])):
            yield from ("--image", rest.pop(0))


def _two_numbers(rest: list[str]) -> list[str]:
    """Take the two values of an interval from the words that follow it."""
    if rest and "," in rest[0]:
        rest[:1] = rest[0].split(",", 1)
    if len(rest) < 2 or not all(map(_is_number_or_word, rest[:2])):
        raise UsageError("--cfg-interval takes two numbers", "for example: --cfg-interval 0.1 0.6")
    taken = rest[:2]
    del rest[:2]
    return taken


def _is_number_or_word(word: str) -> bool:
    return not word.startswith("-") or word[1:2].isdigit() or word[1:2] == "."


def _is_value(word: str) -> bool:
    return word == "-" or not word.startswith("-")


def _is_picture(word: str) -> bool:
    path = Path(word)
    if word == "-":
        return True
    try:
        if path.is_file():
            return True
    except (OSError, ValueError):  # a long prompt is no possible file name
        return False
    return path.suffix.lower() in PICTURE_ENDINGS and not any(letter.isspace() for letter in word)
