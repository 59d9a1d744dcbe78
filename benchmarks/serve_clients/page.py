"""Use the page of `sensenova serve` in headless Chromium, with the demo model, as a person would.

Needs Chromium (Debian: apt-get install chromium) and `pip install playwright`.

python -m benchmarks.serve_clients.page
python -m benchmarks.serve_clients.page --screenshots docs/images
"""

import argparse
import base64
import importlib
import io
import json
import re
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks import harness
from benchmarks.serve_clients.page_visit import KEY, Visit, start_server, until
from sensenova_cli.outputs.picture_files import read_record

PROMPT = "A cute cat on a blue background"
LARGEST_SEED = "9223372036854775807"
CAPTION = re.compile(r"(\d+) × (\d+), seed (\d+), (\d+) steps")


def waits_for_the_model(visit: Visit) -> None:
    """The server of the demo is ready too soon to be seen loading, so two answers are made up."""
    answers = [{"done": 4, "total": 16, "title": "Reading the weights"}, {"done": 12, "total": 16}]

    def answer(route: Any) -> None:
        if not answers:
            route.continue_()
            return
        body = json.dumps({"status": "loading", "progress": answers.pop(0)})
        route.fulfill(status=503, content_type="application/json", body=body)

    visit.page.route("**/health", answer)
    visit.page.goto(visit.url)
    visit.shows("#status", "Reading the weights")
    assert visit.find("#progress").evaluate("bar => bar.value") == 0.25
    visit.shows("#status", "The server loads the model")
    visit.expect(visit.find("#progress")).to_be_hidden()
    visit.page.unroute("**/health")


def asks_for_the_key(visit: Visit) -> None:
    visit.shows("#gate", "needs a key")
    visit.fill(key="wrong")
    visit.page.keyboard.press("Enter")
    visit.shows("#gate", "did not accept")
    visit.fill(key=KEY)
    visit.page.keyboard.press("Enter")
    visit.shows("#model", "demo")
    visit.expect(visit.find("#gate")).to_be_hidden()
    stored = visit.page.evaluate("[Object.values(sessionStorage), Object.keys(localStorage), document.cookie]")
    assert stored == [[KEY], [], ""], stored
    visit.page.reload()
    visit.shows("#model", "demo")
    visit.expect(visit.find("#gate")).to_be_hidden()


def draws_with_previews(visit: Visit) -> None:
    for name, enabled in {"generate": True, "edit": False, "answer": True}.items():
        assert visit.find(f"#{name}").is_enabled() is enabled, name
    visit.page.check("#plan")
    visit.fill(seed="7", prompt=PROMPT)
    visit.page.keyboard.press("Control+Enter")
    visit.shows("#think", "I will draw a cat on a blue background")
    visit.shows("#status", CAPTION)
    visit.finish()
    visit.page.uncheck("#plan")
    previews = visit.page.evaluate("seen.previews")
    assert len(previews) >= 3, f"{len(previews)} previews"
    final = _pixels(visit.pictures()[0])
    distances = [_distance(_pixels(base64.b64decode(each.partition(",")[2])), final) for each in previews]
    assert distances[0] > 2 * distances[-1], distances
    assert sorted(distances, reverse=True)[0] == distances[0] and min(distances) == distances[-1], distances


def saves_the_picture(visit: Visit) -> None:
    name, data = visit.save()
    assert name == "a-cute-cat-on-a-blue-background-7.png", name
    assert data == visit.pictures()[0], "the file differs from the server's picture"
    record = read_record(data)
    assert record is not None and (record.prompt, record.settings.seed) == (PROMPT, 7)


def stops_within_a_step(visit: Visit) -> None:
    visit.fill(steps="200", number="10", seed="", prompt="a dog on a red background")
    visit.find("#generate").click()
    visit.shows("#status", re.compile("step [3-9] of 200"))
    visit.find("#stop").click()
    visit.shows("#status", re.compile(r"Stopped after step \d+"))
    until(lambda: visit.state()["status"] == "cancelled", 2.0)
    assert visit.find("#results li").count() == 1
    visit.fill(steps="", number="")


def changes_and_asks(visit: Visit) -> None:
    visit.find("#results button:text('Use')").first.click()
    visit.run("edit", "change the background to green")
    assert visit.bodies[-1]["request"] == "edit" and len(visit.bodies[-1]["pictures"]) == 1
    visit.find("#results button:text('Use')").first.click()
    visit.run("answer", "What is this?")
    visit.shows("#turns li:last-child", "cat on a green background")
    visit.fill(prompt="What color is the background?")
    visit.page.keyboard.press("Control+Enter")
    visit.shows("#turns li:nth-child(4)", "green")
    visit.finish()
    sent = visit.bodies[-1]
    assert sent["history"][0] == {"role": "user", "text": "<image>\nWhat is this?"}, sent["history"]
    assert [turn["role"] for turn in sent["history"]] == ["user", "assistant"] and len(sent["pictures"]) == 1
    visit.find("#fresh").click()
    visit.expect(visit.find("#talk")).to_be_hidden()
    visit.find("#attached .remove").click()
    visit.run("answer", "What can you do?")
    assert visit.bodies[-1]["history"] == [] and visit.bodies[-1]["pictures"] == []


