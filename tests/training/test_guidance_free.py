"""Models that are taught to need no guidance: the objectives by hand, that they are reached, and used."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.models import describe
from cogview.config import validate
from cogview.errors import CogViewError
from cogview.training.assembly import FamilySettings, assemble
from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.tasks.guidance_free import (
    GuidanceFreeRecipe,
    GuidanceFreeTask,
    contrastive_loss,
    guided_divergence,
    mismatched,
)
from cogview.training.trainer import Trainer
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from tests.generation import tiny
from tests.training.runs import fit, recipe

GUIDANCE = 3.0
DISTILLATION = {"kind": "distillation", "guidance": GUIDANCE}
CONTRASTIVE = {"kind": "contrastive", "beta": 0.5, "negative": 2.0}


def test_divergence_of_logits_by_hand() -> None:
    """c says 1 : 3, u says 1 : 1, so twice as far from u is 1 : 9; against c itself and against that."""
    conditional, unconditional = torch.tensor([[0.0, math.log(3)]]), torch.zeros(1, 2)
    expected = 0.1 * math.log(0.1 / 0.25) + 0.9 * math.log(0.9 / 0.75)
    found = guided_divergence(conditional, conditional, unconditional, 2.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    guided = torch.tensor([[5.0, 5.0 + math.log(9)]])
    assert guided_divergence(guided, conditional, unconditional, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_contrastive_loss_by_hand() -> None:
    own, other = torch.tensor([math.log(3), 0.0]), torch.tensor([math.log(2), 0.0])
    expected = [-math.log(3 / 4) - 5 * math.log(1 / 3), 6 * math.log(2)]
    assert contrastive_loss(own, other, 1.0, 5.0).tolist() == pytest.approx(expected, rel=1e-5)


def test_other_captions_are_others() -> None:
    assert mismatched([[1], [1], [2], [3]]) == [[2], [2], [3], [1]]
    assert mismatched([[1], [1]]) == [[], []] and mismatched([[4]]) == [[]]


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt something of its captions, and pictures without one."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    fit(recipe(data, steps=120, mixture={"empty": 0.3}), run)
    return run


def given(data: Path, teacher: Path, **fields: Any) -> GuidanceFreeRecipe:
    usual = recipe(data).model_dump(mode="json") | {"task": "guidance_free", "model": None, "steps": 80}
    own = {"init": str(teacher), "objective": DISTILLATION, "mixture": {"empty": 0.1}}
    return validate(GuidanceFreeRecipe, {**usual, **own, **fields}, "test")


def train(asked: GuidanceFreeRecipe, directory: Path) -> list[dict[str, Any]]:
    prepare_directory(asked, directory, False)
    Trainer(GuidanceFreeTask(asked), asked, directory).fit()
    return MetricsFile(directory / "metrics.jsonl").lines()


def divergence(task: GuidanceFreeTask, student: Transformer) -> float:
    """Of the teacher's guided distribution from the student's, over the validation split; written out."""
    found = list[float]()
    for batch in task.validation:
        with torch.no_grad():
            taught, untold, own = (
                model.logits(model(part["inputs"], part["positions"])).double()[..., :8]
                for model, part in ((task.teacher, batch), (task.teacher, batch["other"]), (student, batch))
            )
        for row in range(len(batch["inputs"])):
            here, there = (part["targets"][row] < 8 for part in (batch, batch["other"]))
            guided = (untold[row][there] + GUIDANCE * (taught[row][here] - untold[row][there])).softmax(-1)
            found += (guided * (guided.log() - own[row][here].log_softmax(-1))).sum(-1).tolist()
    assert len(found) == 16 * 4
    return float(np.mean(found))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{}, {"lora": {"rank": 4}, "optimizer": {"lr": 0.02}}], ids=["all", "lora"]
)
def test_distillation_reaches_the_guided_teacher(
    data: Path, teacher: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    asked = given(data, teacher, **fields)
    last = train(asked, tmp_path / "run")[-1]
    task = GuidanceFreeTask(asked)
    before = divergence(task, task.teacher)
    if asked.lora is None:
        after = divergence(task, Transformer.from_directory(tmp_path / "run" / "model"))
        assert last["divergence"] == pytest.approx(after, rel=0.05)  # exported in fp16
    assert last["kind"] == "evaluate" and last["divergence"] < 0.3 * before


@pytest.mark.slow
def test_contrast_parts_own_captions_from_others(data: Path, teacher: Path, tmp_path: Path) -> None:
    """At the start the copy is the teacher, so that both ratios are 1 and the loss is (1 + lambda) log 2."""
    asked = given(data, teacher, objective=CONTRASTIVE, steps=40)
    start = GuidanceFreeTask(asked)
    with torch.no_grad():
        found = start.evaluate(Transformer.from_directory(teacher / "model"))
    assert found["loss"] == pytest.approx(3 * math.log(2), rel=1e-4)
    assert found["own"] == pytest.approx(0, abs=1e-4) and found["other"] == pytest.approx(0, abs=1e-4)
    last = train(asked, tmp_path / "run")[-1]
    assert last["kind"] == "evaluate" and last["own"] > last["other"] + 1


def test_a_family_of_it_generates_without_guidance(tmp_path: Path) -> None:
    family = ModelBundle(tiny.write(tmp_path))
    run = tmp_path / "run" / "model"
    shutil.copytree(family.directory / "base", run)
    prints = family.config.fingerprints.model_dump()
    facts = {**prints, "sequences": tiny.form().model_dump(mode="json"), "guidance_free": "distillation"}
    (run / "training.json").write_text(json.dumps(facts))
    settings = FamilySettings(defaults=SamplingParams(guidance_scale=2.0, top_k=5))
    free = assemble(tmp_path / "free", {"base": tmp_path / "run"}, start=family, settings=settings).config
    assert free.roles["base"].guidance_free == "distillation" and free.defaults.guidance_scale == 2
    found = free.sampling("generate")
    assert (found.guidance_scale, found.top_k) == (1, 5)
    assert describe("free", tmp_path / "free")["defaults"]["guidance"] == 1
    assert free.sampling("generate", SamplingParams(guidance_scale=4.0)).guidance_scale == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"init": None, "model": {"layers": 2, "hidden": 32, "heads": 2}}, "init: missing"),
        ({"objective": {**DISTILLATION, "guidance": 1.0}}, "guidance"),
        ({"objective": {**CONTRASTIVE, "guidance": 2.0}}, "guidance"),
        ({"objective": CONTRASTIVE, "cell_weights": [[1, 1], [1, 1]]}, "cell_weights are for distillation"),
        ({"format": {"kind": "image_to_text", "text_slots": 6}}, "format.kind is image_to_text"),
        ({"softmax": "full"}, "softmax"),
    ],
)
def test_what_makes_no_sense_is_refused(data: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(CogViewError, match=said.replace(".", r"\.")):
        given(data, Path("pictogram"), **fields)
