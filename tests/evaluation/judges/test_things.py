"""The reader of things: its answers, its training on the trainer, the spoiling of its pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cogview.data.image_cache import ImageCache
from cogview.errors import CogViewError
from cogview.evaluation.judges import spoiling
from cogview.evaluation.judges.drawing_labels import read_labels
from cogview.evaluation.judges.thing_reader import ThingReader, ThingReaderConfig, in_top_k
from cogview.evaluation.judges.thing_training import ThingReaderRecipe, ThingReaderTask
from cogview.training.trainer import Trainer


def recipe(squares: Path, network: Path, **changes: object) -> ThingReaderRecipe:
    fields = {
        "task": "thing_reader",
        "name": "squares",
        "data": squares,
        "network": network,
        "steps": 4,
        "batch_size": 8,
        "frozen": 11,
        "precision": "fp32",
        "intervals": {"log": 1, "evaluate": 4, "sample": 0, "checkpoint": 2},
    }
    return ThingReaderRecipe.model_validate({**fields, **changes})


def run(own: ThingReaderRecipe, out: Path, resume: bool = False) -> ThingReader:
    task = ThingReaderTask(own)
    out.mkdir(exist_ok=True)
    Trainer(task, own, out).fit(resume)
    return ThingReader.from_directory(out / "model")


@pytest.mark.slow
def test_a_stopped_training_goes_on_and_frozen_blocks_stay(
    squares: Path, network: Path, tmp_path: Path
) -> None:
    whole = run(recipe(squares, network), tmp_path / "whole")
    half = recipe(squares, network, max_minutes=1e-9)
    run(half, tmp_path / "parts")
    rest = run(recipe(squares, network), tmp_path / "parts", resume=True)
    start, end = ThingReader(whole.config).state_dict(), whole.state_dict()
    start |= {f"network.{name}": value for name, value in torch_state(network).items()}
    for name, value in end.items():
        assert torch.equal(value, rest.state_dict()[name]), name
    blocks = [name for name in end if name.startswith("network.blocks.")]
    changed = {name.split(".")[2] for name in blocks if not torch.equal(end[name], start[name])}
    assert changed == {str(number) for number in range(11, 16)}
    assert whole.config.things == ("apple", "leaf")
    assert whole.config.facts["ceiling_five"] == 1.0  # there are two things only


def torch_state(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: value for name, value in load_file(path).items() if not name.startswith("classes.")}


def test_pictures_of_any_size_are_read_alike() -> None:
    torch.manual_seed(1)
    reader = ThingReader(ThingReaderConfig(things=("a", "b", "c"), size=32))
    torch.nn.init.normal_(reader.network.classes.weight)
    small = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    large = small.repeat(2, 1).repeat(2, 2)
    features, found = reader.read(small, batch=2)
    _, same = reader.read([large[0], small[1], large[2]])
    assert found.shape == (3, 3) and features.shape == (3, 1280) and found.sum(1) == pytest.approx(1)
    assert np.abs(found[1] - same[1]).max() < 1e-6 and np.abs(found - same).max() < 0.05
    assert reader.read([])[1].shape == (0, 3)


def test_among_the_most_probable() -> None:
    chance = np.random.default_rng(0)
    table = chance.random((50, 9)).astype(np.float32)
    wanted = chance.integers(0, 9, 50)
    for count in (1, 5):
        expected = [own in np.argsort(-row)[:count] for row, own in zip(table, wanted, strict=True)]
        assert in_top_k(table, wanted, count).tolist() == expected


def test_spoiled_pictures_hang_on_the_seed_and_still_show_the_same() -> None:
    images = torch.zeros(12, 3, 64, 64)
    images[:, 0, 16:48, 16:48] = 1
    torch.manual_seed(0)
    once = spoiling.spoil(images)
    torch.manual_seed(0)
    assert torch.equal(once, spoiling.spoil(images))
    assert once.shape == images.shape and once.min() >= 0 and once.max() <= 1
    inside, outside = once[:, 0, 26:38, 26:38].mean((1, 2)), once[:, 0, :6, :6].mean((1, 2))
    assert (inside - outside > 0.2).all() and not torch.allclose(once, images, atol=0.05)


@pytest.mark.parametrize("sigma", [0.8, 1.6])
def test_a_blur_keeps_the_sum_and_has_its_width(sigma: float) -> None:
    point = torch.zeros(1, 3, 21, 21)
    point[..., 10, 10] = 1
    found = spoiling.gaussian(point, sigma)[0, 0]
    away = (torch.arange(21.0) - 10) ** 2
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float((found.sum(0) * away).sum()) == pytest.approx(sigma**2, rel=0.12)


def test_a_picture_without_a_label_is_named(squares: Path, tmp_path: Path) -> None:
    cache = ImageCache(squares)
    assert [label.key for label in read_labels(cache)] == list(cache.keys)
    lines = (squares / "labels.jsonl").read_text("utf-8").splitlines()
    cache.directory = tmp_path
    (tmp_path / "labels.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(CogViewError, match="no label for 'square/0'"):
        read_labels(cache)
    (tmp_path / "labels.jsonl").write_text("{}")
    with pytest.raises(CogViewError, match="cannot be read"):
        read_labels(cache)