def brings_settings_back(visit: Visit) -> None:
    visit.fill(seed=LARGEST_SEED, steps="9", size="192x256")
    visit.run("generate", "an owl on a pink background")
    visit.shows("#status", f"192 × 256, seed {LARGEST_SEED}, 9 steps")
    name, data = visit.save()
    for way in ("drop", "paste", "choose"):
        visit.fill(seed="", steps="", size="", prompt="typed before")
        if way == "choose":
            visit.page.set_input_files("#files", {"name": name, "mimeType": "image/png", "buffer": data})
        else:
            visit.give(way, name, data)
        visit.shows("#notes", f"Prompt and settings of {name} are back")
        visit.has(prompt="an owl on a pink background", seed=LARGEST_SEED, steps="9", size="192x256")
        visit.find("#notes button").click()
        visit.has(prompt="typed before", seed="", steps="", size="")
        visit.expect(visit.find("#attached li")).to_have_count({"drop": 1, "paste": 2, "choose": 3}[way])
    visit.find("#results button:text('Settings')").first.click()
    visit.has(prompt="an owl on a pink background", seed=LARGEST_SEED)
    visit.find("#generate").click()
    visit.finish()
    assert visit.save()[1] == data, "the picture that was drawn again differs"
    visit.fill(seed="", steps="", size="")


def explains_errors(visit: Visit) -> None:
    visit.fill(size="100x100")
    visit.run("generate", PROMPT)
    visit.shows("#trouble", "32")
    visit.fill(size="")
    visit.give("drop", "notes.txt", b"hello", "text/plain")
    visit.shows("#notes", "notes.txt is not a PNG")
    visit.give("drop", "broken.png", b"\x89PNG\r\n\x1a\n broken", "image/png")
    visit.run("edit", "make it red")
    visit.shows("#trouble", "not a picture")
    visit.find("#attached .remove").click()
    visit.run("answer", "What is <image><image> this?")
    visit.shows("#trouble", "placeholders")
    visit.has(prompt="What is <image><image> this?")


def shows_texts_as_texts(visit: Visit) -> None:
    markup = "<img src=x onerror=window.broken=1>a cat"
    stored, record = io.BytesIO(), PngInfo()
    settings = {"seed": markup, "size": markup, "colour": markup}
    record.add_itxt("sensenova", json.dumps({"task": "generate", "prompt": markup, "settings": settings}))
    Image.new("RGB", (64, 64)).save(stored, "PNG", pnginfo=record)
    visit.give("drop", f"{markup}.png", stored.getvalue())
    visit.shows("#notes", markup)
    visit.shows("#extra", markup)
    visit.find("#extra button").click()
    visit.fill(seed="", size="")
    visit.run("answer", markup)
    visit.shows("#turns", markup)
    assert visit.page.evaluate("window.broken") is None, "a text ran as a script"
    assert visit.find("#notes img, #extra img, #turns p img").count() == 0
    visit.find("#attached .remove").click()


def waits_in_the_queue(visit: Visit) -> None:
    other = visit.page.context.new_page()
    try:
        other.goto(visit.url)
        other.fill("#key", KEY)
        other.keyboard.press("Enter")
        visit.expect(other.locator("#model")).to_contain_text("demo")
        other.fill("#prompt", PROMPT)
        other.fill("#steps", "200")
        other.click("#generate")
        visit.expect(other.locator("#status")).to_contain_text("Step")
        visit.fill(prompt="a red circle")
        visit.find("#generate").click()
        visit.shows("#status", "Waiting for another request")
        other.click("#stop")
        visit.shows("#status", CAPTION)
    finally:
        other.close()


def fits_a_narrow_phone(visit: Visit) -> None:
    visit.fill(number="3", steps="2")
    visit.run("generate", "W" * 300 + " a cat")
    visit.run("answer", "W" * 300)
    size = visit.page.viewport_size
    visit.page.set_viewport_size({"width": 360, "height": 740})
    width = visit.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360, f"the page is {width} px wide"
    small = visit.page.evaluate(
        "[...document.querySelectorAll('button, a, input:not([type=checkbox]), textarea')]"
        ".map((each) => [each.id || each.textContent, each.getBoundingClientRect()])"
        ".filter(([, box]) => box.height && (box.height < 40 || box.width < 34)).map(([name]) => name)"
    )
    assert small == [], f"too small for fingers: {small}"
    visit.page.set_viewport_size(size)
    visit.fill(number="", steps="", prompt="")


