"""A tiny family as what the experiments ask for: pictures, candidates with losses, captions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview import CogView, from_pretrained
from cogview.checkpoints.bundle import PACKAGED, find
from cogview.checkpoints.provenance import model_hash
from cogview.errors import CogViewError
from cogview.evaluation.experiments.captions import CaptionPlan
from cogview.evaluation.experiments.image_generator import ModelGenerator
from cogview.training.init_checkpoint import find_init_checkpoint
from tests.generation import tiny, tiny2


@pytest.fixture(scope="module")
def drawer(tmp_path_factory: pytest.TempPathFactory) -> ModelGenerator:
    return ModelGenerator(str(tiny.write(tmp_path_factory.mktemp("family"), captioning=True)))


def test_candidates_are_the_models_with_their_losses(drawer: ModelGenerator) -> None:
    """The first candidates do not depend on how many there are."""
    model = CogView.from_pretrained(drawer.directory)
    pictures, losses = drawer.candidates("a red circle", 4, 5, {"top_k": 9})
    fewer, their_losses = drawer.candidates("a red circle", 2, 5, {"top_k": 9})
    expected = model.generate("a red circle", n=4, seed=5, top_k=9)
    assert [p.tobytes() for p in pictures] == [p.image.tobytes() for p in expected]
    assert losses == pytest.approx(model.score(expected, "a red circle")[:, 0].tolist(), abs=1e-5)
    assert [p.tobytes() for p in fewer] == [p.tobytes() for p in pictures[:2]]
    assert their_losses == pytest.approx(losses[:2], abs=1e-5)


def test_descriptions_and_losses_of_pixels(drawer: ModelGenerator) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    images, texts = [Image.fromarray(picture) for picture in pictures], ["a", "a red circle", "红色的圆"]
    assert drawer.image_size == 16
    plan = CaptionPlan(beams=2)
    expected = [own[0].text for own in drawer.family.caption(images, language="en", beams=2)]
    assert drawer.caption(pictures, "en", plan) == expected
    by_chance = drawer.caption(pictures[:1], "en", CaptionPlan(sampling={"temperature": 0.7}))
    assert by_chance == [drawer.family.caption(images[0], language="en", seed=0, temperature=0.7)[0][0].text]
    table = drawer.family.score(images, texts)
    assert drawer.losses(pictures, texts) == pytest.approx(np.diag(table), abs=1e-5)


def test_a_base_beside_a_coglm_with_its_stages_has_one_step(tmp_path: Path) -> None:
    """The stages upscale files; images of the base are as large as they are."""
    family = tiny.write(tmp_path, editing=True, enlarging=True)
    drawer = ModelGenerator(str(family), small=True)
    pictures, losses = drawer.candidates("a red circle", 2, 5, {})
    expected = CogView.from_pretrained(family).generate("a red circle", n=2, seed=5)
    assert [p.tobytes() for p in pictures] == [p.image.tobytes() for p in expected] and len(losses) == 2
    assert [p.tobytes() for p in drawer.generate(["a red circle"], 5, {})] == [pictures[0].tobytes()]


def test_a_coglm_is_asked_in_the_language_of_each_text(tmp_path: Path) -> None:
    """[BOC] stands before Chinese, [BOE] before English, as where the family itself ranks pictures."""
    drawer = ModelGenerator(str(tiny2.write(tmp_path)))
    pictures, texts = np.zeros((2, 16, 16, 3), dtype=np.uint8), ["红色的圆", "a red circle"]
    table = drawer.family.score([Image.fromarray(own) for own in pictures], texts)
    assert drawer.losses(pictures, texts) == pytest.approx(np.diag(table), abs=1e-5)
    _, losses = drawer.candidates("红色的圆", 2, 5, {})
    made = from_pretrained(drawer.directory).generate("红色的圆", n=2, seed=5)
    assert losses == pytest.approx(
        from_pretrained(drawer.directory).score(made, "红色的圆")[:, 0].tolist(), abs=1e-5
    )
    [chosen] = from_pretrained(drawer.directory).captioning.best_of(made, 1)
    assert chosen.settings["best_of"]["caption_loss"] == pytest.approx(min(losses), abs=1e-4)


def test_int8_is_told_and_computed(drawer: ModelGenerator) -> None:
    small = ModelGenerator(str(drawer.directory), "int8")
    assert (drawer.precision, small.precision) == ("fp32", "int8")
    assert (
        small.generate(["a red circle"], 1, {})[0].size == (16, 16)
        and small.family.components.precision == "int8"
    )


def test_a_family_without_captions_is_refused_before_it_draws(tmp_path: Path) -> None:
    silent = ModelGenerator(str(tiny.write(tmp_path)))
    with pytest.raises(CogViewError, match="cannot caption images"):
        silent.candidates("a red circle", 4, 5, {})


def test_only_a_family_of_several_steps_has_a_first(drawer: ModelGenerator) -> None:
    """What one experiment drew another finds, whether or not it asks for the first step."""
    assert ModelGenerator(str(drawer.directory), small=True).fingerprint == drawer.fingerprint


def test_experiments_look_a_model_up_as_generate_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's copy of a shipped model stands behind the package's, everywhere."""
    monkeypatch.setenv("COGVIEW_HOME", str(tmp_path))
    made, models = tiny.write(tmp_path / "made"), tmp_path / "models"
    mine, copy = (Path(shutil.copytree(made, models / name)) for name in ("mine", "pictogram"))
    for name, expected in (("mine", mine), (str(copy), copy), ("pictogram", PACKAGED / "pictogram")):
        assert ModelGenerator(name).directory == find(name) == expected == load_family(name)
    with pytest.raises(CogViewError, match="no model 'min'; did you mean 'mine'"):
        ModelGenerator("min")


def load_family(name: str) -> Path:
    return find_init_checkpoint(Path(name)).directory.parent


def test_a_directory_of_the_models_name_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictogram").mkdir()
    assert find("pictogram") == PACKAGED / "pictogram"
    assert find_init_checkpoint(Path("pictogram")).directory == PACKAGED / "pictogram" / "base"
    with pytest.raises(CogViewError, match=r"without family\.json"):
        find(tmp_path)


def test_pictures_of_another_precision_have_another_fingerprint(drawer: ModelGenerator) -> None:
    plain, quick = drawer.fingerprint, ModelGenerator(str(drawer.directory), "int8").fingerprint
    assert plain == model_hash(drawer.directory) and quick == f"{plain} int8"
