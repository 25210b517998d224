"""The studio in Chromium: drawing with pictures on their way, the gallery, masks, words, both languages.

Skipped, and it says why, where Playwright or a Chromium is missing: ``pip install playwright``, and Debian's
``chromium`` or the browser that ``playwright install chromium`` fetches (its path in ``CHROMIUM``).
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview import CogView
from cogview.checkpoints import provenance
from cogview.cli.app import main
from cogview.generation.strategies import sequential
from cogview.serving.guard import Rules
from cogview.serving.quotas import Key
from cogview.serving.served import Models
from tests.contrast import CONTRAST
from tests.serving.conftest import Gate, Site, png, until

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
if not CHROMIUM:
    pytest.skip("no Chromium on this machine; name one in CHROMIUM", allow_module_level=True)

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
IDLE = "#pictures[aria-busy=false]"
NASTY = "<i>red'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        try:
            started = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=180_000)
        except playwright.Error as error:
            pytest.skip(f"{CHROMIUM} does not start here: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, site: Site) -> Iterator[Callable[..., Any]]:
    """Opens the studio in a context of its own; in the end nothing may have been complained of."""
    pages = []

    def open_page(port: int = site.port, **options: Any) -> Any:
        page = browser.new_context(**({"locale": "en-US"} | options)).new_page()
        page.set_default_timeout(120_000)
        page.complaints = []
        page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("body[data-ready]")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert not page.complaints  # no blocked content, no failing script
        page.context.close()


def draw(page: Any, prompt: str, seed: int = 7, n: int = 2) -> None:
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    page.locator(f"label:has(input[name=n][value='{n}'])").click()
    page.click("#panel-draw .go")
    page.wait_for_selector(IDLE)


def download(page: Any, folder: Path) -> Path:
    with page.expect_download() as coming:
        page.click("#download")
    path = folder / str(coming.value.suggested_filename)
    coming.value.save_as(path)
    return path


def test_a_person_draws_keeps_and_draws_again(
    opened: Callable[..., Any], family: Path, tmp_path: Path
) -> None:
    """What is downloaded is the library's file; the gallery outlives a reload."""
    page = opened()
    page.locator("#styles label", has_text="pixel").click()
    draw(page, NASTY)
    assert page.locator(".group h3").inner_text() == NASTY and page.locator(".group img").count() == 2
    page.reload()
    page.wait_for_selector(".group img >> nth=1")
    page.locator(".group button").nth(1).click()
    made = CogView.from_pretrained(family).generate(NASTY, n=2, seed=7, style="pixel")
    assert download(page, tmp_path).read_bytes() == made[1].png()
    words = shlex.split(page.inner_text("#command"))[1:-1]
    words[words.index("tiny")] = str(family)  # it is found by its directory
    assert main([*words, str(tmp_path / "typed")]) == 0
    assert sorted(one.read_bytes() for one in (tmp_path / "typed").iterdir()) == sorted(
        picture.png() for picture in made
    )
    page.click("#again")
    page.wait_for_selector(IDLE)
    page.locator(".group button").first.click()
    path = download(page, tmp_path / "again")
    assert path.read_bytes() == made[1].png()
    page.click("#delete")
    page.locator(".group").nth(1).wait_for(state="detached")  # one is left
    assert page.locator(".group img").count() == 2


