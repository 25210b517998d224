"""The studio in Chromium: generating, the queue, the gallery, masks, words, training, both languages.

Skipped, and it says why, where Playwright or a Chromium is missing: ``pip install playwright``, and Debian's
``chromium`` or the browser that ``playwright install chromium`` fetches (its path in ``CHROMIUM``).
"""

from __future__ import annotations

import json
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
from cogview.serving.trainings import Trainings
from tests.contrast import CONTRAST
from tests.serving.conftest import Gate, Site, png, until

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
IDLE = "#pictures[aria-busy=false]"
NASTY = "<i>red'"
# Elements that reach beyond the window, but for those that scroll by themselves.
BEYOND = """() => [...document.querySelectorAll("body *")].filter((node) => {
  const box = node.getBoundingClientRect();
  const scrolls = node.closest("#styles, .sheets, pre, .skip, .hidden, .hidden-file");
  return !scrolls && box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map((node) => `${node.tagName} ${node.className} ${node.id}`.slice(0, 80))"""


@pytest.fixture
def opened(browser: Any, site: Site) -> Iterator[Callable[..., Any]]:
    """Opens the studio in a context of its own; in the end nothing may have been complained of."""
    pages = []

    def open_page(port: int = site.port, **options: Any) -> Any:
        page = browser.new_context(**({"locale": "en-US"} | options)).new_page()
        page.set_default_timeout(90_000)
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
    page.locator("#panel-draw details").evaluate("settings => { settings.open = true; }")
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
    page.select_option("#size", "16x16")
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
    page.click(".group .stop")
    page.wait_for_selector(IDLE)
    assert page.inner_text("#status") == "Cancelled" and not page.locator(".group").count()
    until(lambda: site.server.metrics.value("cogview_cancelled_total", reason="client") == 1)
    gate.open()
    until(lambda: not site.server.worker.running)
    assert gate.tokens < 16


