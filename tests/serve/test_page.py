"""The page of `sensenova serve`, read as text: what the strict Content-Security-Policy and a small file require.

`benchmarks/serve_clients/page.py` uses the page in a browser.
"""

import re
from html.parser import HTMLParser

import pytest

from config.settings import ImageSettings
from tests.cli.harness import REPOSITORY

PAGE = REPOSITORY / "sensenova_cli" / "serve" / "page.html"
LARGEST = 30_000


class Elements(HTMLParser):
    """Collects every start tag with its attributes, and the text inside `style` and `script`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and (tag := self.tags[-1][0]) in ("style", "script"):
            self.inline[tag] = self.inline.get(tag, "") + data

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.tags if "id" in attributes]


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Elements:
    return Elements(text)


def test_the_page_is_small(text: str) -> None:
    assert 10_000 < len(text.encode()) <= LARGEST


def test_the_page_has_one_style_and_one_script_which_the_policy_can_name_by_hash(text: str, page: Elements) -> None:
    for tag in ("style", "script"):
        found = [attributes for name, attributes in page.tags if name == tag]
        assert found == [{}], f"{tag} with attributes, or more than one"
        # The server hashes the text between the tags, so a second closing tag would change what the browser hashes.
        assert len(re.findall(rf"</?{tag}\b", text, re.IGNORECASE)) == 2


def test_no_element_has_an_inline_handler_or_style(page: Elements) -> None:
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            assert name != "style", f"{tag} has a style"
            assert not (value or "").lower().strip().startswith("javascript:"), f"{tag} runs a script by its address"


def test_nothing_comes_from_elsewhere(text: str, page: Elements) -> None:
    assert not re.search(r"(https?|wss?|ftp):|@import|url\(|import\s*\(|importScripts|[\"'`(=]//\w", text)
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "video", "audio")
        assert "src" not in attributes and "srcset" not in attributes and "action" not in attributes
        assert attributes.get("href") in (None, "data:,")


def test_requests_are_relative_so_that_a_proxy_may_serve_the_page_under_a_path(page: Elements) -> None:
    paths = re.findall(r"\b(?:fetch|call|send)\(\s*[\"'`]([^\"'`]*)", page.inline["script"])
    assert {"health", "v1/sensenova/info", "v1/sensenova/run"} <= set(paths)
    assert not [path for path in paths if path.startswith("/")]


@pytest.mark.parametrize(
    "unsafe",
    [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "srcdoc",
        "DOMParser",
        "createContextualFragment",
        "setAttribute(",
        "localStorage",
        "document.cookie",
    ],
)
def test_no_text_becomes_markup_or_code_and_nothing_outlives_the_visit(text: str, unsafe: str) -> None:
    assert unsafe not in text


def test_the_script_uses_only_elements_that_exist(page: Elements) -> None:
    used = set(re.findall(r'\$\("([^"]+)"\)', page.inline["script"]))
    assert len(used) > 20
    assert used <= set(page.ids())


def test_ids_are_unique_and_labels_point_to_them(page: Elements) -> None:
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        for name in ("for", "list", "aria-labelledby"):
            assert name not in attributes or attributes[name] in ids, f"{tag} {name}={attributes[name]}"


def test_every_field_has_a_label(text: str) -> None:
    """Fields are inside their labels, or have a label for screen readers."""
    outside = re.sub(r"<label\b.*?</label>", "", text, flags=re.DOTALL)
    fields = re.findall(r"<(?:input|textarea|select|progress)\b[^>]*>", outside)
    assert all("aria-label=" in field for field in fields), fields


def test_status_and_errors_are_spoken(page: Elements) -> None:
    spoken = {attributes["id"]: attributes["role"] for _, attributes in page.tags if "role" in attributes}
    assert spoken == {"spoken": "status", "trouble": "alert"}


def test_the_page_follows_the_reader(page: Elements) -> None:
    """Light and dark, phones, and people who get dizzy from motion."""
    style = page.inline["style"]
    assert "prefers-color-scheme: dark" in style and "prefers-reduced-motion" in style and ":focus-visible" in style
    for rule in re.findall(r"[^{}]*\{[^{}]*\b(?:animation|transition):[^{}]*\}", style):
        before = style[: style.index(rule)]
        media = before.rpartition("@media")[2]
        assert "prefers-reduced-motion: no-preference" in media + rule, rule
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_every_setting_with_a_field_is_sent_and_brought_back(page: Elements) -> None:
    """A setting without a field is shown as a text of restored pictures, so it must not have both."""
    script = page.inline["script"]
    (fields,) = re.findall(r"const FIELDS = \{([^}]*)\}", script)
    known = dict(re.findall(r'(\w+): "(\w+)"', fields))
    assert {"size", "num_steps", "seed", "num_images", "negative"} == set(known) <= set(ImageSettings.model_fields)
    assert set(known.values()) <= set(page.ids())
    (sent,) = re.findall(r"function settings\(kind\) \{(.*?)\n\}", script, re.DOTALL)
    assert all(f"...{id_} &&" in sent for id_ in known.values())
