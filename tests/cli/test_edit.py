"""``cogview edit``, from files to files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview.checkpoints.provenance import read
from cogview.cli.app import main
from tests.generation import tiny2


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny2.write(tmp_path_factory.mktemp("tiny2"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save("cat.png")
    mask = Image.new("L", (24, 20))
    mask.paste(255, (4, 4, 14, 12))
    mask.save("mask.png")
    Image.new("L", (20, 24)).save("other.png")
    Image.new("L", (24, 20)).save("empty.png")
    Image.new("L", (24, 20), 255).save("full.png")
    return tmp_path


def test_a_mask_and_boxes(place: Path, family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["edit", "cat.png", "a red circle", "--mask", "mask.png", "--box", "20,15,24,20", "-n", "2"]
    assert main([*words, "--seed", "7", "--model", str(family), "--grid", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pictures"] == ["out/cat-edited-7-00.png", "out/cat-edited-7-01.png"]
    masked = np.asarray(Image.open("mask.png")) > 0
    masked[15:, 20:] = True
    before = np.asarray(Image.open("cat.png"))
    for path in facts["pictures"]:
        after = np.asarray(Image.open(path))
        assert (after[~masked] == before[~masked]).all() and (after[masked] != before[masked]).any()
        made = read(path)
        assert made is not None and made.prompt == "a red circle"
    assert Path(facts["grid"]).is_file()


def test_variations(place: Path, family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", "cat.png", "--vary", "0.5", "-n", "2", "--seed", "7", "--model", str(family)]) == 0
    assert capsys.readouterr().out.split() == ["out/cat-varied-7-00.png", "out/cat-varied-7-01.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "--mask", "other.png"], "other.png has 20 x 24 pixels, the image 24 x 20"),
        (["a", "--mask", "empty.png"], "empty.png is empty"),
        (["a", "--mask", "full.png"], "full.png covers the whole image"),
        (["a", "--mask", "none.png"], "none.png"),
        (["a", "--box", "0,0,30,5"], "is not inside the image of 24 x 20"),
        (["a", "--box", "0,0,30"], "is not x0,y0,x1,y1"),
        (["a", "--vary", "0.5", "--crop", "tight"], "--crop need a mask or a box"),
        (
            ["a", "--vary", "0.5", "--order", "one_by_one", "--feather", "9"],
            "--order, --feather need a mask",
        ),
        (["a circle " * 40, "--box", "0,0,5,5"], "shorten it"),
        (["--box", "0,0,5,5"], "the prompt is empty"),
        (["a"], "say what to replace"),
        (["a", "--vary", "0.5", "--box", "0,0,5,5"], "leave out --mask and --box"),
        (["a", "--vary", "2"], "vary"),
        (["a", "--box", "0,0,5,5", "--emphasis", "1000"], "emphasis"),
    ],
)
def test_bad_input_is_one_line(
    place: Path, family: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["edit", "cat.png", *words, "--model", str(family)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_other_verbs_take_the_same_family(
    place: Path, family: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It describes, scores and sorts pictures, and draws with clusters and emphasis."""
    model = ["--model", str(family)]
    assert main(["caption", "cat.png", "--lang", "zh", "--max-length", "4", *model]) == 0
    assert main(["score", "cat.png", "--text", "a red circle", *model]) == 0
    assert (
        main(["generate", "a red circle", "--clusters", "2", "--emphasis", "1", "--seed", "1", *model]) == 0
    )
    [path] = [line for line in capsys.readouterr().out.split() if line.endswith(".png") and "out/" in line]
    made = read(Path(path))
    assert made is not None and (made.settings["clusters"], made.settings["emphasis"]) == (2, 1.0)
    assert main(["rerank", "a red circle", "cat.png", path, *model]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["upscale", "cat.png"], "cannot upscale images; take --model pictogram"),
        (["caption", "cat.png", "--lang", "fr"], "must be 'zh' or 'en'"),
        (["score", "cat.png", "--text", "a circle " * 40], "shorten it"),
        (["rerank", "a circle " * 40, "cat.png"], "shorten it"),
        (["generate", "a", "--emphasis", "1000"], "emphasis"),
        (["generate", "a", "--clusters", "-1"], "clusters"),
        (["generate", "a circle " * 40], "shorten it"),
    ],
)
def test_bad_input_of_other_verbs(
    place: Path, family: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main([*words, "--model", str(family)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