def works_with_the_keyboard(visit: Visit) -> None:
    visit.find("#prompt").focus()
    reached = {"prompt"}
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        name, outline = visit.page.evaluate(
            "[document.activeElement === document.body ? 'body' : document.activeElement.id"
            " || document.activeElement.textContent, getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.add(name)
        assert outline != "none" or name == "body", f"no outline around {name}"
    wanted = {"add", "plan", "generate", "answer", "size", "steps", "seed", "number", "Save", "Use", "Settings"}
    assert wanted <= reached, wanted - reached


def asked_only_its_server(visit: Visit) -> None:
    outside = [each for each in visit.requests if not each.startswith((visit.url, "blob:", "data:"))]
    assert not outside and len(visit.requests) > 30, outside


def broke_no_rule(visit: Visit) -> None:
    found = [*visit.page.evaluate("seen.violations"), *visit.problems]
    assert not found, found
    visit.page.evaluate("document.body.setAttribute('style', 'color: red')")
    assert visit.page.evaluate("seen.violations.length") == 1, "a violation would not have been noticed"


STEPS: tuple[Callable[[Visit], None], ...] = (
    waits_for_the_model,
    asks_for_the_key,
    draws_with_previews,
    saves_the_picture,
    stops_within_a_step,
    changes_and_asks,
    brings_settings_back,
    explains_errors,
    shows_texts_as_texts,
    waits_in_the_queue,
    fits_a_narrow_phone,
    works_with_the_keyboard,
    asked_only_its_server,
    broke_no_rule,
)


def take_screenshots(browser: Any, url: str, expect: Any, folder: Path) -> None:
    """Write small pictures of the page: light, dark, and on a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scheme, width, height in (
        ("light", "light", 1024, 720),
        ("dark", "dark", 1024, 720),
        ("phone", "light", 390, 844),
    ):
        size = {"width": width, "height": height}
        context = browser.new_context(color_scheme=scheme, viewport=size, has_touch=name == "phone")
        visit = Visit(url, context.new_page(), expect)
        visit.page.goto(url)
        visit.fill(key=KEY)
        visit.page.keyboard.press("Enter")
        visit.shows("#model", "demo")
        visit.fill(seed="7")
        visit.run("generate", "a fox on a pink background")
        visit.run("generate", "a cute cat on a blue background")
        if name == "dark":
            visit.find("#results button:text('Use')").first.click()
            visit.run("answer", "What is this?")
            visit.run("answer", "What color is the background?")
        else:
            visit.page.set_checked("#plan", name == "phone")
            visit.fill(steps="90", prompt="an owl on a yellow background")
            visit.find("#generate").click()
            visit.shows("#status", re.compile("Step [23] of 90"))
        file = folder / f"serve-{name}.png"
        if name != "phone":
            visit.page.evaluate("scrollTo(0, 0)")
        _with_palette(visit.page.screenshot()).save(file, optimize=True)
        harness.progress(f"{file}: {file.stat().st_size // 1000} kB")
        context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser's program (default: %(default)s)")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="also write pictures of the page")
    options = parser.parse_args()
    # Imported by name: playwright is no dependency of the program, and its types are not there where mypy runs.
    playwright = importlib.import_module("playwright.sync_api")
    playwright.expect.set_options(timeout=60_000)
    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as folder, playwright.sync_playwright() as tools:
        url, server = start_server(Path(folder))
        try:
            browser = tools.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
            visit = Visit(url, browser.new_context().new_page(), playwright.expect)
            for step in STEPS:
                name, began = step.__name__.replace("_", " "), time.perf_counter()
                try:
                    step(visit)
                    result = "yes"
                except (AssertionError, playwright.Error, urllib.error.URLError) as error:
                    result, failed = str(error).strip()[:300] or "no", failed + 1
                harness.progress(f"{name}: {result}")
                rows.append((name, result, f"{time.perf_counter() - began:.1f} s"))
            if options.screenshots:
                take_screenshots(browser, url, playwright.expect, options.screenshots)
            browser.close()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    harness.show(harness.table("the page", "result", "time", rows=rows))
    sys.exit(1 if failed else 0)


def _with_palette(data: bytes) -> Image.Image:
    """Return a screenshot with 256 colours, which makes the file small. The most frequent colours stay as they are,
    because they are the page's own; the others are for the picture on it."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    colours, counts = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_counts=True)
    frequent = colours[np.argsort(-counts)[:64]].flatten().tolist()
    others = picture.quantize(192, Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*frequent, *others][:768])
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def _pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((64, 64)), dtype=np.float64)


def _distance(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    return float(np.abs(first - second).mean())


if __name__ == "__main__":
    main()
