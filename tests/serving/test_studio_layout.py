"""How the studio looks: nothing cut off, nothing over another, and as in stored screenshots.

Texts are set in a font made here, whose letters are boxes of one width, so that lines break at the same
places on every machine, whatever fonts it has. Screenshots are compared in blocks of 8 x 8 pixels; after a
change that is meant, ``COGVIEW_UPDATE_SCREENS=1`` writes the stored ones (``tests/serving/screens``) again.
Look at them.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview.serving.trainings import Trainings
from tests.serving.conftest import Site, png

SCREENS = Path(__file__).parent / "screens"
TABS, LANGUAGES, SCHEMES = ("draw", "edit", "tools", "train"), ("en", "zh"), ("light", "dark")
WIDTHS = {1280: 850, 390: 844}
BLOCK = 8
DIFFERENT = 20  # of 255, the mean of a block
SHARE = 0.01  # of all blocks may differ: controls that each version of a browser draws its own way

# Texts beyond the control or heading that they stand in, and the chosen options of selects that do not fit.
CLIPPED = r"""() => {
  const found = [];
  const boxes = "button, label, .button, .chip, .status, legend, summary, h1, h2, h3, dt, dd, p";
  for (const node of document.querySelectorAll(boxes)) {
    const box = node.getBoundingClientRect();
    if (!box.width || node.closest(".skip, .hidden, .hidden-file, #styles, pre")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects())
      if (rect.right > box.right + 1 || rect.left < box.left - 1)
        found.push(node.textContent.trim().slice(0, 60));
  }
  const context = document.createElement("canvas").getContext("2d");
  for (const node of document.querySelectorAll("select")) {
    if (!node.offsetWidth || !node.selectedOptions.length) continue;
    const style = getComputedStyle(node);
    context.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    const room = node.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 18;
    for (const option of node.options)
      if (context.measureText(option.text).width > room) found.push(`select: ${option.text}`);
  }
  return [...new Set(found)];
}"""

# Controls over one another (but for what sticks to the edge), or smaller than 24 pixels (WCAG 2.5.8).
CROWDED = r"""() => {
  const chosen = ".button, button, select, textarea, input.text, input[type=number], summary," +
    ".chips label, .toggle";
  const shown = [...document.querySelectorAll(chosen)].filter((node) => {
    const box = node.getBoundingClientRect();
    const apart = node.closest("dialog, .actions:has(.go), #styles");
    return box.width && !apart && getComputedStyle(node).opacity > 0;
  });
  const found = [];
  shown.forEach((one, index) => {
    const a = one.getBoundingClientRect();
    if (a.width < 24 || a.height < 24) found.push(`small: ${one.id || one.textContent.trim()}`);
    for (const other of shown.slice(index + 1)) {
      const b = other.getBoundingClientRect();
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 2 && high > 2 && !one.contains(other) && !other.contains(one))
        found.push(`over: ${one.id || one.textContent.trim()}, ${other.id || other.textContent.trim()}`);
    }
  });
  return found;
}"""


@pytest.fixture(scope="module")
def letters() -> str:
    """A style sheet with the font of boxes: 0.6 em wide, Chinese ones 1 em."""
    builder = pytest.importorskip("fontTools.fontBuilder", reason="fontTools is not installed")
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")

    def box(width: int, height: int) -> Any:
        pen = pens.TTGlyphPen(None)
        pen.moveTo((60, 0))
        for corner in ((60, height), (width - 60, height), (width - 60, 0)):
            pen.lineTo(corner)
        pen.closePath()
        return pen.glyph()

    font = builder.FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "space", "narrow", "wide"])
    wide = {code: "wide" for code in range(0x2E80, 0xFFEF)}
    font.setupCharacterMap(
        {code: "narrow" for code in range(0x21, 0x2E80)} | wide | {0x20: "space", 0xA0: "space"},
        allowFallback=True,
    )
    empty = pens.TTGlyphPen(None).glyph()
    font.setupGlyf(
        {".notdef": box(600, 500), "space": empty, "narrow": box(600, 500), "wide": box(1000, 700)}
    )
    font.setupHorizontalMetrics(
        {".notdef": (600, 60), "space": (600, 0), "narrow": (600, 60), "wide": (1000, 60)}
    )
    font.setupHorizontalHeader(ascent=900, descent=-300)
    font.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    font.setupOS2(sTypoAscender=900, sTypoDescender=-300, usWinAscent=900, usWinDescent=300)
    font.setupPost()
    buffer = io.BytesIO()
    font.save(buffer)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'@font-face {{ font-family: "Boxes"; src: url("data:font/ttf;base64,{data}"); }}'
        '* { font-family: "Boxes" !important; font-synthesis: none; scrollbar-width: none; }'
        ".frame img, #canvas { opacity: 0; }"  # what is generated is not what is tested here
    )


@pytest.fixture(scope="module")
def studio(models: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that trains, too."""
    from tests.serving.conftest import serving

    with serving(models, trainings=Trainings(tmp_path_factory.mktemp("trained"))) as found:
        yield found


