"""``cogview eval upscaling`` on a tiny real family: its numbers are those of a computation by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cogview import CogView
from cogview.cli.app import main
from cogview.evaluation.experiments.windowed_upscaling import (
    CODES,
    MODEL,
    UpscalingReport,
    compare,
    evaluate_upscaling,
    held_out,
)
from cogview.evaluation.metrics.reconstruction import Errors, to_tensor
from cogview.evaluation.plans import UpscalingPlan
from cogview.generation.image_upscaling import Original, Request
from cogview.tokenizers.perceptual import LPIPS
from tests.generation import tiny

COUNT = 5


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("family"), upscaling=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures with captions and a broken one."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((40, 32), Image.Resampling.BICUBIC).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text("a red circle", "utf-8")
    (root / "9.png").write_bytes(b"broken")
    (root / "9.txt").write_text("nothing", "utf-8")
    return root


@pytest.fixture(scope="module")
def judge() -> LPIPS:
    torch.manual_seed(0)
    return LPIPS("alexnet").eval()


def test_the_numbers_are_those_of_the_pictures(family: Path, folder: Path, judge: LPIPS) -> None:
    model = CogView.from_pretrained(family)
    plan = UpscalingPlan(split=None, limit=None, seed=3)
    report, ways, sources = evaluate_upscaling(model, folder, judge, plan)
    large = ways["true"]
    assert large.shape == (COUNT, 32, 32, 3) and report.skipped == {"not an image": 1}
    small = [Image.fromarray(pixels).resize((16, 16), Image.Resampling.BOX) for pixels in large]
    expected = [np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)) for image in small]
    assert np.array_equal(ways["bicubic"], expected)
    with torch.no_grad():
        distance = judge(to_tensor(large), to_tensor(np.stack(expected))).mean()
        copies = model.image_tokenizer.decode(model.image_tokenizer.encode(to_tensor(large)), (8, 8)).clamp(
            0, 1
        )
    assert report.overall["bicubic"].lpips == pytest.approx(float(distance), rel=1e-4)
    assert np.abs(ways["ceiling, from codes"] / 255 - copies.permute(0, 2, 3, 1).numpy()).max() < 0.003
    drawn = model.upscale(small, "a red circle", seed=3)
    assert np.array_equal(ways[MODEL][0], np.asarray(drawn[0].image))  # the others have streams of their own
    known = Original(
        model.image_tokenizer.encode(to_tensor(np.asarray(small[0])[None])).reshape(4, 4).numpy()
    )
    request = Request(known, model.text_to_image.encode("a red circle"), 3, 0)
    coded = next(
        iter(model.super_resolution.upscaler.run([request], 2, model.bundle.config.sampling("upscale")))
    )[2]
    assert np.array_equal(ways[CODES][0], np.asarray(coded))
    assert set(report.by_source) == set(sources) and len(sources) == COUNT
    pair = report.comparisons[0]
    assert (pair.first, pair.second) == (MODEL, "bicubic")
    gap = (report.overall[MODEL].lpips or 0) - (report.overall["bicubic"].lpips or 0)
    assert pair.difference == pytest.approx(gap) and pair.low < gap < pair.high


def test_comparisons_are_made_picture_by_picture() -> None:
    values = {"a": [0.1, 0.2, 0.3, 0.2], "b": [0.2, 0.1, 0.5, 0.4]}
    zero = np.zeros(4)
    errors = {name: Errors(zero, zero, np.array(lpips)) for name, lpips in values.items()}
    found = compare(errors, "a", "b")
    half = 1.96 * np.std([-0.1, 0.1, -0.2, -0.2], ddof=1) / 2
    assert (found.difference, found.wins) == (pytest.approx(-0.1), 0.75)
    assert (found.low, found.high) == (pytest.approx(-0.1 - half), pytest.approx(-0.1 + half))


def test_pictures_are_evenly_spaced_and_have_their_captions(folder: Path) -> None:
    pictures, captions = held_out(folder, UpscalingPlan(split=None, limit=3), 16)
    assert len(pictures.pixels) == len(captions) == 3 and set(captions) == {"a red circle"}


def test_as_it_is_typed(
    family: Path, folder: Path, judge: LPIPS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(judge.state_dict(), tmp_path / "lpips.safetensors")
    words = ["eval", "upscaling", "--model", str(family), "--data", str(folder), "--split", ""]
    more = ["--lpips", str(tmp_path / "lpips.safetensors"), "--network", "alexnet"]
    out, sheet = tmp_path / "sr.json", tmp_path / "sr.png"
    given = ["-n", "4", "--out", str(out), "--sheet", str(sheet), "--shown", "2", "--top-k", "3"]
    assert main([*words, *more, *given]) == 0
    report = UpscalingReport.model_validate_json(out.read_bytes())
    assert report.facts["top_k"] == 3 and report.facts["network"] == "alexnet"
    printed = capsys.readouterr().out
    assert f"{report.overall['bicubic'].lpips:.4f}" in printed and "lower on" in printed
    with Image.open(sheet) as page:
        assert page.width == 2 * (32 + 2) + 2
    for wrong, message in (
        ([*words, "--lpips", str(folder / "0.png")], "LPIPS weights"),
        ([*words, *more, "--resample", "nearest"], "--resample"),
        ([*words, *more, "--split", "test"], "no readable image of split 'test'"),
        ([*words, *more, "--model", str(tiny.write(tmp_path))], "it has base, no super_resolution"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
    assert json.loads(out.read_text())["overall"][MODEL]["pictures"] == 4
