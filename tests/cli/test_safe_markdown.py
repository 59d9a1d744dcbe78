"""Exported Markdown runs and fetches nothing in four renderers, and shows the texts of users as they typed them."""

from collections.abc import Callable
from html.parser import HTMLParser

import cmarkgfm
import mistune
import pytest
from cmarkgfm.cmark import Options
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from sensenova_cli.render.safe_markdown import plain_markdown, safe_lines, safe_markdown

RENDERERS: dict[str, Callable[[str], str]] = {
    "CommonMark": lambda text: cmarkgfm.markdown_to_html(text, options=Options.CMARK_OPT_UNSAFE),
    "GFM": lambda text: cmarkgfm.github_flavored_markdown_to_html(text, options=Options.CMARK_OPT_UNSAFE),
    "markdown-it": MarkdownIt("gfm-like", {"html": True, "linkify": False}).render,
    "mistune": mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "task_lists", "footnotes"]),
}
HARMLESS = {"h1", "h2", "h3", "h4", "h5", "h6", "p", "strong", "em", "del", "br", "hr", "ul", "ol", "li", "blockquote"}
HARMLESS |= {"pre", "code", "details", "summary", "input", "table", "thead", "tbody", "tr", "th", "td"}

PIECES = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</pre>",
    "</code>",
    "<!--",
    "<![CDATA[",
    "<?php",
    "[a](javascript:alert(1))",
    "![a](http://evil/x.png)",
    "[a]: javascript:alert(1)\n",
    "[a]",
    "[^1]",
    "[^1]: <b>\n",
    "<javascript:alert(1)>",
    "&lt;",
    "&#60;",
    "&",
    "\\",
    "`",
    "``",
    "```",
    "```html\n",
    "~~~\n",
    "\n",
    "\n\n",
    "\t",
    "    ",
    "  ",
    "- ",
    "1. ",
    "> ",
    "# ",
    "---\n",
    "|a|b|\n|-|-|\n|",
    "**",
    "_",
    "$$",
    "{{",
    "x",
    "\u2028",
    "\x0b",
    "\x1b[2J",
]
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(max_size=40))


def quoted(answer: str) -> str:
    """An answer as an exported session shows it."""
    return "\n".join(f"> {line}" for line in safe_lines(answer))


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.harmful: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attributes}
        if tag == "a" and names == {"href"}:  # GFM makes links of bare web addresses; they fetch nothing by themselves
            (address,) = (value or "" for _, value in attributes)
            names = set() if address.startswith(("http://", "https://", "mailto:")) else names
        elif tag not in HARMLESS:
            names.add(tag)
        if names - {"align", "style", "type", "checked", "disabled", "start", "class", "lang"}:
            self.harmful.append(f"{tag} {attributes}")

    def handle_comment(self, data: str) -> None:
        self.harmful.append(f"comment {data}")

    def handle_decl(self, decl: str) -> None:
        self.harmful.append(f"declaration {decl}")

    def handle_pi(self, data: str) -> None:
        self.harmful.append(f"instruction {data}")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("renderer", RENDERERS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(answer=TEXTS, think=TEXTS)
@example(answer="\t<img src=x onerror=alert(1)>", think="")
@example(answer="- ```\n  <img src=x onerror=alert(1)>\n  ```", think="")
@example(answer="1. a\n\n       <script>alert(1)</script>", think="")
@example(answer="`a\n<img src=x onerror=alert(1)>`", think="<script>")
@example(answer="\\`<img src=x onerror=alert(1)>`", think="\\<script>")
def test_answers_and_think_texts_are_harmless(renderer: str, answer: str, think: str) -> None:
    document = "\n\n".join(
        (
            *("# s", "<details><summary>Think text</summary>", plain_markdown(think), "</details>"),
            *(quoted(answer), safe_markdown(answer), "end"),
        )
    )
    assert Tags(RENDERERS[renderer](document)).harmful == [], document


@pytest.mark.parametrize("renderer", RENDERERS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text("<>&[]()!\"'\\`*_~|$#+-=:.{}1 ab", min_size=1, max_size=30))
def test_a_prompt_is_shown_as_typed(renderer: str, text: str) -> None:
    shown = Tags(RENDERERS[renderer](f"a {plain_markdown(text)} b")).text
    assert "".join(shown.split()) == "".join(f"a{text}b".split())


@pytest.mark.parametrize("renderer", RENDERERS)
def test_code_and_headings_of_an_answer_stay(renderer: str) -> None:
    page = RENDERERS[renderer](quoted("# Title\n\nUse `a < b` here:\n\n```c\nif (a < b)\n    c[0] = 1;\n```\n"))
    tags = Tags(page)
    assert tags.harmful == []
    assert "<h1>" in page and "<pre" in page and "<code" in page
    assert "Use a < b here" in tags.text and "if (a < b)\n    c[0] = 1;" in tags.text
