"""The page: what is written, what a browser keeps, files with provenance, a model that fails to load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview.checkpoints.bundle import ModelBundle
from cogview.checkpoints.provenance import Provenance, png_bytes, read
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.exporters.onnx_family import export_family
from cogview.page import writing
from cogview.web.sockets import THEME
from tests.generation import tiny


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a tiny family, the files of its runtime empty."""
    place = tmp_path_factory.mktemp("site")
    shutil.copytree(writing.STATIC, place / "site")
    shutil.copyfile(THEME, place / "site" / "theme.css")
    manifest = export_family(ModelBundle(tiny.write(place)), place / "site" / "model", "int8")
    (place / "site" / "runtime").mkdir()
    for name in writing.RUNTIME:
        (place / "site" / "runtime" / name).touch()
    index = writing.page_index(place / "site", manifest)
    (place / "site" / writing.INDEX).write_text(json.dumps(index))
    return place / "site"


def test_a_browser_keeps_what_it_needs(site: Path) -> None:
    index = json.loads((site / writing.INDEX).read_text())
    kept = set(index["keep"])
    assert {"./", "index.html", "worker.js", "model.js", "theme.css", "files.json"} <= kept
    assert {"model/manifest.json", "model/base/weights.bin", "model/image/decoder.bin"} <= kept
    assert "sw.js" not in kept and "model/image/encoder.bin" not in kept
    assert not any(name.startswith("runtime/") for name in kept)  # the page says which one it uses
    assert all((site / name).exists() for name in kept)
    assert index["model"] == sum((site / name).stat().st_size for name in kept if name.startswith("model/"))
    assert (index["weights"], index["words"]) == ("int8", False)


LABELLED = """async ([png, facts, labels]) => {
    const { addProvenance } = await import("/png.js");
    const made = await addProvenance(Uint8Array.from(png), facts, labels);
    return [...new Uint8Array(await made.arrayBuffer())];
}"""


def test_files_say_what_made_them(
    site: Path, browser: Any, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    index = json.loads((site / writing.INDEX).read_text())
    facts = {
        "software": index["software"],
        "prompt": '<红> & "苹果" $&',
        "seed": 2**40,
        "index": 3,
        "model": "tiny",
        "model_hash": "0123456789abcdef",
        "settings": {"guidance": 2.5, "style": None},
    }
    page = browser.new_page()
    page.goto(f"{serve(site)}/package.json")
    content = page.evaluate(LABELLED, [list((tmp_path / "plain.png").read_bytes()), facts, index["labels"]])
    (tmp_path / "made.png").write_bytes(bytes(content))
    assert read(tmp_path / "made.png") == Provenance.model_validate(facts)
    expected = tmp_path / "expected.png"
    expected.write_bytes(png_bytes(Image.fromarray(pixels), Provenance.model_validate(facts)))
    with Image.open(tmp_path / "made.png") as made, Image.open(expected) as other:
        assert (np.asarray(made) == pixels).all()
        assert set(made.info) == set(other.info)
        found, wanted = (json.loads(one.info["AIGC"]) for one in (made, other))
        assert found | {"ProduceID": ""} == wanted | {"ProduceID": ""} and len(found["ProduceID"]) == 32
        xmp = made.info["XML:com.adobe.xmp"].replace(found["ProduceID"], wanted["ProduceID"])
        assert xmp == other.info["XML:com.adobe.xmp"]


def test_a_model_that_fails_to_load(site: Path, browser: Any, serve: Callable[[Path], str]) -> None:
    page = browser.new_context(locale="zh-CN").new_page()
    page.goto(serve(site))
    page.wait_for_selector("#problem:visible")
    assert "模型加载失败" in page.inner_text("#problem")
    assert page.locator("#generate").is_disabled()
    page.click("[data-language=en]")
    assert page.inner_text("#generate") == "Generate"
    assert page.evaluate("document.documentElement.lang") == "en"
    for width in (320, 1280):  # nothing is wider than the screen
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_another_runtime_is_refused(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = str(tiny.write(tmp_path))
    for runtime, told in ((site / "runtime", "is not that of onnxruntime-web"), (tmp_path, "npm install")):
        words = ["page", str(tmp_path / "out"), "--model", family, "--runtime", str(runtime)]
        assert main(words) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(CogViewError, match="exists already"):
        writing.write_page(ModelBundle(family), tmp_path)


def test_it_has_the_roles_that_it_uses(runtime: Path, tmp_path: Path) -> None:
    """Super-resolution, which the page lacks, stays out of the folder."""
    family = tiny.write(tmp_path, upscaling=True, editing=True, enlarging=True)
    writing.write_page(ModelBundle(family), tmp_path / "site", runtime=runtime)
    manifest = json.loads((tmp_path / "site" / "model" / "manifest.json").read_text())
    assert set(manifest["transformers"]) == {"base", "coglm"}
    assert set(manifest["tasks"]) == {"generate", "caption", "score", "edit"}
    folders = {path.name for path in (tmp_path / "site" / "model").iterdir() if path.is_dir()}
    assert folders == {"base", "coglm", "image"}
    with pytest.raises(CogViewError, match="no role that can be exported"):
        export_family(ModelBundle(family), tmp_path / "none", only=("caption",))
