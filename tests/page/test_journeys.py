"""The page in a real browser with the real runtime: what people do with it, on computers and phones.

Screenshots of every journey are left in the folder that COGVIEW_SCREENSHOTS names.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview.checkpoints.bundle import ModelBundle
from cogview.checkpoints.prompt_help import FILE as WORDS
from cogview.checkpoints.provenance import read
from cogview.onnx import OnnxModel, load
from cogview.page.writing import write_page
from tests.generation import tiny, tiny2
from tests.onnx.test_own_models import default_shape
from tests.page.conftest import CHROMIUM

ROOT = Path(__file__).parents[2]
WAIT = 60_000  # milliseconds
READY = "#generate:enabled"
FINISHED = "#row li:not(.unfinished)"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, runtime: Path) -> dict[str, Path]:
    """Pages of three families: one that captions and helps with prompts, with weights of a byte as well, a
    CogLM, and the next default model's shape."""
    place = tmp_path_factory.mktemp("sites")
    one = tiny.write(place / "one", captioning=True)
    (one / WORDS).write_bytes((ROOT / "examples" / "pictogram" / WORDS).read_bytes())
    families = {"one": one, "two": tiny2.write(place / "two"), "shape": default_shape(place / "shape")}
    for name, family in families.items():
        write_page(ModelBundle(family), place / f"site-{name}", "fp32", runtime)
    write_page(ModelBundle(one), place / "site-int8", "int8", runtime)
    return {name: place / f"site-{name}" for name in (*families, "int8")}