def test_pictures_grow_and_can_be_stopped(
    browser: Any, opened: Callable[..., Any], serve: Callable[..., Site], models: Models,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    site, gate = serve(), Gate(models.default, monkeypatch)
    monkeypatch.setattr(models.default.cogview.text_to_image.engine, "strategy", sequential)
    page = opened(site.port)
    page.fill("#prompt", "a red circle")
    page.click("#panel-draw .go")
    gate.allow(4)  # of 16 codes each has four or more
    page.wait_for_selector(".unfinished img >> nth=3")
    assert page.locator(".unfinished").count() == 4
    page.click("#panel-draw .stop")
    page.wait_for_selector(IDLE)
    assert page.inner_text("#status") == "Stopped" and not page.locator(".group").count()
    until(lambda: site.server.metrics.value("cogview_cancelled_total", reason="client") == 1)
    gate.open()
    until(lambda: not site.server.worker.running)
    assert gate.tokens < 16


def test_a_part_is_painted_over_and_drawn_anew(opened: Callable[..., Any], tmp_path: Path) -> None:
    page = opened()
    picture = tmp_path / "grey.png"
    picture.write_bytes(png(size=(48, 48), colour=(90, 90, 90)))
    page.click("#tab-edit")
    page.set_input_files("#edit-drop input", picture)
    canvas = page.locator("#canvas")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.4, steps=4)
    page.mouse.up()
    canvas.focus()
    for key in ("ArrowDown", "ArrowDown", " "):  # the brush again, by keyboard
        page.keyboard.press(key)
    page.fill("#edit-prompt", "a blue square")
    page.fill("#edit-n", "1")
    page.click("#panel-edit .go")
    page.wait_for_selector(IDLE)
    assert not page.is_visible("#panel-edit [role=alert]"), page.inner_text("#panel-edit [role=alert]")
    page.locator(".group button").first.click()
    path = download(page, tmp_path / "out")
    changed = (np.asarray(Image.open(path)) != 90).any(-1)
    assert changed[19, 20:28].any() and not changed[:10].any() and not changed[40:].any()
    told = provenance.read(path)
    assert told and told.prompt == "a blue square" and told.settings["task"] == "edit"


def test_a_picture_is_described_scored_and_enlarged(opened: Callable[..., Any], tmp_path: Path) -> None:
    page = opened()
    draw(page, "a red circle", n=1)
    page.click(".group button")
    page.click("#to-tools")
    page.click("[data-caption=zh]")
    page.wait_for_selector("#captions li >> nth=1")
    page.click("#score-now")
    page.wait_for_selector("#scores li")
    assert "a red circle" in page.inner_text("#scores li")
    page.click("[data-times='2']")
    page.wait_for_selector(".group >> nth=1")
    page.wait_for_selector(IDLE)
    page.locator(".group button").first.click()
    assert Image.open(download(page, tmp_path)).size == (32, 32)


def test_on_a_phone_in_chinese(opened: Callable[..., Any]) -> None:
    """Nothing is wider than the screen, what is touched is large enough, examples fill the prompt."""
    page = opened(**PHONE, locale="zh-CN")
    assert page.inner_text("#panel-draw .go") == "开始画" and page.get_attribute("html", "lang") == "zh-Hans"
    page.locator("#examples button").first.click()
    assert page.input_value("#prompt")
    draw(page, "红色的圆")
    assert page.locator("html").evaluate("page => page.scrollWidth <= innerWidth")
    for touched in (".go", ".tabs button", ".count label", "#seed"):
        assert page.locator(touched).first.bounding_box()["height"] >= 44, touched
    page.click("[data-language=en]")
    assert page.inner_text("#panel-draw .go") == "Draw"


def test_the_keyboard_alone_draws(opened: Callable[..., Any]) -> None:
    page = opened()
    page.focus("#tab-draw")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-edit", "aria-selected") == "true" and page.is_visible("#panel-edit")
    page.keyboard.press("ArrowLeft")
    page.focus("#prompt")
    page.keyboard.type("a red circle")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(IDLE)
    page.focus(".group button")
    page.keyboard.press("Enter")
    first = page.inner_text("#facts")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#facts") != first
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer")


def test_what_is_wrong_is_shown(opened: Callable[..., Any], serve: Callable[..., Site]) -> None:
    page = opened(serve(rules=Rules(keys=[Key("a-key-of-16-and-more")])).port)
    page.fill("#key", "a-key-of-16-and-more")
    page.click("#key-dialog button")
    page.wait_for_selector("#styles label")
    draw(page, "red " * 60)
    assert "tokens and the model reads 31" in page.inner_text("#panel-draw [role=alert]")
    assert page.locator(".group").count() == 0
    page.complaints.clear()  # a browser tells of every answer 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(opened: Callable[..., Any], scheme: str) -> None:
    """The contrast of every text with what is behind it is at least 4.5 : 1 (WCAG AA)."""
    page = opened(color_scheme=scheme)
    draw(page, "a red circle", n=1)
    page.click("details summary")
    for tab in ("draw", "edit", "tools"):
        page.click(f"#tab-{tab}")
        assert page.evaluate(CONTRAST)["ratio"] >= 4.5, page.evaluate(CONTRAST)
