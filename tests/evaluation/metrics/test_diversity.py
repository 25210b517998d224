"""Distances against loops, the Vendi score's closed form, and what a model's speed report says."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from cogview.checkpoints.provenance import Provenance, save_png
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.evaluation.experiments.speed import SpeedReport, timing
from cogview.evaluation.metrics.diversity import (
    DiversityPlan,
    DiversityReport,
    column,
    distances,
    evaluate_diversity,
    normalized,
    vendi,
)
from cogview.evaluation.metrics.image_sets import open_set
from cogview.evaluation.metrics.lite0 import Lite0
from tests.evaluation.toy import Pixels
from tests.generation import tiny


def test_distances_are_means_over_pairs() -> None:
    vectors = normalized(np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32))
    prompts = ["a", "b", "a", "a", "b", "c", "b"]
    within, across = distances(vectors, prompts)
    for name, found in zip("ab", within, strict=True):
        own = [v for v, prompt in zip(vectors, prompts, strict=True) if prompt == name]
        assert found == pytest.approx(np.mean([1 - x @ y for x, y in combinations(own, 2)]))
    everyone = [
        np.mean([1 - x @ y for y, other in zip(vectors, prompts, strict=True) if other != name])
        for x, name in zip(vectors, prompts, strict=True)
    ]
    assert sorted(across) == pytest.approx(sorted(everyone))


def test_the_vendi_score_counts_different_pictures() -> None:
    assert vendi(np.ones((5, 1))) == pytest.approx(1)
    assert vendi(np.eye(6)) == pytest.approx(6)
    assert vendi(np.repeat(np.eye(3), 4, axis=0)) == pytest.approx(3)  # more pictures than features
    assert vendi(np.hstack([np.repeat(np.eye(3), 4, axis=0), np.zeros((12, 90))])) == pytest.approx(3)


def test_pictures_tell_their_prompts(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for i in range(6):
        prompt = f"prompt {i // 3}"
        image = Image.new("RGB", (16, 16), ("red", "blue")[i // 3])
        image.putpixel((i, 3), tuple(chance.integers(0, 256, 3).tolist()))
        facts = Provenance(software="t", prompt=prompt, seed=i, model="m", model_hash="h")
        save_png(image, tmp_path / f"{i}.png", facts)
    plan = DiversityPlan(canvas=16, bootstrap=50)
    report = evaluate_diversity(open_set(tmp_path), Pixels(), plan, tmp_path / "work")
    assert report.within is not None and report.across is not None and report.prompts == 2
    assert report.within.high < 0.01 < 0.5 < report.across.low and report.vendi == pytest.approx(2, abs=0.1)
    one = open_set(tmp_path, count=1)
    with pytest.raises(CogViewError, match="diversity needs 2 or more"):
        evaluate_diversity(one, Pixels(), plan, tmp_path / "work")


def test_pictures_that_tell_nothing_have_a_vendi_score_only(tmp_path: Path) -> None:
    for i, colour in enumerate(("red", "blue")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{i}.png")
    save_file(Lite0().state_dict(), tmp_path / "lite0.safetensors")
    out = tmp_path / "out.json"
    line = ["eval", "diversity", str(tmp_path), "--weights", str(tmp_path / "lite0.safetensors")]
    assert main([*line, "--work", str(tmp_path / "work"), "--out", str(out)]) == 0
    report = DiversityReport.model_validate_json(out.read_bytes())
    assert report.within is None and report.across is None and 1 <= report.vendi <= 2


def test_a_corpus_tells_what_its_pictures_are_of(corpus: Path, tmp_path: Path) -> None:
    line = ["eval", "diversity", str(corpus), "--weights", str(tmp_path / "lite0.safetensors"), "-n", "6"]
    save_file(Lite0().state_dict(), tmp_path / "lite0.safetensors")
    out = tmp_path / "out.json"
    line += ["--work", str(tmp_path / "work"), "--out", str(out)]
    assert main([*line, "--prompts", "style"]) == 0
    report = DiversityReport.model_validate_json(out.read_bytes())
    styles = {style for style in column(corpus, open_set(corpus, count=6), "style")}
    assert report.prompts == len(styles) and report.pictures.count == 6 and report.within is not None


def test_a_timing_is_of_the_median_run() -> None:
    found = timing(4, 100, [(2.0, 3.0), (1.0, 1.0), (9.0, 2.0)])
    assert (found.seconds, found.fastest, found.slowest, found.processor) == (2, 1, 9, 2)
    assert found.pictures_per_minute == 120 and found.tokens_per_second == 200


def test_the_speed_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = tiny.write(tmp_path)
    line = [
        "eval",
        "speed",
        "--model",
        str(family),
        "--batches",
        "1,3",
        "--repeats",
        "2",
        "--prompt",
        "a red circle",
    ]
    assert main([*line, "--json"]) == 0
    report = SpeedReport.model_validate(json.loads(capsys.readouterr().out))
    assert [own.pictures for own in report.timings] == [1, 3] and report.tokens == 16
    assert all(own.seconds > 0 and own.fastest <= own.seconds <= own.slowest for own in report.timings)
    assert main(line) == 0 and "batch of 3" in capsys.readouterr().out
    assert main([*line, "--batches", "x"]) == 2 and "batches" in capsys.readouterr().err
