"""The cookbook's pages run as they stand; their results are what they say (``docs/cookbook/checks.yaml``).

Trainings take three steps here, and what only a whole training gives is left out; with
``COGVIEW_COOKBOOK=whole`` they are whole, which takes an hour of a core. The packaged models generate.
"""

from __future__ import annotations

import colorsys
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from cogview import CogView
from cogview.pipelines.background import ground_colour
from tests import test_readme
from tests.test_readme import ROOT, run_page

COOKBOOK = ROOT / "docs" / "cookbook"
CHECKS: dict[str, list[dict[str, Any]]] = yaml.safe_load((COOKBOOK / "checks.yaml").read_text("utf-8"))
WHOLE = os.environ.get("COGVIEW_COOKBOOK") == "whole"
HUES = {  # degrees; the middle of what people call so
    "red": 0, "yellow": 48, "green": 120, "teal": 175, "blue": 220, "purple": 280, "pink": 325,
}  # fmt: skip
Pixels = NDArray[np.uint8]


def files(pattern: str) -> list[Path]:
    found = sorted(Path().glob(pattern))
    assert found, pattern
    return found


def pixels(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


def called(colour: tuple[int, int, int]) -> str:
    """The name of a colour: white, grey, black, or that of the nearest hue."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in colour))
    if lightness > 0.93:
        return "white"
    if saturation < 0.15 or lightness < 0.08:
        return "black" if lightness < 0.2 else "grey"
    return min(HUES, key=lambda name: abs((360 * hue - HUES[name] + 180) % 360 - 180))


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((220, 30, 40), "red"), ((245, 190, 20), "yellow"), ((40, 160, 70), "green"),
        ((15, 118, 110), "teal"), ((30, 80, 220), "blue"), ((255, 255, 255), "white"),
        ((20, 20, 20), "black"), ((128, 128, 128), "grey"),
    ],
)  # fmt: skip
def test_colours_have_the_names_that_people_give_them(colour: tuple[int, int, int], name: str) -> None:
    assert called(colour) == name


def ground(path: Path) -> str:
    found = ground_colour(Image.open(path))
    return "uneven" if found is None else called(found)


def main_colour(path: Path) -> str:
    """The commonest hue beside white, grey and black; ``none`` where there is no other."""
    small = np.asarray(Image.open(path).convert("RGB").resize((24, 24))).reshape(-1, 3)
    names = Counter(called((int(r), int(g), int(b))) for r, g, b in small)
    hues = [(count, name) for name, count in names.items() if name in HUES]
    return max(hues)[1] if hues else "none"


# ------------------------------------------------------------------------------------------ what is looked at


def check_made(check: dict[str, Any]) -> None:
    """So many images of that size, none of one colour."""
    found = files(check["made"])
    assert len(found) == check["count"], found
    for path in found:
        assert list(Image.open(path).size) == check["size"], path
        assert len(np.unique(pixels(path).reshape(-1, 3), axis=0)) > 1, path


def check_ground(check: dict[str, Any]) -> None:
    """Most images have the ground that their name, or the check, says."""
    wanted = []
    for colour in check.get("colours", [check["ground"]]):
        pattern = check["files"].replace("{colour}", colour)
        wanted += [
            (path, check["ground"].replace("{colour}", colour)) for path in sorted(Path().glob(pattern))
        ]
    right = [ground(path) == colour for path, colour in wanted]
    assert wanted and np.mean(right) >= check["share"], [(path.name, ground(path)) for path, _ in wanted]


def check_colour(check: dict[str, Any]) -> None:
    """What is most of most images beside the ground."""
    found = {path.name: main_colour(path) for path in files(check["files"])}
    assert np.mean([name == check["colour"] for name in found.values()]) >= check["share"], found


def check_transparent(check: dict[str, Any]) -> None:
    """The corners are transparent, and neither everything nor nothing is."""
    for path in sorted(Path().glob(check["transparent"])):
        alpha = np.asarray(Image.open(path).convert("RGBA"))[..., 3]
        assert (alpha[[0, 0, -1, -1], [0, -1, 0, -1]] == 0).sum() >= 3, path
        assert 0.02 < (alpha > 127).mean() < 0.98, path


def check_seamless(check: dict[str, Any]) -> None:
    """Opposite edges are the same."""
    for path in files(check["seamless"]):
        tile = pixels(path)
        assert (tile[0] == tile[-1]).all() and (tile[:, 0] == tile[:, -1]).all(), path


def check_reads(check: dict[str, Any]) -> None:
    """The model's own captions of the images, in English, have one of the words."""
    model = CogView.from_pretrained("pictogram")
    captions = model.caption(list(check["reads"]), n=2, language="en")
    texts = [" ".join(one.text for one in own) for own in captions]
    right = [
        any(word in text for word in words)
        for text, words in zip(texts, check["reads"].values(), strict=True)
    ]
    assert np.mean(right) >= check["share"], texts


def check_text(check: dict[str, Any]) -> None:
    [path] = files(check["text"])
    text = path.read_text("utf-8")
    assert [word for word in check["has"] if word not in text] == []


def check_unchanged(check: dict[str, Any]) -> None:
    """Outside of the box nothing, inside something has changed."""
    before, after = (files(pattern) for pattern in check["unchanged"])
    left, top, right, bottom = check["box"]
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        differs = (pixels(one) != pixels(other)).any(-1)
        assert differs[top:bottom, left:right].mean() > 0.2, other
        differs[top:bottom, left:right] = False
        assert not differs.any(), other


def check_shrinks_to(check: dict[str, Any]) -> None:
    """Shrunk, they are what was given, to this PSNR in decibels."""
    large, small = (files(pattern) for pattern in check["shrinks_to"])
    for one, other in zip(large, small, strict=True):
        given = pixels(other).astype(float)
        size = (given.shape[1], given.shape[0])
        shrunk = np.asarray(Image.open(one).convert("RGB").resize(size, Image.Resampling.BOX), float)
        error = ((shrunk - given) ** 2).mean()
        assert 10 * np.log10(255**2 / max(error, 1e-9)) >= check["decibels"], one


KINDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "made": check_made, "ground": check_ground, "colour": check_colour, "transparent": check_transparent,
    "seamless": check_seamless, "reads": check_reads, "text": check_text, "unchanged": check_unchanged,
    "shrinks_to": check_shrinks_to,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- the pages


def test_every_page_is_listed_and_has_its_checks() -> None:
    pages = {path.stem for path in COOKBOOK.glob("*.md")} - {"index"}
    index = (COOKBOOK / "index.md").read_text("utf-8")
    assert pages == set(CHECKS) == set(re.findall(r"\]\(([\w-]+)\.md\)", index)) and len(pages) == 10
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert all(f"cookbook/{page}.md" in navigation for page in [*pages, "index"])


@pytest.mark.slow
@pytest.mark.parametrize("page", CHECKS)
def test_a_page_gives_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    if WHOLE:
        monkeypatch.setattr(test_readme, "smaller", lambda words: [])
    run_page(COOKBOOK / f"{page}.md", capsys)
    for check in CHECKS[page]:
        if WHOLE or not check.get("trained"):
            KINDS[next(kind for kind in KINDS if kind in check)](check)