def test_of_three_requests_the_second_is_cancelled_alone(
    opened: Callable[..., Any], serve: Callable[..., Site], models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tells its place and its time; the others are finished."""
    site, gate = serve(together=1), Gate(models.default, monkeypatch)
    page = opened(site.port)
    page.locator("label:has(input[name=n][value='1'])").click()
    for prompt in ("a red circle", "a blue square", "a green circle"):
        page.fill("#prompt", prompt)
        page.click("#panel-draw .go")
        until(
            lambda: (
                site.server.worker.waiting + len(site.server.worker.running) == page.locator(".group").count()
            )
        )
    page.locator(".told", has_text="Number 2 in the queue").wait_for()
    told = {
        group.locator("h3").inner_text(): group.locator(".told").inner_text()
        for group in page.locator(".group").all()
    }
    assert told["a red circle"].startswith("In progress · ")
    assert told["a blue square"].startswith("Number 1 in the queue · ")
    page.locator(".group", has_text="a blue square").locator(".stop").click()
    until(lambda: site.server.worker.waiting == 1)
    gate.open()
    page.wait_for_selector(IDLE)
    assert page.locator(".group h3").all_inner_texts() == ["a green circle", "a red circle"]
    assert page.locator(".group img").count() == 2 and not page.locator(".job").count()
    page.fill("#search", "green")
    assert page.locator(".group:visible h3").all_inner_texts() == ["a green circle"]


def test_words_that_the_model_never_learnt_are_replaced(
    opened: Callable[..., Any], serve: Callable[..., Site], family: Path, tmp_path: Path
) -> None:
    """Near ones are offered while one types and beside the pictures; a click puts one in."""
    copy = shutil.copytree(family, tmp_path / "family")
    near = {"en": {"aardvark": ["otter"]}, "zh": {"土豚": ["otter"]}}
    table = {"version": 1, "things": {"otter": ["otter", "水獭"]}, "known": {"en": ["otter"], "zh": ["水獭"]}}
    (copy / "words.json").write_text(json.dumps(table | {"near": near}), "utf-8")
    page = opened(serve(models=Models.load([copy])).port)
    page.fill("#prompt", "A aardvark")
    page.locator("#words", has_text="never learnt “aardvark”").wait_for()
    page.click("[data-language=zh]")
    assert "没有学过“aardvark”" in page.inner_text("#words")
    draw(page, "A aardvark", n=1)
    page.locator(".group .notes button").click()
    assert page.input_value("#prompt") == "An otter"
    page.locator("#words").wait_for(state="hidden")


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
    page.click("#panel-edit summary")
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
    page.click("#vary")  # of what was made, four
    page.wait_for_selector(IDLE)
    assert page.locator(".group").first.locator("img").count() == 4
    page.locator("label:has(input[name=where][value=anywhere])").click()
    page.fill("#strength", "100")
    page.click("#panel-edit .go")
    page.wait_for_selector(IDLE)
    page.locator(".group button.frame").first.click()
    assert page.inner_text("#command").startswith("cogview edit picture.png 'a blue square' --vary 1 -n 1")
    varied = provenance.read(download(page, tmp_path / "varied"))
    assert varied and varied.prompt == "a blue square" and varied.settings["share"] == 1


def test_a_picture_is_described_scored_and_enlarged(opened: Callable[..., Any], tmp_path: Path) -> None:
    page = opened()
    draw(page, "a red circle", n=1)
    page.click(".group button")
    page.click("#to-tools")
    page.click("[data-caption=zh]")
    page.wait_for_selector("#captions li >> nth=1")
    page.fill("#sentence", "a red circle\na blue square")
    page.click("#score-now")
    page.wait_for_selector("#scores li >> nth=1")
    shares = page.locator("#scores .meter").evaluate_all(
        "bars => bars.map((bar) => Number(bar.ariaValueNow))"
    )
    assert shares == sorted(shares, reverse=True) and "other sentences" in page.inner_text(
        "#scores li >> nth=0"
    )
    page.click("[data-times='2']")
    page.wait_for_selector(".group >> nth=1")
    page.wait_for_selector(IDLE)
    page.locator(".group button.frame").first.click()
    assert Image.open(download(page, tmp_path)).size == (128, 128)


def test_on_a_phone_in_chinese(opened: Callable[..., Any]) -> None:
    """Nothing is wider than the screen, what is touched is large enough, examples fill the prompt."""
    page = opened(**PHONE, locale="zh-CN")
    assert page.inner_text("#panel-draw .go") == "生成" and page.get_attribute("html", "lang") == "zh-Hans"
    page.locator("#examples button").first.click()
    assert page.input_value("#prompt")
    draw(page, "红色的圆")
    assert page.locator("html").evaluate("page => page.scrollWidth <= innerWidth")
    for touched in (".go", ".tabs button", ".count label", "#size"):
        assert page.locator(touched).first.bounding_box()["height"] >= 44, touched
    page.click("[data-language=en]")
    assert page.inner_text("#panel-draw .go") == "Generate"


def test_nothing_overflows_at_any_width(
    opened: Callable[..., Any], serve: Callable[..., Site], tmp_path: Path
) -> None:
    """From 320 to 2,560 pixels, on every tab, in both languages, no element reaches beyond the window."""
    page = opened(serve(trainings=Trainings(tmp_path)).port)
    draw(page, "a red circle", n=1)
    page.set_input_files("#edit-drop input", {"name": "a.png", "mimeType": "image/png", "buffer": png()})
    for summary in page.locator("summary").all():
        summary.evaluate("node => { node.parentElement.open = true; }")
    for width in (320, 390, 700, 960, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 850})
        for language in ("en", "zh"):
            page.locator(f"[data-language={language}]").evaluate("node => node.click()")
            for tab in ("draw", "edit", "tools", "train"):
                page.locator(f"#tab-{tab}").evaluate("node => node.click()")
                assert page.evaluate(BEYOND) == [], (width, language, tab)


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
    page.focus(".group button.frame")
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
    problem = page.locator("#panel-draw [role=alert]")
    assert "cannot read this sentence" in problem.inner_text()
    assert "tokens and the model reads 31" in (problem.text_content() or "")
    assert page.locator(".group").count() == 0
    page.click("[data-language=zh]")
    assert "模型读不了这句话" in problem.inner_text()
    page.click("#tab-edit")
    page.click("#tab-draw")
    assert not problem.is_visible() and page.inner_text("#status") == ""
    page.complaints.clear()  # a browser tells of every answer 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_people_who_see_badly_can_use_it(
    opened: Callable[..., Any], serve: Callable[..., Site], tmp_path: Path, scheme: str
) -> None:
    """The contrast of every text is at least 4.5 : 1 (WCAG AA), and axe finds nothing serious."""
    page = opened(serve(trainings=Trainings(tmp_path)).port, color_scheme=scheme)
    draw(page, "a red circle", n=1)
    page.set_input_files("#edit-drop input", {"name": "a.png", "mimeType": "image/png", "buffer": png()})
    for tab in ("draw", "edit", "tools", "train"):
        page.click(f"#tab-{tab}")
        assert page.evaluate(CONTRAST)["ratio"] >= 4.5, page.evaluate(CONTRAST)
        assert scheme == "dark" or serious(page) == [], tab
    page.click("#tab-draw")
    page.click(".group button.frame")
    assert serious(page) == []


def serious(page: Any) -> list[str]:
    """What axe-core finds, of the worse two of its four degrees."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.slow
def test_a_folder_becomes_a_model_that_generates(
    opened: Callable[..., Any], serve: Callable[..., Site], family: Path, tmp_path: Path
) -> None:
    """Uploaded, planned, trained in a process of its own; the model is in the list without a restart."""
    folder = tmp_path / "my shapes"
    folder.mkdir()
    for number, colour in enumerate([(200, 30, 40), (30, 60, 200), (40, 160, 60), (230, 190, 40)] * 3):
        (folder / f"shape {number}.png").write_bytes(png(size=(36, 36), colour=colour))
        (folder / f"shape {number}.txt").write_text("a plain square\n", "utf-8")
    (folder / "broken.png").write_bytes(b"no image")
    trainings = Trainings(tmp_path / "trained")
    page = opened(serve(models=Models.load([family]), trainings=trainings).port)
    page.click("#tab-train")
    page.set_input_files("#train-folder", folder)
    assert page.inner_text("#train-chosen").startswith("13 images, 12 caption files")
    assert page.input_value("#train-name") == "my-shapes"
    page.locator("#train-sizes label", has_text="tiny").click()
    page.click("#panel-train summary")
    page.fill("#train-tokenizer-steps", "8")
    page.fill("#train-steps", "8")
    page.click("#panel-train .go")
    page.wait_for_selector(".training .planned")
    facts = page.inner_text(".training dl")
    assert "12" in facts and "broken.png" in facts and "about" in facts
    assert not (tmp_path / "trained" / "models" / "my-shapes").exists()
    page.get_by_role("button", name="Start training").click()
    page.wait_for_selector(".training .done.status")
    assert page.locator(".sheets img").count() > 1  # samples on the way, and those of the model
    assert page.locator(".curve").count() == 2
    page.get_by_role("button", name="Generate with it").click()
    page.wait_for_function("() => document.querySelector('#prompt').value !== ''")
    assert page.input_value("#model") == "my-shapes" and page.input_value("#prompt") == "a plain square"
    draw(page, "a plain square", n=1)
    picture = Image.open(download_of(page, tmp_path / "made"))
    assert picture.size == (36, 36)
    again = Models.load([family])
    Trainings(tmp_path / "trained").serve_in(again)
    assert list(again.by_name) == ["tiny", "my-shapes"]


def download_of(page: Any, folder: Path) -> Path:
    """The first picture of the page, as it is downloaded."""
    page.locator(".group button.frame").first.click()
    return download(page, folder)
