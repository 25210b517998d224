"""The pages in Chromium, with its own engine for layout, forms, keyboard and script.

Skipped, and it says why, where Playwright or a Chromium is missing: ``pip install playwright``, and Debian's
``chromium`` or the browser that ``playwright install chromium`` fetches (its path in ``CHROMIUM``).
The whole of a study with raters at the same time is ``examples/study/simulate.py``.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cogview.study.store import Store
from cogview.web.sockets import listen
from tests.contrast import CONTRAST

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
uvicorn = pytest.importorskip("uvicorn", reason="the extra `study` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
if not CHROMIUM:
    pytest.skip("no Chromium on this machine; name one in CHROMIUM", allow_module_level=True)
from cogview.study import server  # noqa: E402

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


class Site:
    """A served study that can be stopped and started again at the same port."""

    def __init__(self, store: Store) -> None:
        self.store, self.port = store, 0
        self.start()

    def start(self) -> None:
        listener = listen("127.0.0.1", self.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(server.application(self.store), log_level="error", lifespan="off", ws="none")
        self.running = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.running.run, kwargs={"sockets": [listener]})
        self.thread.start()

    def stop(self) -> None:
        self.running.force_exit = self.running.should_exit = True
        self.thread.join(30)

    def link(self, rater: int) -> str:
        return f"http://127.0.0.1:{self.port}/r/{self.store.token(rater)}"


@pytest.fixture
def site(make_store: Callable[..., Store]) -> Iterator[Site]:
    found = Site(make_store(raters=2, captions=1))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        try:
            started = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=180_000)
        except playwright.Error as error:
            pytest.skip(f"{CHROMIUM} does not start here: {str(error).splitlines()[0]}")
        yield started
        started.close()


def open_page(browser: Any, address: str, **options: Any) -> Any:
    """A page in a context of its own, which collects what the browser complains of."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(120_000)
    page.complaints = []
    page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(address)
    return page


def give(page: Any, overall: int = 7) -> None:
    """All four scores, by touching the labels as a person does."""
    for name, value in {"clarity": 4, "texture": 3, "relevance": 5, "overall": overall}.items():
        page.locator(f'label:has(input[name={name}][value="{value}"])').click()


def go_on(page: Any) -> None:
    """Send the form and wait for the next page."""
    here = page.url
    page.click("main button[type=submit]")
    page.wait_for_url(lambda url: url != here)


@pytest.mark.parametrize("script", [True, False])
def test_a_person_with_a_phone_finishes(browser: Any, site: Site, script: bool) -> None:
    """With the script and without; nothing is wider than the screen, and what is touched is large enough."""
    rater = 1 + script
    page = open_page(browser, site.link(rater), **PHONE, locale="zh-CN", java_script_enabled=script)
    page.click("text=开始")
    count = 0
    while page.url != site.link(rater):
        if script:
            page.wait_for_load_state("load")
            assert page.locator("html").evaluate("page => page.scrollWidth <= innerWidth")
        if page.url.endswith("best"):
            page.locator("label:has(input[name=best])").nth(1).click()
        else:
            if script:
                assert min(page.evaluate(SIZES)) >= 44
            give(page)
        go_on(page)
        count += 1
    assert count == 4 and "全部完成" in page.inner_text("h1")
    assert site.store.progress(rater).next is None
    assert not page.complaints  # no blocked content, no failing script
    page.context.close()


def test_an_answer_waits_for_a_server_that_is_away(browser: Any, site: Site) -> None:
    page = open_page(browser, f"{site.link(1)}/1/1")
    give(page, overall=9)
    site.stop()
    page.click("main button[type=submit]")
    page.wait_for_selector("#notice:has-text('cannot be reached')")
    assert page.is_checked('input[name=overall][value="9"]')
    site.start()
    page.wait_for_url("**/1/2")
    assert site.store.progress(1).scores[1, 1]["overall"] == 9
    page.context.close()


def test_a_draft_outlives_a_closed_tab(browser: Any, site: Site) -> None:
    page = open_page(browser, f"{site.link(1)}/1/1")
    page.locator('label:has(input[name=texture][value="2"])').click()
    again = page.context.new_page()
    page.close()
    again.goto(f"{site.link(1)}/1/1")
    assert again.is_checked('input[name=texture][value="2"]')
    assert not site.store.progress(1).scores
    again.context.close()


def test_the_keyboard_alone_rates(browser: Any, site: Site) -> None:
    page = open_page(browser, f"{site.link(1)}/1/1")
    for key in "2340":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/1/2")
    assert site.store.progress(1).scores[1, 1] == {"clarity": 2, "texture": 3, "relevance": 4, "overall": 10}
    page.context.close()


def test_clicking_twice_saves_once_and_two_tabs_agree(browser: Any, site: Site) -> None:
    first = open_page(browser, f"{site.link(1)}/1/1")
    second = first.context.new_page()
    second.goto(f"{site.link(1)}/1/1")
    give(second, overall=3)
    give(first, overall=5)
    first.dblclick("main button[type=submit]", no_wait_after=True)
    first.wait_for_url("**/1/2")
    assert site.store.progress(1).scores == {
        (1, 1): {"clarity": 4, "texture": 3, "relevance": 5, "overall": 5}
    }
    go_on(second)
    assert site.store.progress(1).scores[1, 1]["overall"] == 3 and second.url.endswith("/1/2")
    first.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Any, site: Site, scheme: str) -> None:
    """The contrast of every text with what is behind it is at least 4.5 : 1 (WCAG AA)."""
    page = open_page(browser, f"{site.link(1)}/1/1", color_scheme=scheme)
    page.locator('label:has(input[name=texture][value="2"])').click()
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    page.context.close()


SIZES = """() => [...document.querySelectorAll(".steps label, main .button")].flatMap((touched) => {
  const box = touched.getBoundingClientRect();
  return [box.width, box.height];
})"""
