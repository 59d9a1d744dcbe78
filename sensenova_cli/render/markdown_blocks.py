"""Blocks of Markdown, such as paragraphs and lists, found while a model still writes."""

from itertools import pairwise

from sensenova_cli.render.safe_markdown import markdown_parser

BLOCKS = markdown_parser().disable("inline")
"""Finds the blocks that are shown, without parsing the text inside them."""


def split_blocks(text: str) -> tuple[list[str], str]:
    """Split Markdown into finished blocks, which later text cannot change, and the rest.

    A block is finished when a complete line below it begins another block. An incomplete line is not enough: `2` below
    a list may become `2.`, which continues the list. The blocks and the rest, joined, are the text.
    """
    *complete, partial = text.split("\n")
    lines = [line + "\n" for line in complete]
    starts = [token.map[0] for token in BLOCKS.parse("".join(lines)) if token.level == 0 and token.map]
    # Text between two blocks, such as an empty line, belongs to the upper block.
    cuts = [0, *starts[1:]]
    blocks = ["".join(lines[begin:end]) for begin, end in pairwise(cuts)]
    return blocks, "".join(lines[cuts[-1] :]) + partial
