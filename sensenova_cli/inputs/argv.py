"""Rewriting of the command line before it is parsed: one flag may have several values.

    edit --image a.png b.png --prompt "swap them"    becomes    edit --image a.png --image b.png --prompt …

The values end at the next word that starts with a dash; `-` alone means standard input and is a value. If the command
also takes its prompt as a bare word, a word after the first value is another picture only if it is `-`, an existing
file, or one word with a picture's ending. So `edit --image a.png "make it red"` edits one picture.

An option without its values is refused here, because the parser would take the next option as its value.
`--cfg-interval 0.1,0.6`, as in the environment variable, means `--cfg-interval 0.1 0.6`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sensenova_cli.errors import UsageError
from sensenova_cli.system.streams import CLIPBOARD

PICTURE_ENDINGS = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".ppm", ".tga", ".jp2")
)

SEVERAL_FILES = ("--image", "--files")
"""Options that several values may follow."""

WITHOUT_BARE_PROMPT = frozenset(("describe", "run"))
"""Commands that take no prompt as a bare word: after `--image` every word is a picture."""


def spread_values(words: Sequence[str]) -> list[str]:
    """Repeat `--image` and `--files` before each of their values; everything else stays as it is.

    Raises:
        UsageError: `--image`, `--files` or `--cfg-interval` lacks its values.
    """
    if wants_help(words):
        return list(words)  # help is shown even if the other options are incomplete
    command = next((word for word in words if not word.startswith("-")), "")
    return list(_spread(words, all_pictures=command in WITHOUT_BARE_PROMPT))


def before_dashes(words: Sequence[str]) -> Sequence[str]:
    """Return the words that can be options: those before a bare `--`."""
    return words[: words.index("--")] if "--" in words else words


def wants_help(words: Sequence[str]) -> bool:
    """Return whether a command line asks for help."""
    return not {"-h", "--help", "--help-all"}.isdisjoint(before_dashes(words))


def words_of_help(words: Sequence[str]) -> list[str]:
    """Return `COMMAND --help` for `help COMMAND`, as other programs have it, and `--man` for `man`; all other words
    stay as they are."""
    if list(words) == ["man"]:
        return ["--man"]
    return [*words[1:], "--help"] if words[:1] == ["help"] else list(words)


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
            yield from _pop_two_numbers(rest)
        if word not in SEVERAL_FILES:
            continue
        if not rest or not _is_value(rest[0]):
            raise UsageError(f"{word} needs a file", f"for example: {word} cat.png")
        yield rest.pop(0)
        while rest and _is_value(rest[0]) and (all_pictures or word == "--files" or is_picture(rest[0])):
            yield from (word, rest.pop(0))


def _pop_two_numbers(rest: list[str]) -> list[str]:
    """Remove the two values of an interval from the words that follow it, and return them."""
    if rest and "," in rest[0]:
        rest[:1] = filter(None, rest[0].split(","))
    numbers = rest[:2]
    del rest[:2]
    if len(numbers) < 2 or not all(map(_is_number, numbers)):
        found = f", not {' '.join(numbers)}" if numbers else ""
        raise UsageError(f"--cfg-interval takes two numbers{found}", "for example: --cfg-interval 0.1 0.6")
    return numbers


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_value(word: str) -> bool:
    return word == "-" or not word.startswith("-")


def is_picture(word: str) -> bool:
    """Return whether a bare word means a picture: `-`, `clipboard`, an existing file, or one word with a picture's
    ending."""
    if word in ("-", CLIPBOARD):
        return True
    try:
        if Path(word).expanduser().is_file():
            return True
    except (OSError, ValueError, RuntimeError):  # a long prompt is too long for a file name; ~nobody has no home
        return False
    return Path(word).suffix.lower() in PICTURE_ENDINGS and not _has_space(word)


def split_pictures(words: Sequence[str], *, has_picture: bool, has_prompt: bool) -> tuple[list[str], str | None]:
    """Split the bare words of an edit into its pictures and its prompt, which is None if no word is the prompt.

    A word is a picture if `is_picture` says so, and the remaining word is the prompt. A prompt that is also the name of
    a file, such as `red`, goes last: the last word is the prompt if all words are pictures and it has no picture's
    ending. A prompt such as `cat.png` needs -p.

    Args:
        has_picture: an option names a picture.
        has_prompt: an option has the prompt. Then a word is the prompt, too, only if it cannot be a file's name.

    Raises:
        UsageError: several words could be the prompt.
    """
    prompts = [word for word in words if not is_picture(word)]
    if has_prompt:
        prompts = [word for word in prompts if _has_space(word)]
    elif not prompts and (has_picture or len(words) > 1) and _ending(words[-1:]) not in PICTURE_ENDINGS:
        return list(words[:-1]), words[-1] if words else None
    if len(prompts) > 1:
        raise UsageError(
            f"several words could be the prompt: {', '.join(prompts)}",
            'put the prompt in quotes, and name existing files: sensenova edit FILE "…"',
        )
    return [word for word in words if word not in prompts], prompts[0] if prompts else None


def _ending(words: Sequence[str]) -> str:
    return Path(words[0]).suffix.lower() if words else ""


def _has_space(word: str) -> bool:
    return any(map(str.isspace, word))
