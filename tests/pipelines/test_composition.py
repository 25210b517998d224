"""One family of several transformers: each task is done by the role that has learnt it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview import from_pretrained
from cogview.errors import UnsupportedTask
from cogview.pipelines.model import Pipeline
from cogview.types import SamplingParams
from tests.generation import tiny, tiny2

PARAMS = SamplingParams(temperature=1.0, top_k=30, clusters=0, emphasis=0.5)


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (24, 24, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A text-to-image model with a CogLM beside it."""
    return from_pretrained(tiny.write(tmp_path_factory.mktemp("composed"), editing=True))


@pytest.fixture(scope="module")
def coglm(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The same CogLM alone, over the same tokenizers."""
    return from_pretrained(tiny2.write(tmp_path_factory.mktemp("coglm")))


def test_it_has_the_tasks_of_both(model: Pipeline) -> None:
    assert model.capabilities == {"generate", "edit", "vary", "caption", "score", "rerank"}


def test_generate_is_the_text_to_image_models(model: Pipeline, tmp_path: Path) -> None:
    alone = from_pretrained(tiny.write(tmp_path))
    ours, theirs = (one.generate("a red circle", n=2, seed=7) for one in (model, alone))
    assert [one.codes.tolist() for one in ours] == [one.codes.tolist() for one in theirs]


def test_a_base_without_guidance_leaves_the_coglms_as_it_was(model: Pipeline) -> None:
    config = model.bundle.config.model_copy(update={"defaults": SamplingParams(guidance_scale=2.0)})
    base = config.roles["base"].model_copy(update={"guidance_free": "distillation"})
    taught = config.model_copy(update={"roles": {**config.roles, "base": base}})
    for task, expected in (("generate", 1.0), ("edit", 2.0), ("vary", 2.0)):
        assert config.sampling(task).guidance_scale == 2.0
        assert taught.sampling(task).guidance_scale == expected


def test_edits_and_variations_are_the_coglms(model: Pipeline, coglm: Pipeline) -> None:
    ours, theirs = (
        [
            *one.edit(photo(), "a blue square", boxes="25%,25%,75%,75%", n=2, seed=5, params=PARAMS),
            *one.vary(photo(), "a blue square", n=1, seed=5, params=PARAMS),
        ]
        for one in (model, coglm)
    )
    for found, expected in zip(ours, theirs, strict=True):
        assert np.array_equal(np.asarray(found.image), np.asarray(expected.image))
        assert (found.codes == expected.codes).all()


def test_captions_and_losses_are_the_coglms(model: Pipeline, coglm: Pipeline) -> None:
    texts = ["a red circle", "蓝色的方块"]
    assert np.allclose(model.score(photo(), texts), coglm.score(photo(), texts), rtol=0, atol=1e-6)
    ours, theirs = (one.caption(photo(), n=2, language="zh") for one in (model, coglm))
    assert [one.text for one in ours[0]] == [one.text for one in theirs[0]]


def test_the_best_of_several_is_the_one_with_the_lowest_loss(model: Pipeline) -> None:
    every = model.generate("a red circle", n=4, seed=7)
    losses = model.score(every, "a red circle")[:, 0]
    [best] = model.generate("a red circle", seed=7, best_of=4)
    assert (best.codes == every[int(losses.argmin())].codes).all()


def test_without_a_coglm_an_edit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTask, match="no CogLM"):
        from_pretrained(tiny.write(tmp_path)).edit(photo(), "a red circle", boxes="0,0,50%,50%")


def test_both_kinds_of_super_resolution_side_by_side(tmp_path: Path) -> None:
    """Window by window, and with an order in two stages, as a CogLM's family does it."""
    both = from_pretrained(tiny.write(tmp_path / "both", upscaling=True, editing=True, enlarging=True))
    windows = from_pretrained(tiny.write(tmp_path / "windows", upscaling=True))
    stages = from_pretrained(tiny2.write(tmp_path / "stages", enlarging=True))
    image, asked = photo(), {"prompt": "a red circle", "seed": 3}
    [ours], [theirs] = (one.upscale(image, **asked) for one in (both, windows))
    assert ours.image.size == (48, 48) and (ours.codes == theirs.codes).all()
    assert both.two_stages.scale == 3 and not both.bundle.config.two_stage
    both.components.__dict__["clusters"] = (
        stages.components.clusters
    )  # that family has them, this one has not
    [ours], [theirs] = (one.upscale(image, order="paper", **asked) for one in (both, stages))
    assert ours.settings["order"] == "paper" and (ours.codes == theirs.codes).all()
    [small] = both.generate("a red circle", seed=1)
    assert small.image.size == (16, 16)  # large only where it is asked for
    with pytest.raises(UnsupportedTask, match="no direct model"):
        windows.two_stages.scale  # noqa: B018
