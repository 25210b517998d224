"""The table of everyday prompts: each once, drawn with seed 0, where the marks say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview import from_pretrained
from cogview.errors import CogViewError
from tests.generation import tiny

ROOT = Path(__file__).parents[2] / "examples" / "pictogram"
if not ROOT.is_dir():
    pytest.skip("the examples are not here", allow_module_level=True)
sys.path.insert(0, str(ROOT))

import gallery  # noqa: E402

sys.path.remove(str(ROOT))
HAN = re.compile("[\u4e00-\u9fff]")


def test_sixty_prompts_half_in_each_language() -> None:
    prompts = gallery.read_prompts()
    assert len({prompt for prompt, _ in prompts}) == 60
    assert sum(bool(HAN.search(prompt)) for prompt, _ in prompts) in range(27, 34)
    assert all(bool(HAN.search(prompt)) != bool(HAN.search(other)) for prompt, other in prompts)


def test_the_table_shows_what_the_model_draws_with_seed_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, page = tiny.write(tmp_path / "model"), tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"before\n{gallery.MARKS[0]}\nold\n{gallery.MARKS[1]}\nafter\n", "utf-8")
    prompts = [("red", "红色"), ("蓝色", "blue"), ("a red circle", "圆")]
    monkeypatch.setattr(gallery, "read_prompts", lambda: prompts)
    monkeypatch.setattr(gallery, "COLUMNS", 2)
    images = tmp_path / "images"
    words = ["gallery.py", str(page), "--model", str(family), "--images", str(images), "--size", "16"]
    monkeypatch.setattr(sys, "argv", words)
    gallery.main()
    gallery.main()  # again: the same
    text = page.read_text("utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert re.findall(r"!\[(.*?)\]\((.*?)\)", text) == [
        (prompt, f"../images/{number:02d}.webp") for number, (prompt, _) in enumerate(prompts, 1)
    ]
    made = from_pretrained(family).generate([prompt for prompt, _ in prompts], seed=0)
    true = [np.asarray(one.image.convert("RGB"), dtype=float) for one in made]
    for number, own in enumerate(true, 1):
        shown = np.asarray(Image.open(images / f"{number:02d}.webp"), dtype=float)
        distances = [float(np.square(shown - one).mean()) for one in true]
        assert np.argmin(distances) == number - 1 and np.corrcoef(shown.ravel(), own.ravel())[0, 1] > 0.5


def test_a_file_without_marks_is_refused_before_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.md").write_text("nothing", "utf-8")
    monkeypatch.setattr(sys, "argv", ["gallery.py", str(tmp_path / "page.md"), "--model", "no-such-model"])
    with pytest.raises(CogViewError, match="has no <!-- everyday: begin -->"):
        gallery.main()
