"""``cogview eval upscaling`` for a family of CogView2's kind: its numbers are those of a hand computation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from cogview import CogView2, from_pretrained
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.evaluation.experiments.two_stage_upscaling import evaluate_two_stage_upscaling
from cogview.evaluation.metrics.reconstruction import to_tensor
from cogview.evaluation.plans import UpscalingPlan
from cogview.tokenizers.perceptual import LPIPS
from tests.generation import tiny2

COUNT = 3


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny2.write(tmp_path_factory.mktemp("family"), enlarging=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((60, 60), Image.Resampling.BICUBIC).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text("a red circle", "utf-8")
    return root


@pytest.fixture(scope="module")
def judge() -> LPIPS:
    torch.manual_seed(0)
    return LPIPS("alexnet").eval()


def test_the_numbers_are_those_of_the_pictures(family: Path, folder: Path, judge: LPIPS) -> None:
    model = from_pretrained(family)
    assert isinstance(model, CogView2)
    report, ways, _ = evaluate_two_stage_upscaling(model, folder, judge, UpscalingPlan(split=None, seed=3))
    true = ways["true"]
    assert true.shape == (COUNT, 48, 48, 3) and report.facts["size"] == 48
    with torch.no_grad():
        for name in ("model", "direct", "bicubic", "ceiling"):
            expected = judge(to_tensor(ways[name]), to_tensor(true)).mean()
            assert report.overall[name].lpips == pytest.approx(float(expected), abs=1e-5)
    small = np.asarray(Image.fromarray(true[1]).resize((16, 16), Image.Resampling.BOX))
    again = np.asarray(Image.fromarray(small).resize((48, 48), Image.Resampling.BICUBIC))
    assert np.array_equal(ways["bicubic of the picture"][1], again)
    [first, *_] = report.comparisons
    assert (first.first, first.second) == ("model", "bicubic")
    gap = report.overall["model"].lpips, report.overall["bicubic"].lpips
    assert gap[0] is not None and gap[1] is not None
    assert first.difference == pytest.approx(gap[0] - gap[1], abs=1e-5)


def test_they_are_what_the_pipeline_draws(family: Path, folder: Path, judge: LPIPS) -> None:
    """The large picture from a picture's codes is the one that ``enlarge`` makes of them."""
    model = from_pretrained(family)
    assert isinstance(model, CogView2)
    [picture] = model.generate("a red circle", 1, seed=5, first_stage_only=True)
    _, ways, _ = evaluate_two_stage_upscaling(
        model, folder, judge, UpscalingPlan(split=None, limit=1, seed=5)
    )
    codes = model.captioning.image_codes(
        Image.fromarray(ways["true"][0]).resize((16, 16), Image.Resampling.BOX)
    )
    given = type(picture)(**{**vars(picture), "codes": codes})
    [large] = model.upscale([given])
    assert np.array_equal(np.asarray(large.image), ways["model"][0])


def test_orders_are_compared_with_each_other_and_with_none(family: Path, folder: Path, judge: LPIPS) -> None:
    """Each order's pictures are those it makes alone; none is the direct model, which all begin with."""
    model, plan = from_pretrained(family), UpscalingPlan(split=None, limit=2, seed=3)
    orders = ("released", "paper", "confidence")
    report, ways, _ = evaluate_two_stage_upscaling(model, folder, judge, plan, orders)
    for order in orders:
        _, alone, _ = evaluate_two_stage_upscaling(model, folder, judge, plan, (order,))
        assert np.array_equal(ways[f"model, {order}"], alone["model"])
        assert np.array_equal(ways["direct"], alone["direct"])
    assert not np.array_equal(ways["model, released"], ways["model, paper"])
    against = {own.first: own for own in report.comparisons if own.second == "direct"}
    assert list(against) == [f"model, {order}" for order in orders]
    for name, own in against.items():
        gap = report.overall[name].lpips, report.overall["direct"].lpips
        assert gap[0] is not None and gap[1] is not None
        assert own.difference == pytest.approx(gap[0] - gap[1], abs=1e-5)
    assert report.facts["order"] == "released, paper, confidence"


def test_an_overwhelming_likelihood_gives_the_codes_of_the_enlargement(
    family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, those of the direct model that stay and those that the iterative one draws again."""
    monkeypatch.setattr("cogview.pipelines.super_resolution.DECODED", 1e6)
    model = from_pretrained(family)
    assert isinstance(model, CogView2)
    [small] = model.generate("a red circle", 1, seed=5, first_stage_only=True)
    [large] = model.upscale([small])
    with torch.no_grad():
        painted = model.image_tokenizer.decode(
            torch.from_numpy(small.codes[None]), model.super_resolution.direct.format.small
        )
        plain = F.interpolate(painted.clamp(0, 1), scale_factor=3, mode="bicubic").clamp(0, 1)
        expected = model.image_tokenizer.encode(plain)[0].numpy()
    assert np.array_equal(large.codes, expected)


def test_the_command(
    family: Path, folder: Path, judge: LPIPS, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(judge.state_dict(), tmp_path / "lpips.safetensors")
    words = ["eval", "upscaling", "--data", str(folder), "--model", str(family), "--split", "", "-n", "2"]
    words += ["--lpips", str(tmp_path / "lpips.safetensors"), "--network", "alexnet"]
    assert main([*words, "--json", "--sheet", str(tmp_path / "sheet.png")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["overall"]) >= {"model", "direct", "bicubic", "lanczos", "ceiling"}
    assert (tmp_path / "sheet.png").is_file()
    assert main([*words, "--temperature", "0.5"]) == 2
    assert "--temperature: families" in capsys.readouterr().err


def test_a_family_that_does_not_enlarge_is_refused(folder: Path, judge: LPIPS, tmp_path: Path) -> None:
    model = from_pretrained(tiny2.write(tmp_path))
    assert isinstance(model, CogView2)
    with pytest.raises(CogViewError, match="does not upscale"):
        evaluate_two_stage_upscaling(model, folder, judge)
