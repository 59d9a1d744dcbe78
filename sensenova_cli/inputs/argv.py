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
    if wants_help(words):
        return list(words)  # however unfinished the rest is
    command = next((word for word in words if not word.startswith("-")), "")
    return list(_spread(words, all_pictures=command in WITHOUT_BARE_PROMPT))


def before_dashes(words: Sequence[str]) -> Sequence[str]:
    """The words that may be options: those before a bare `--`."""
    return words[: words.index("--")] if "--" in words else words


def wants_help(words: Sequence[str]) -> bool:
    """Whether a command line asks for help."""
    return not {"-h", "--help"}.isdisjoint(before_dashes(words))


def _spread(words: Sequence[str], all_pictures: bool) -> Iterator[str]:
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--cfg-interval="):
            rest.insert(0, word.removeprefix("--cfg-interval="))
            word = "--cfg-interval"
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
        while rest and _is_value(rest[0]) and (all_pictures or is_picture(rest[0])):
            yield from ("--image", rest.pop(0))


def _two_numbers(rest: list[str]) -> list[str]:
    """Take the two values of an interval from the words that follow it."""
    if rest and "," in rest[0]:
        rest[:1] = filter(None, rest[0].split(","))
    taken = rest[:2]
    del rest[:2]
    if len(taken) < 2 or not all(map(_is_number, taken)):
        found = f", not {' '.join(taken)}" if taken else ""
        raise UsageError(f"--cfg-interval takes two numbers{found}", "for example: --cfg-interval 0.1 0.6")
    return taken


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_value(word: str) -> bool:
    return word == "-" or not word.startswith("-")


def is_picture(word: str) -> bool:
    """Whether a bare word means a picture: `-`, an existing file, or one word with a picture's ending."""
    if word == "-":
        return True
    try:
        if Path(word).expanduser().is_file():
            return True
    except (OSError, ValueError, RuntimeError):  # a long prompt is no possible file name; ~nobody has no home
        return False
    return Path(word).suffix.lower() in PICTURE_ENDINGS and not any(letter.isspace() for letter in word)
