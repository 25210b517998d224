"""The COCO recipe end to end on a small set in COCO's format, drawn by a tiny real family."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cogview import CogView, from_pretrained
from cogview.checkpoints.provenance import read as read_provenance
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.evaluation.experiments.coco import (
    CocoFiles,
    CocoReport,
    caption_losses,
    evaluate_coco,
    read_captions,
    select,
    translated,
)
from cogview.evaluation.experiments.coco_table import CocoTable
from cogview.evaluation.metrics.comparison import read_reports
from cogview.evaluation.metrics.fid import DistributionPlan
from cogview.evaluation.metrics.lite0 import Lite0
from cogview.evaluation.plans import PROTOCOLS, CocoPlan
from cogview.evaluation.reports import write_report
from cogview.tokenizers.language_classes import is_chinese
from tests.evaluation.toy import Pixels
from tests.generation import tiny, tiny2

PICTURES, EACH = 6, 3


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of several sizes and shapes, three captions each, keys as COCO has them."""
    root, chance = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    (root / "val").mkdir()
    images, annotations = [], []
    for i in range(PICTURES):
        pixels = chance.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val" / f"COCO_{i:012d}.jpg")
        images.append({"id": 100 + i, "file_name": f"COCO_{i:012d}.jpg", "height": 20, "license": 3})
        for k in range(EACH):
            text = f"a {('red', 'blue')[i % 2]} {('circle', 'square', 'thing')[k]}\n"
            annotations.append({"id": 7 * (EACH * i + k) % 97, "image_id": 100 + i, "caption": text})
    content = {"info": {"year": 2014}, "licenses": [], "images": images, "annotations": annotations}
    (root / "captions.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("family"), captioning=True)


@pytest.fixture(scope="module")
def model(family: Path) -> CogView:
    return CogView.from_pretrained(family)


FIGURES = DistributionPlan(
    metrics=("fid", "kid", "is"), blurs=(0, 2), canvas=16, subsets=3, subset_size=4, splits=1, bootstrap=8
)
PLAN = CocoPlan(count=5, best_of=3, losses=4, seed=2)


def run(plan: CocoPlan, coco: Path, model: CogView, work: Path, rank: tuple[int, int] = (0, 1)) -> Any:
    return evaluate_coco(
        plan, CocoFiles(coco / "captions.json", coco / "val"), model, Pixels(), work, FIGURES, rank
    )


def test_the_papers_settings() -> None:
    assert PROTOCOLS["cogview"] == {"distinct": False, "best_of": 60, "contrast": 1.5}
    assert PROTOCOLS["cogview2"] == {"distinct": True, "best_of": 16, "contrast": 1.0}
    assert CocoPlan().count == 30_000 and CocoPlan().losses == 5_000


def test_captions_are_chosen_by_seed_and_perhaps_one_a_picture(coco: Path) -> None:
    captions = read_captions(coco / "captions.json", coco / "val")
    assert len(captions) == PICTURES * EACH and captions[0].caption == "a red circle"
    assert [own.number for own in captions] == sorted(own.number for own in captions)
    plan = CocoPlan(count=6, distinct=True)
    chosen = select(captions, plan)
    assert len({own.image for own in chosen}) == 6 and chosen == select(captions, plan)
    assert chosen != select(captions, plan.model_copy(update={"seed": 1}))
    assert len({own.number for own in select(captions, CocoPlan(count=18))}) == 18
    with pytest.raises(CogViewError, match="6 captions of different images, not 7; lower --n"):
        select(captions, CocoPlan(count=7, distinct=True))


def test_the_best_is_kept_with_more_contrast_and_says_so(coco: Path, model: CogView, tmp_path: Path) -> None:
    report = run(PLAN, coco, model, tmp_path)
    chosen = select(read_captions(coco / "captions.json", coco / "val"), PLAN)
    (folder,) = tmp_path.glob("coco-tiny-*")
    losses = []
    for i, own in enumerate(chosen):
        made = model.generate(own.caption, n=3, seed=2 + i)
        scores = model.score(made, own.caption)[:, 0]
        best = made[int(scores.argmin())]
        losses.append(round(float(scores.min()), 5))
        expected = np.asarray(ImageEnhance.Contrast(best.image).enhance(1.5))
        with Image.open(folder / f"{i:06d}.png") as image:
            assert np.array_equal(np.asarray(image), expected)
        told = read_provenance(folder / f"{i:06d}.png")
        assert told is not None and told.settings["contrast"] == 1.5 and told.prompt == own.caption
    assert caption_losses(sorted(folder.glob("*.png"))) == pytest.approx(losses, abs=2e-5)
    assert report.figures["CapLoss"].value == pytest.approx(np.mean(losses[:4]), abs=2e-5)
    assert set(report.figures) == {
        "CapLoss",
        *(f"Pixels-{name}" for name in ("FID-0", "KID-0", "FID-2", "KID-2", "IS", "IS of the reference")),
    }
    assert report.manifest.reference.count == len({own.image for own in chosen})
    assert report.manifest.prompts and report.count == 5


def test_cogview2s_protocol_enlarges_the_best(coco: Path, tmp_path: Path) -> None:
    model = from_pretrained(tiny2.write(tmp_path / "family", enlarging=True))
    plan = CocoPlan.model_validate(PROTOCOLS["cogview2"] | {"count": 3, "best_of": 2})
    report = run(plan, coco, model, tmp_path / "work")
    paths = sorted((tmp_path / "work").glob("coco-tiny2-*/*.png"))
    assert len(paths) == len(caption_losses(paths)) == report.manifest.reference.count == 3
    assert report.drawn.sizes == ("48 x 48",)
    told = read_provenance(paths[0])
    assert told is not None and "contrast" not in told.settings


def test_stopped_and_shared_runs_give_the_same_digits(coco: Path, model: CogView, tmp_path: Path) -> None:
    whole = run(PLAN, coco, model, tmp_path / "whole")
    assert run(PLAN, coco, model, tmp_path / "shared", (1, 2)) is None
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.png")}
    assert set(kept) == {"000001.png", "000003.png"}
    shared = run(PLAN, coco, model, tmp_path / "shared", (0, 2))
    assert shared.figures == whole.figures and shared.manifest.reference == whole.manifest.reference
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.png")}
    assert kept.items() <= again.items()


def test_captions_go_through_a_command_once(tmp_path: Path) -> None:
    program = tmp_path / "shout.py"
    program.write_text(
        "import pathlib, sys\n"
        f"log = pathlib.Path({str(tmp_path / 'asked')!r})\n"
        "lines = sys.stdin.read().splitlines()\n"
        "log.write_text(log.read_text() + str(len(lines)) if log.exists() else str(len(lines)))\n"
        "print('\\n'.join(line.upper() for line in lines))\n"
    )
    command = f"{sys.executable} {program}"
    assert translated(["a b", "c", "a b"], command, tmp_path) == ["A B", "C", "A B"]
    assert translated(["c", "d"], command, tmp_path) == ["C", "D"]
    assert (tmp_path / "asked").read_text() == "21"
    with pytest.raises(CogViewError, match="texts for 1, not one each"):
        translated(["x"], f"{sys.executable} -c pass", tmp_path)


def test_reports_of_other_settings_are_not_compared(coco: Path, model: CogView, tmp_path: Path) -> None:
    for name, plan in (("a", PLAN), ("b", PLAN.model_copy(update={"contrast": 1.0}))):
        write_report(run(plan, coco, model, tmp_path), tmp_path / f"{name}.json")
    same = read_reports([tmp_path / "a.json", tmp_path / "a.json"])
    assert all(isinstance(report, CocoReport) for report in same.values())
    with pytest.raises(CogViewError, match=r"coco\.contrast is 1\.0 in the one and 1\.5 in the other"):
        read_reports([tmp_path / "a.json", tmp_path / "b.json"])


def test_the_command(coco: Path, family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    save_file(Lite0().state_dict(), tmp_path / "lite0.safetensors")
    line = ["eval", "coco", "--captions", str(coco / "captions.json"), "--images", str(coco / "val")]
    line += ["--model", str(family), "--weights", str(tmp_path / "lite0.safetensors"), "-n", "3"]
    line += ["--best-of", "2", "--blur", "0", "--canvas", "32", "--work", str(tmp_path / "work")]
    line += ["--bootstrap", "0"]
    assert main([*line, "--rank", "1/2"]) == 0 and "share 1/2 is generated" in capsys.readouterr().out
    out = tmp_path / "coco.json"
    assert main([*line, "--out", str(out)]) == 0 and "CapLoss" in capsys.readouterr().out
    report = CocoReport.model_validate_json(out.read_bytes())
    assert report.manifest.coco.best_of == 2 and report.manifest.coco.contrast == 1.5
    assert main(["eval", "compare", str(out), str(out)]) == 0


def systems(coco: Path, family: Path, place: Path, plan: CocoPlan) -> dict[str, Path]:
    """The photographs themselves, named by caption, and grey pictures, named by photograph."""
    chosen = select(read_captions(coco / "captions.json", coco / "val"), plan)
    for name in ("real", "grey"):
        (place / name).mkdir(parents=True)
    for own in chosen:
        with Image.open(own.image) as image:
            image.resize((24, 24)).save(place / "real" / f"{own.number}.png")
        Image.new("RGB", (24, 24), (128, 128, 128)).save(place / "grey" / f"{own.image.stem}.png")
    return {name: place / name for name in ("real", "grey")}


def test_systems_in_folders_are_judged_by_one_model(
    coco: Path, family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    plan = CocoPlan(count=5)
    save_file(Lite0().state_dict(), tmp_path / "lite0.safetensors")
    folders = systems(coco, family, tmp_path / "systems", plan)
    line = ["eval", "coco", "--captions", str(coco / "captions.json"), "--images", str(coco / "val")]
    listed = [*line, "-n", "5", "--list", str(tmp_path / "list.tsv")]
    line += ["--weights", str(tmp_path / "lite0.safetensors"), "-n", "5", "--blur", "0", "--canvas", "32"]
    line += ["--work", str(tmp_path / "work"), "--bootstrap", "0", "--judge", str(family)]
    both = [word for name, folder in folders.items() for word in ("--pictures", f"{name}={folder}")]
    out = tmp_path / "table.json"
    assert main([*line, *both, "--out", str(out)]) == 0 and "CapLoss" in capsys.readouterr().out
    found = CocoTable.model_validate_json(out.read_bytes())
    fid = {name: own["Lite0-FID-0"].value for name, own in found.rows.items()}
    assert list(fid) == ["real", "grey"] and fid["real"] < fid["grey"]
    # the caption loss of each picture, by the judge's own words
    judge = CogView.from_pretrained(family)
    chosen = select(read_captions(coco / "captions.json", coco / "val"), plan)
    for name, files in (("real", [own.number for own in chosen]), ("grey", [o.image.stem for o in chosen])):
        losses = [
            judge.score(Image.open(folders[name] / f"{file}.png"), own.caption)[0, 0]
            for file, own in zip(files, chosen, strict=True)
        ]
        assert found.rows[name]["CapLoss"].value == pytest.approx(np.mean(losses), rel=1e-5)
    # what the others have to draw, and one picture less
    assert main([*listed, "--weights", str(tmp_path / "lite0.safetensors")]) == 0
    rows = [row.split("\t") for row in (tmp_path / "list.tsv").read_text().splitlines()]
    assert rows[0] == ["number", "photograph", "caption"]
    assert [row[0] for row in rows[1:]] == [str(own.number) for own in chosen]
    (folders["real"] / f"{chosen[2].number}.png").unlink()
    for extra, match in (
        (both, f"real: 1 of 5 images are missing in .*{chosen[2].number}.png"),
        (["--pictures", "real"], "--pictures real: write NAME=DIR"),
        (["--pictures", f"a={tmp_path / 'none'}"], "there is no folder"),
        ([*both, "--model", str(family)], "--model generates; leave it out"),
        ([], "give a --model to generate with"),
    ):
        capsys.readouterr()
        assert main([*line, *extra]) == 2
        assert re.search(match, capsys.readouterr().err.replace("\n", " "))


def test_bad_input_is_one_line(coco: Path, family: Path, tmp_path: Path) -> None:
    def refused(content: object, match: str) -> None:
        path = tmp_path / "captions.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(CogViewError, match=match) as caught:
            select(read_captions(path, tmp_path), CocoPlan(count=2))
        assert "\n" not in str(caught.value)

    refused("{", "not valid JSON")
    refused({"images": []}, "not captions in COCO's format: annotations: missing")
    one = {"id": 1, "image_id": 5, "caption": "a"}
    refused({"images": [], "annotations": [one]}, "caption 1 is of the unlisted image 5")
    two = {"images": [{"id": 5, "file_name": "x.jpg"}], "annotations": [one, {**one, "id": 2}]}
    refused(two, r"x\.jpg: no such image")
    refused({**two, "annotations": [one]}, "there are 1 captions, not 2")
    with pytest.raises(CogViewError, match="cannot be read"):
        read_captions(tmp_path / "nothing.json", tmp_path)
    silent = CogView.from_pretrained(tiny.write(tmp_path / "silent"))
    with pytest.raises(CogViewError, match="cannot caption images"):
        run(PLAN, coco, silent, tmp_path / "work")
    assert not list((tmp_path / "work").rglob("*.png"))


def test_a_set_in_cocos_format_is_made_of_captioned_pictures(corpus: Path, tmp_path: Path) -> None:
    script = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "coco" / "from_corpus.py"))
    out = tmp_path / "made"
    script["main"]([str(corpus), "--split", "test_comp", "-n", "5", "--language", "zh", "--out", str(out)])
    captions = read_captions(out / "captions.json", out / "images")
    chosen = select(captions, CocoPlan(count=5, distinct=True, best_of=1))
    assert len({own.image for own in chosen}) == 5 and all(own.image.is_file() for own in chosen)
    assert all(is_chinese(own.caption) for own in captions)
    with pytest.raises(CogViewError, match="not 99999"):
        script["main"]([str(corpus), "-n", "99999", "--out", str(out)])
