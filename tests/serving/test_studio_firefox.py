"""The studio's journeys in Firefox, over WebDriver BiDi: generating, keeping, editing, describing.

Skipped, and it says why, where there is no Firefox (Debian's ``firefox-esr``; its path in ``FIREFOX``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.conftest import Site, png
from tests.serving.test_studio_layout import CLIPPED

pytest.importorskip("websockets", reason="websockets is not installed")
from tests.serving.bidi import Tab, firefox

pytestmark = pytest.mark.slow
IDLE = "document.querySelector('#pictures').getAttribute('aria-busy') === 'false'"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    program = os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")
    if program is None:
        pytest.skip("no Firefox on this machine; name one in FIREFOX")
    with firefox(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(tab: Tab, site: Site) -> Iterator[Tab]:
    """The studio in English; in the end nothing may have been complained of."""
    tab.resize(1280, 900)
    tab.open(f"http://127.0.0.1:{site.port}/")
    tab.click("[data-language=en]")
    tab.complaints.clear()
    yield tab
    assert tab.complaints == []


def images(page: Tab) -> list[int]:
    """The widths of the gallery's images, which are 0 where one cannot be shown."""
    found: list[int] = page.evaluate(
        "Promise.all([...document.querySelectorAll('.group img')].map(async (image) => "
        "{ await image.decode(); return image.naturalWidth; }))"
    )
    return found


def generate(page: Tab, prompt: str) -> None:
    page.click("#prompt")
    page.evaluate("document.querySelector('#prompt').select()")
    page.type(prompt)
    page.evaluate("(document.querySelector('#size').value = '16x16') && null")
    page.click("label:has(input[name=n][value='2'])")
    page.click("#panel-draw .go")
    page.wait("document.querySelectorAll('.group img').length >= 2")
    page.wait(IDLE)


def test_images_are_generated_and_kept(page: Tab) -> None:
    generate(page, "a red circle")
    assert images(page) == [16, 16]
    page.open(page.evaluate("location.href"))
    page.wait("document.querySelectorAll('.group img').length === 2")
    assert page.evaluate("document.querySelector('.group h3').textContent") == "a red circle"
    page.click(".group button.frame")
    assert "--seed" in page.evaluate("document.querySelector('#command').textContent")
    page.click("#close-viewer")


def test_a_painted_part_is_generated_again(page: Tab, tmp_path: Path) -> None:
    before = page.evaluate("document.querySelectorAll('.group').length")
    path = tmp_path / "grey.png"
    path.write_bytes(png(size=(48, 48), colour=(90, 90, 90)))
    page.click("#tab-edit")
    page.choose_file("#edit-drop input", path)
    page.wait("!document.querySelector('#painter').hidden")
    page.click("#edit-prompt")
    page.type("a blue square")
    x, y = page.middle("#canvas")
    page.press((x - 30, y), (x, y), (x + 30, y))
    page.click("#panel-edit .go")
    page.wait(f"document.querySelectorAll('.group').length > {before} && {IDLE}")
    assert page.evaluate("document.querySelector('#panel-edit [role=alert]').hidden")
    assert page.evaluate("document.querySelector('.group h3').textContent") == "a blue square"


def test_an_image_is_described_in_chinese(page: Tab, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(png(size=(48, 48)))
    page.click("[data-language=zh]")
    page.click("#tab-tools")
    page.choose_file("#tools-drop input", path)
    page.wait("!document.querySelector('#tools-picture').hidden")
    page.click("[data-caption=zh]")
    page.wait("document.querySelectorAll('#captions li').length > 0")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"


def test_nothing_is_cut_off(page: Tab) -> None:
    for width in (320, 1280):
        page.resize(width, 1200)
        for name in ("draw", "edit", "tools"):
            page.evaluate(f"document.querySelector('#tab-{name}').click()")
            assert page.evaluate(f"({CLIPPED})()") == [], (width, name)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, name)