@pytest.fixture
def opened(browser: Any, studio: Site, letters: str) -> Iterator[Callable[..., Any]]:
    """Opens the studio in boxes, with an image in its gallery and one to edit."""
    contexts = []

    def open_page(**options: Any) -> Any:
        given = {"locale": "en-US", "reduced_motion": "reduce", "bypass_csp": True} | options
        contexts.append(browser.new_context(**given))
        page = contexts[-1].new_page()
        page.set_default_timeout(90_000)
        page.goto(f"http://127.0.0.1:{studio.port}/")
        page.wait_for_selector("body[data-ready]")
        page.add_style_tag(content=letters)
        page.evaluate("() => document.fonts.ready")
        page.locator("label:has(input[name=n][value='1'])").click()
        page.fill("#prompt", "a red circle")
        page.click("#panel-draw .go")
        page.wait_for_selector("#pictures[aria-busy=false] .group img")
        image = {"name": "a.png", "mimeType": "image/png", "buffer": png()}
        page.set_input_files("#edit-drop input", image)
        page.wait_for_selector("#painter:not([hidden])", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()


def show(page: Any, tab: str, language: str) -> None:
    for chosen in (f"[data-language={language}]", f"#tab-{tab}"):
        page.locator(chosen).evaluate("node => node.click()")
    page.evaluate("() => { scrollTo(0, 0); document.activeElement.blur(); }")


def test_nothing_is_cut_off_or_covered(opened: Callable[..., Any]) -> None:
    """At every width, on every tab, in both languages, with everything unfolded."""
    page = opened()
    for summary in page.locator("main summary").all():
        summary.evaluate("node => { node.parentElement.open = true; }")
    for width in (320, 390, 700, 960, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 1400})
        for language in LANGUAGES:
            for tab in TABS:
                show(page, tab, language)
                assert page.evaluate(CLIPPED) == [], (width, language, tab)
                assert page.evaluate(CROWDED) == [], (width, language, tab)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_needed_is_seen_without_scrolling(opened: Callable[..., Any], language: str) -> None:
    """On a laptop: the sentence and the button that sends it, of generating and editing."""
    page = opened(viewport={"width": 1280, "height": 850})
    for tab, needed in {
        "draw": ("#prompt", "#panel-draw .go"),
        "edit": ("#edit-prompt", "#panel-edit .go"),
    }.items():
        show(page, tab, language)
        field, button = (page.locator(one).bounding_box() for one in needed)
        assert field["y"] > 0 and field["y"] + field["height"] <= button["y"], tab
        assert button["y"] + button["height"] <= 850, tab


def test_head_and_page_have_the_same_edges_on_a_large_screen(opened: Callable[..., Any]) -> None:
    page = opened(viewport={"width": 2560, "height": 1300})
    edges = {
        name: page.locator(name).bounding_box() for name in (".bar h1", ".language", ".panels", "#pictures")
    }
    assert edges[".bar h1"]["x"] == pytest.approx(edges[".panels"]["x"], abs=1)
    right = {name: box["x"] + box["width"] for name, box in edges.items()}
    assert right[".language"] == pytest.approx(right["#pictures"], abs=1)


def blocks(page: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What is seen, grey, a value for each block of pixels."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("L")
    return np.asarray(shot.reduce(BLOCK))


def share_that_differs(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Of two arrays of blocks; 1 where their shapes differ."""
    if one.shape != other.shape:
        return 1.0
    return float((np.abs(one.astype(int) - other.astype(int)) > DIFFERENT).mean())


@pytest.mark.parametrize("width", WIDTHS)
def test_it_looks_as_in_the_stored_screenshots(
    opened: Callable[..., Any], tmp_path: Path, width: int
) -> None:
    """Each tab in both languages and both colour schemes; a button 24 pixels further down is noticed."""
    rows = []
    for scheme in SCHEMES:
        page = opened(viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme)
        for language in LANGUAGES:
            shots = []
            for tab in TABS:
                show(page, tab, language)
                shots.append(blocks(page))
            rows.append(np.concatenate(shots, axis=1))
    page.add_style_tag(content="#panel-train .field { margin-top: 24px; }")
    assert share_that_differs(blocks(page), shots[-1]) > SHARE
    found, stored = np.concatenate(rows), SCREENS / f"{width}.png"
    Image.fromarray(found).save(tmp_path / "found.png")
    if os.environ.get("COGVIEW_UPDATE_SCREENS"):
        SCREENS.mkdir(exist_ok=True)
        Image.fromarray(found).save(stored, optimize=True)
    expected = np.asarray(Image.open(stored))
    assert expected.shape == found.shape, f"compare {tmp_path / 'found.png'} with {stored}"
    height, across = found.shape[0] // 4, found.shape[1] // 4
    for row in range(4):
        for column, tab in enumerate(TABS):
            part = np.s_[row * height : (row + 1) * height, column * across : (column + 1) * across]
            differs = share_that_differs(found[part], expected[part])
            where = (tab, LANGUAGES[row % 2], SCHEMES[row // 2])
            assert differs <= SHARE, f"{where}: {differs:.1%}; compare {tmp_path / 'found.png'} with {stored}"