@pytest.fixture
def visit(browser: Any, serve: Callable[[Path], str], sites: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Opens a page in a context of its own; nothing may go wrong in it that it does not say."""
    contexts, wrong = list[Any](), list[str]()

    def opened(name: str = "one", query: str = "", address: str | None = None, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.goto((address or serve(sites[name])) + query)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [line for line in wrong if "example.org" not in line] == []


def shot(page: Any, name: str) -> None:
    """A screenshot, where somebody wants to look at it."""
    if "COGVIEW_SCREENSHOTS" in os.environ:
        page.screenshot(path=str(Path(os.environ["COGVIEW_SCREENSHOTS"]) / f"{name}.png"), full_page=True)


def until(page: Any, condition: str) -> None:
    """Waits until an expression in JavaScript is true; the page's policy forbids Playwright's own way."""
    end = time.monotonic() + WAIT / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.1)


def finished(page: Any, count: int) -> None:
    """Waits until the gallery has this many images."""
    until(page, f"document.querySelectorAll('{FINISHED}').length === {count}")


def asked(page: Any, prompt: str, seed: int = 7, number: int = 1, best: int = 1) -> None:
    """Fill the form in and send it."""
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    page.select_option("#number", str(number))
    if best > 1:
        page.select_option("#best", str(best))
    page.click("#generate")


def downloaded(page: Any, place: Path, number: int = 0) -> Path:
    """The file of an image; those of the last prompt stand first."""
    with page.expect_download() as found:
        page.locator(f"{FINISHED} a[download]").nth(number).click()
    path = place / found.value.suggested_filename
    found.value.save_as(path)
    return path


def same(path: Path, model: OnnxModel, prompt: str, seed: int, index: int) -> None:
    """A downloaded file shows what Python generates, and says what made it."""
    expected = model.generate(prompt, seed=seed, first=index)[0]
    with Image.open(path) as image:
        apart = np.asarray(image.convert("RGB"), dtype=int) - np.asarray(expected.image, dtype=int)
        assert '"Label":"1"' in image.info["AIGC"].replace(" ", "")
    assert np.abs(apart).max() <= 1
    told = read(path)
    assert told is not None
    assert (told.prompt, told.seed, told.index) == (prompt, seed, index)
    assert told.model_hash == model.exported.manifest.model_hash


def test_first_load_and_images_in_both_languages(
    visit: Callable[..., Any], sites: dict[str, Path], tmp_path: Path
) -> None:
    page, model = visit(), load(sites["one"] / "model", 1)
    page.wait_for_selector(READY)
    assert page.inner_text("#status") == "Ready" and "one thread" in page.inner_text("#about")
    shot(page, "first-load")
    asked(page, "a red circle", number=2)
    finished(page, 2)
    assert page.inner_text("#status") == "2 ready"
    for index in (0, 1):
        same(downloaded(page, tmp_path, index), model, "a red circle", 7, index)
    page.click("[data-language=zh]")
    assert page.inner_text("#generate") == "生成" and page.inner_text("#status") == "生成了 2 张"
    asked(page, "蓝色的方块", seed=8)
    finished(page, 3)
    same(downloaded(page, tmp_path), model, "蓝色的方块", 8, 0)
    shot(page, "chinese")
    page.reload()  # images stay, and so does the language
    finished(page, 3)
    assert page.inner_text("#generate") == "生成"
    page.locator(f"{FINISHED} button[data-text=remove]").first.click()
    finished(page, 2)
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#clear")
    page.wait_for_selector("#empty:visible")
    page.reload()
    page.wait_for_selector("#empty:visible")


def test_captions_best_of_several_and_help(
    visit: Callable[..., Any], sites: dict[str, Path], tmp_path: Path
) -> None:
    page, model = visit(), load(sites["one"] / "model", 1)
    page.wait_for_selector(READY)
    asked(page, "a red circle", best=4)
    page.wait_for_selector(FINISHED)
    path = downloaded(page, tmp_path)
    best = model.generate("a red circle", seed=7, best_of=4)[0]
    same(path, model, "a red circle", 7, best.index)
    told = read(path)
    assert told is not None and told.settings["best_of"]["of"] == 4  # type: ignore[index]
    loss = told.settings["best_of"]["caption_loss"]  # type: ignore[index]
    assert loss == pytest.approx(best.settings["best_of"]["caption_loss"], rel=1e-3)

    expected = [one.text for one in model.caption(best, n=3, language="en", beams=4)[0] if one.text]
    page.locator(f"{FINISHED} button[data-text=describe]").first.click()
    page.wait_for_selector("#row .captions .chip")
    assert page.locator("#row .captions .chip").all_inner_texts() == [
        re.sub(r"\s+", " ", text).strip() for text in expected
    ]
    page.set_input_files("#picture", str(path))
    page.wait_for_selector("#captions .chip")
    shot(page, "captions")
    chosen = page.locator("#captions .chip").first
    words = chosen.inner_text()
    chosen.click()
    assert re.sub(r"\s+", " ", page.input_value("#prompt")).strip() == words
    (tmp_path / "no.png").write_text("not an image")
    page.set_input_files("#picture", str(tmp_path / "no.png"))
    until(page, "document.querySelector('#captions').innerText.includes('as an image')")

    page.fill("#prompt", "a red kayak")
    page.wait_for_selector("#help:visible")
    assert "never learnt “kayak”" in page.inner_text("#help")
    shot(page, "help")
    page.locator("#help .chip").first.click()
    assert page.input_value("#prompt").startswith("a red ") and page.locator("#help").is_hidden()


def test_a_coglm_generates_by_clusters_and_describes(
    visit: Callable[..., Any], sites: dict[str, Path], tmp_path: Path
) -> None:
    page, model = visit("two", locale="zh-CN"), load(sites["two"] / "model", 1)
    page.wait_for_selector(READY)
    asked(page, "红色的圆", seed=3)
    page.wait_for_selector(FINISHED)
    same(downloaded(page, tmp_path), model, "红色的圆", 3, 0)
    image = model.generate("红色的圆", seed=3)[0]
    page.locator(f"{FINISHED} button[data-text=describe]").first.click()
    page.wait_for_selector("#row .captions > *:not(.quiet)")
    expected = [one.text for one in model.caption(image, n=3, language="zh", beams=4)[0] if one.text]
    found = page.locator("#row .captions .chip").all_inner_texts()
    assert found == [re.sub(r"\s+", " ", text).strip() for text in expected]


def test_stop(visit: Callable[..., Any]) -> None:
    page = visit("shape")
    page.wait_for_selector(READY)
    asked(page, "a red circle", number=8)
    page.wait_for_selector("#row img:visible")  # images appear while they are generated
    shot(page, "while-it-generates")
    page.click("#stop")
    until(page, "document.querySelector('#row .unfinished') === null")
    assert page.locator(FINISHED).count() < 8
    assert page.inner_text("#status") == "Stopped" and page.locator("#stop").is_hidden()
    asked(page, "a red circle")
    before = page.locator(FINISHED).count()
    until(page, f"document.querySelectorAll('{FINISHED}').length > {before}")


def test_reload_without_a_connection(visit: Callable[..., Any]) -> None:
    page = visit()
    page.wait_for_selector(READY)
    page.evaluate("navigator.serviceWorker.ready")
    used = """async () => {
        const [name] = await caches.keys(), kept = await (await caches.open(name)).keys();
        return kept.some(({ url }) => url.endsWith(".wasm"));
    }"""
    until(page, used)
    page.context.set_offline(True)
    page.reload()
    page.wait_for_selector(READY)
    assert page.evaluate("crossOriginIsolated")  # by the service worker: threads
    asked(page, "a red circle")
    page.wait_for_selector(FINISHED)
    shot(page, "offline")


def test_a_phone(visit: Callable[..., Any]) -> None:
    phone = {"viewport": {"width": 360, "height": 780}, "has_touch": True, "is_mobile": True}
    page = visit(locale="zh-CN", color_scheme="dark", **phone)
    page.wait_for_selector(READY)
    asked(page, "红色的圆", number=2)
    finished(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = """[...document.querySelectorAll('button, a.button, select, textarea, .drop')]
        .filter((one) => one.offsetParent && one.getBoundingClientRect().height < 32)
        .map((one) => one.outerHTML)"""
    assert page.evaluate(small) == []  # large enough for fingers
    shot(page, "phone-dark")


def test_in_a_tab_in_the_background(visit: Callable[..., Any]) -> None:
    page = visit("shape")
    page.wait_for_selector(READY)
    asked(page, "a red circle", number=2)
    other = page.context.new_page()
    other.goto("about:blank")
    other.bring_to_front()
    finished(page, 2)
    assert page.inner_text("#status") == "2 ready"


def test_without_threads_and_service_workers(visit: Callable[..., Any]) -> None:
    page = visit(service_workers="block")
    page.wait_for_selector(READY)
    assert not page.evaluate("crossOriginIsolated")
    page.reload()
    page.wait_for_selector(READY)
    assert "one thread" in page.inner_text("#about")
    asked(page, "a red circle")
    page.wait_for_selector(FINISHED)


SOFTWARE_GPU = (
    "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan",
    "--use-vulkan=swiftshader", "--ignore-gpu-blocklist",
)  # fmt: skip
ADAPTER = """async (feature) => {
    const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
    return Boolean(adapter && (!feature || adapter.features.has(feature)));
}"""


def test_a_gpu_and_one_that_fails(browser: Any, serve: Callable[[Path], str], sites: dict[str, Path]) -> None:
    """On a GPU that the processor pretends to be, which lacks the half precision of a small codebook."""
    started = browser.browser_type.launch(
        executable_path=CHROMIUM, args=["--no-sandbox", *SOFTWARE_GPU], timeout=180_000
    )
    page = started.new_page()
    page.set_default_timeout(2 * WAIT)
    for name, feature in (("one", ""), ("int8", "shader-f16")):
        page.goto(f"{serve(sites[name])}/?runtime=webgpu")
        page.wait_for_selector(READY)  # an image was decoded
        way = "WebGPU" if page.evaluate(ADAPTER, feature) else "one thread"
        assert way in page.inner_text("#about")
    asked(page, "a red circle")
    page.wait_for_selector(FINISHED)
    started.close()


def test_nothing_comes_from_elsewhere(
    visit: Callable[..., Any], serve: Callable[[Path], str], sites: dict[str, Path]
) -> None:
    address, elsewhere = serve(sites["one"]), list[str]()
    page = visit(address=address)
    page.context.on("request", lambda one: elsewhere.append(one.url))
    page.reload()
    page.wait_for_selector(READY)
    asked(page, "a red circle")
    page.wait_for_selector(FINISHED)
    assert [url for url in elsewhere if not url.startswith((address, f"blob:{address}"))] == []
    refused = """async () => {
        const refusal = new Promise((hear) => document.addEventListener("securitypolicyviolation", hear));
        document.body.append(Object.assign(new Image(), { src: "https://example.org/a.png" }));
        return (await refusal).effectiveDirective;
    }"""
    assert page.evaluate(refused) == "img-src"


MODEL = """async ([prompts, seeds]) => {
    const { Model } = await import("/model.js"), ort = await import("/runtime/ort.wasm.min.mjs");
    ort.env.wasm.numThreads = 1;
    const load = async (name) => new Uint8Array(await (await fetch(`/model/${name}`)).arrayBuffer());
    const model = await Model.open(ort, load, { executionProviders: ["wasm"], logSeverityLevel: 3 });
    const captions = await model.captions(), made = [];
    for (const seed of seeds) {
        const prompt = prompts[seed % prompts.length];
        const codes = await model.generate(prompt, { seed, jacobi: seed % 2 === 0 });
        made.push([[...codes], await captions.loss(codes, prompt)]);
    }
    return made;
}"""


@pytest.mark.parametrize("name", ["one", "two"])
def test_codes_and_scores_are_pythons(visit: Callable[..., Any], sites: dict[str, Path], name: str) -> None:
    page, model, prompts = visit(name), load(sites[name] / "model", 1), ["a red circle", "蓝色的方块"]
    found = page.evaluate(MODEL, [prompts, list(range(12))])
    for seed, (codes, loss) in enumerate(found):
        image = model.generate(prompts[seed % 2], seed=seed)[0]
        assert codes == image.codes.tolist()
        assert loss == pytest.approx(model.score(image, prompts[seed % 2])[0, 0], rel=1e-4)
