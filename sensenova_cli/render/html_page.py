"""HTML pages that contain everything they show. Strangers may have written their texts, so a page runs nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensenova_cli.render.safe_markdown import answer_html
from sensenova_cli.system.unicode import printable, valid_unicode

TEMPLATES = Path(__file__).with_name("pages")


def html_page(template: str, **values: Any) -> Iterator[bytes]:
    """Yield a page in pieces, so that only one picture at a time is in memory.

    Args:
        template: the name of a file in `pages`.
        values: by the names that the template uses; `name` is the page's title.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=_clean,
    )
    environment.filters["markdown"] = answer_html
    for piece in environment.get_template(template).generate(**values):
        yield piece.encode()


def _clean(value: Any) -> Any:
    """Remove control characters and lone surrogates from text that is not markup already."""
    return valid_unicode(printable(value)) if isinstance(value, str) and not hasattr(value, "__html__") else value
