"""The reader learns, repeats, survives the disk, and never sees what it is tested on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.evaluation.judges.attribute_corpus import Avatar, read_avatars
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.judges.classifier_training import (
    ClassifierTraining,
    LabelledImages,
    accuracy,
    load_labelled,
    spoil,
    train_from_corpus,
    train_reader,
    up_to_date,
)
from tests.evaluation import toy
from tests.evaluation.conftest import TRAINING

SHORT = ClassifierTraining(epochs=0.4, batch=16)


def held_out(corpus: Path, reader: AttributeClassifier) -> LabelledImages:
    chosen = [avatar for avatar in read_avatars(corpus) if avatar.split == "test_comp"]
    return load_labelled(corpus, chosen, reader.config.preprocessing)


def test_it_reads_combinations_it_has_never_seen(corpus: Path, reader: AttributeClassifier) -> None:
    data = held_out(corpus, reader)
    assert len(data.avatars) >= 20
    assert accuracy(reader, data) > 0.95
    assert reader.config.facts["val_accuracy"] > 0.95  # type: ignore[operator]


def test_accuracy_counts_absence_too(corpus: Path, reader: AttributeClassifier) -> None:
    """Of a blot three things are read, of a flag two; wrong labels for one of them are found."""
    data = held_out(corpus, reader)
    right = accuracy(reader, data)
    wrong = []
    for a in data.avatars:
        values = {name: value for name, value in a.values.items() if name != "mark"}
        if a.style == "blot" and "mark" not in a.values:
            values["mark"] = "dot1"
        wrong.append(Avatar(a.key, a.style, a.split, a.captions, values))
    blots = sum(a.style == "blot" for a in wrong)
    assert right == 1.0
    assert accuracy(reader, LabelledImages(data.images, wrong)) == pytest.approx(
        1 - blots / (2 * len(wrong) + blots)
    )


def test_a_picture_reads_the_same_alone_and_in_any_batch(corpus: Path, reader: AttributeClassifier) -> None:
    data = held_out(corpus, reader)
    styles = [avatar.style for avatar in data.avatars]
    together = reader.read(data.tensor(), styles, batch=7)
    alone = [reader.read(data.tensor([i]), [style])[0] for i, style in enumerate(styles)]
    assert together == alone
    for style, answer in zip(styles, alone, strict=True):
        assert set(answer) == ({"body_color", "mark", "shape"} if style == "blot" else {"first_color", "way"})


def test_only_the_heads_of_the_styles_present_are_computed(reader: AttributeClassifier) -> None:
    found = reader(torch.rand(3, 3, toy.SIZE, toy.SIZE), ["flag"] * 3)
    assert list(found) == ["flag"]
    rows, logits = found["flag"]
    assert rows.tolist() == [0, 1, 2]
    assert {name: tuple(values.shape) for name, values in logits.items()} == {
        "first_color": (3, 5),
        "way": (3, 3),
    }


def test_training_repeats(corpus: Path) -> None:
    first, second = (train_from_corpus(corpus, SHORT, size=toy.SIZE).fingerprint for _ in range(2))
    assert first == second
    other = SHORT.model_copy(update={"seed": 1})
    assert train_from_corpus(corpus, other, size=toy.SIZE).fingerprint != first


def test_held_out_rows_leave_no_trace(corpus: Path, tmp_path: Path) -> None:
    """Other pictures, captions and attributes in all other splits: not one weight changes."""
    changed = []
    for row in toy.rows():
        if row["split"] != "train":
            noise = {
                "en": "a lie",
                "zh": "谎话",
                "meta": json.dumps({"shape": "circle", "body_color": "blue"}),
            }
            row = {**row, **noise, "image": toy.rows(1)[0]["image"]}
        changed.append(row)
    other = toy.write(tmp_path, changed)
    trained = [train_from_corpus(folder, SHORT, size=toy.SIZE) for folder in (corpus, other)]
    assert trained[0].fingerprint == trained[1].fingerprint


def test_held_out_rows_are_refused(corpus: Path, reader: AttributeClassifier) -> None:
    with pytest.raises(CogViewError, match=r"only be trained on split 'train', but '(blot|flag)/"):
        train_reader(reader.config, held_out(corpus, reader), SHORT)


def test_too_little_data_is_refused(corpus: Path, reader: AttributeClassifier) -> None:
    few = [avatar for avatar in read_avatars(corpus) if avatar.split == "train"][:15]
    with pytest.raises(CogViewError, match="15 training images are fewer than one batch of 16"):
        train_reader(reader.config, load_labelled(corpus, few, reader.config.preprocessing), SHORT)


def test_a_corpus_that_states_nothing_is_refused(tmp_path: Path) -> None:
    rows = [{**row, "en": "a picture", "zh": "一张图"} for row in toy.rows(80)]
    with pytest.raises(CogViewError, match="no caption of split 'train' states an attribute"):
        train_from_corpus(toy.write(tmp_path, rows), SHORT, size=toy.SIZE)


def test_saved_and_loaded_is_the_same(reader: AttributeClassifier, tmp_path: Path) -> None:
    reader.save(tmp_path)
    loaded = AttributeClassifier.from_directory(tmp_path)
    assert loaded.config == reader.config
    assert loaded.fingerprint == reader.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_damaged_classifiers_are_named(reader: AttributeClassifier, tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="no classifier here"):
        AttributeClassifier.from_directory(tmp_path / "none")
    reader.save(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(CogViewError, match="damaged or not a classifier"):
        AttributeClassifier.from_directory(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "widths": [8, 16, 32]}))
    with pytest.raises(CogViewError, match="damaged or not a classifier"):
        AttributeClassifier.from_directory(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "colour": 1}))
    with pytest.raises(CogViewError, match="colour: no such key"):
        AttributeClassifier.from_directory(tmp_path)


def test_foreign_pictures_are_refused(reader: AttributeClassifier) -> None:
    with pytest.raises(CogViewError, match="does not know style 'moon'"):
        reader.read(torch.rand(1, 3, toy.SIZE, toy.SIZE), ["moon"])
    with pytest.raises(CogViewError, match="reads images of 24 x 24"):
        reader.read(torch.rand(1, 3, 30, 30), ["flag"])


def test_up_to_date_knows_settings_and_corpus(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    arguments = (toy.SIZE, "dice", 8)
    assert not up_to_date(tmp_path, corpus, TRAINING, *arguments)
    reader.save(tmp_path)
    assert up_to_date(tmp_path, corpus, TRAINING, *arguments)
    assert not up_to_date(tmp_path, corpus, TRAINING.model_copy(update={"epochs": 13}), *arguments)
    assert not up_to_date(tmp_path, corpus, TRAINING, 32, "dice", 8)
    assert not up_to_date(tmp_path, corpus, TRAINING, toy.SIZE, "dice", 9)
    other = toy.write(tmp_path / "other", toy.rows(100))
    assert not up_to_date(tmp_path, other, TRAINING, *arguments)


def test_spoiling_is_slight() -> None:
    torch.manual_seed(0)
    smooth = F.interpolate(torch.rand(64, 3, 5, 5) * 0.8 + 0.1, (24, 24), mode="bicubic").clamp(0, 1)
    spoiled = spoil(smooth)
    assert spoiled.shape == smooth.shape
    assert spoiled.min() >= 0 and spoiled.max() <= 1
    assert not torch.equal(spoiled, smooth)
    colour = (spoiled.mean((2, 3)) - smooth.mean((2, 3))).abs()
    assert colour.max() < 0.15
    inner = F.mse_loss(spoiled[..., 4:-4, 4:-4], smooth[..., 4:-4, 4:-4], reduction="none").mean((1, 2, 3))
    best = torch.stack(
        [(spoiled - torch.roll(smooth, (y, x), (2, 3)))[..., 4:-4, 4:-4].square().mean((1, 2, 3))
         for y in range(-2, 3) for x in range(-2, 3)]
    ).amin(0)  # fmt: skip
    assert (best <= inner).all()
    assert best.sqrt().mean() < 0.06, "after undoing the shift little is left"


def test_labels_need_pictures() -> None:
    with pytest.raises(AssertionError):
        LabelledImages(np.zeros((2, 8, 8, 3), np.uint8), [])


@pytest.mark.slow
def test_a_recipe_trains_it_and_a_stopped_run_ends_the_same(corpus: Path, tmp_path: Path) -> None:
    """``cogview train`` in one go, and stopped after its first step and gone on with."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"{{task: attribute_classifier, name: judge, data: {corpus}, size: {toy.SIZE}, rare: 8, steps: 6, "
        "batch_size: 16, optimizer: {kind: adamw, lr: 4.0e-3}, intervals: {log: 2, evaluate: 6, sample: 0}}"
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", str(recipe), "--out", str(whole)]) == 0
    assert main(["train", str(recipe), "--out", str(parts), "--set", "max_minutes=1e-9"]) == 0
    assert main(["train", str(recipe), "--out", str(parts), "--resume"]) == 0
    found = [AttributeClassifier.from_directory(run / "model") for run in (whole, parts)]
    assert found[0].fingerprint == found[1].fingerprint
    assert 0 < float(found[0].config.facts["val_accuracy"]) <= 1
