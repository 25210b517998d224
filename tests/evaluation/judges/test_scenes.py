"""The reader of scenes: boxes, their loss, thresholds, what is cut out; and its training on the trainer."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cogview.evaluation.judges.scene_reader import (
    SceneNetwork,
    SceneReader,
    SceneReaderConfig,
    box_iou,
    crop_square,
    peaks,
)
from cogview.evaluation.judges.scene_training import (
    SceneReaderRecipe,
    SceneReaderTask,
    best_threshold,
    detection_loss,
    giou,
    targets,
)
from cogview.evaluation.judges.thing_reader import ThingReader, ThingReaderConfig
from cogview.evaluation.metrics.scene_rules import Box, Detection
from cogview.training.trainer import Trainer

BOXES: list[Box] = [(0.05, 0.1, 0.4, 0.55), (0.5, 0.5, 0.95, 0.9)]


def perfect(boxes: list[Box], height: int = 16, width: int = 16) -> torch.Tensor:
    """The map (5, H, W) that says exactly these boxes."""
    bumps, owner = targets(torch.tensor(boxes), height, width)
    answer = torch.zeros(5, height, width)
    answer[0] = torch.where(bumps == 1, 12.0, -12.0)
    for row in range(height):
        for column in range(width):
            x, y = (column + 0.5) / width, (row + 0.5) / height
            left, top, right, bottom = owner[:, row, column].tolist()
            answer[1:, row, column] = torch.tensor([x - left, y - top, right - x, bottom - y])
    return answer


def test_a_perfect_map_has_no_loss_and_gives_its_boxes() -> None:
    answer = perfect(BOXES)
    centres, overlaps = detection_loss(answer[None], [torch.tensor(BOXES)])
    assert float(centres) < 1e-3 and float(overlaps) == pytest.approx(0, abs=1e-5)
    found = peaks(answer)
    found.sort(key=lambda one: one.box)
    assert [one.box for one in found] == [pytest.approx(box) for box in BOXES]
    worse = answer.clone()
    worse[0, 3, 12] = 3.0
    assert float(detection_loss(worse[None], [torch.tensor(BOXES)])[0]) > float(centres) + 0.1


def test_centres_are_where_the_boxes_are_and_bumps_fall_by_distance() -> None:
    bumps, owner = targets(torch.tensor(BOXES), 16, 16)
    cells = [(int((b[1] + b[3]) / 2 * 16), int((b[0] + b[2]) / 2 * 16)) for b in BOXES]
    assert sorted(map(tuple, torch.nonzero(bumps == 1).tolist())) == sorted(cells)
    row, column = cells[0]
    spread = 0.12 * min(BOXES[0][2] - BOXES[0][0], BOXES[0][3] - BOXES[0][1])
    expected = np.exp(-((2 / 16) ** 2) / (2 * spread**2))
    assert float(bumps[row, column - 2]) == pytest.approx(expected, rel=1e-4)
    assert owner[:, 0, 0].tolist() == pytest.approx(BOXES[0])
    assert not targets(torch.zeros(0, 4), 4, 4)[0].any()


def test_one_thing_is_not_found_twice() -> None:
    answer = perfect(BOXES)
    row, column = int(0.7 * 16), int(0.725 * 16)
    answer[0, row, column - 3] = 5.0  # another centre of the same box
    assert len(peaks(answer)) == 2


@pytest.mark.parametrize(
    ("first", "second", "union", "general"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0, 1.0),
        ((0, 0, 1, 1), (0.5, 0, 1.5, 1), 1 / 3, 1 / 3),
        ((0, 0, 1, 1), (2, 0, 3, 1), 0.0, -1 / 3),
        ((0, 0, 2, 2), (0.5, 0.5, 1.5, 1.5), 0.25, 0.25),
    ],
)
def test_overlaps_by_hand(first: Box, second: Box, union: float, general: float) -> None:
    assert box_iou(first, second) == pytest.approx(union)
    maps = [torch.tensor(box, dtype=torch.float32).view(1, 4, 1, 1) for box in (first, second)]
    assert float(giou(*maps)) == pytest.approx(general, abs=1e-5)


def test_the_best_threshold_is_the_middle_of_the_best() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    read = [[Detection("a", box, 0.8), Detection("b", box, 0.3)], [Detection("a", box, 0.6)]]
    threshold, share = best_threshold(read, [Counter(["a"]), Counter(["a"])])
    assert share == 1.0 and 0.3 < threshold <= 0.6
    assert best_threshold(read, [Counter(["a", "b"]), Counter()])[1] == 0.5


def test_what_is_cut_out_is_square_and_its_border_repeats() -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    found = np.asarray(crop_square(Image.fromarray(pixels), (2, 3, 6, 5), 1.0))
    assert np.array_equal(found, pixels[2:6, 2:6])
    corner = np.asarray(crop_square(Image.fromarray(pixels), (0, 0, 2, 2), 2.0))
    assert corner.shape == (4, 4, 3) and np.array_equal(corner[1:, 1:], pixels[:3, :3])
    assert np.array_equal(corner[0], corner[1])


@pytest.mark.slow
def test_it_learns_to_find_squares(squares: Path, tmp_path: Path) -> None:
    """Trained on the trainer from an untrained network, it is kept and read back, and stays within bounds."""
    torch.manual_seed(0)
    ThingReader(ThingReaderConfig(things=("apple", "leaf"), size=64)).save(tmp_path / "things")
    fields = {
        "task": "scene_reader",
        "name": "squares",
        "data": squares,
        "reader": tmp_path / "things",
        "width": 16,
        "steps": 30,
        "batch_size": 8,
        "optimizer": {"kind": "adamw", "lr": 5e-3},
        "precision": "fp32",
        "intervals": {"log": 5, "evaluate": 30, "sample": 0},
    }
    own = SceneReaderRecipe.model_validate(fields)
    task = SceneReaderTask(own)
    (tmp_path / "run").mkdir()
    Trainer(task, own, tmp_path / "run").fit()
    reader = SceneReader.from_directory(tmp_path / "run" / "model")
    before = ThingReader.from_directory(tmp_path / "things").state_dict()
    assert all(torch.equal(before[name], value) for name, value in reader.network.things.state_dict().items())
    items = task.cache.select(["train"])[:4]
    found = reader.read(task.cache.pixels[items])
    assert len(found) == 4 and reader.rules.found == reader.rules.counted
    for one in (one for own_ in found for one in own_):
        assert one.thing in ("apple", "leaf") and 0 <= one.score <= 1 and 0 <= one.box[0] <= one.box[2] <= 64


def test_a_reader_without_training_is_kept_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SceneReaderConfig(things=ThingReaderConfig(things=("a", "b"), size=32), width=8)
    reader = SceneReader(SceneNetwork(config))
    reader.save(tmp_path)
    assert SceneReader.from_directory(tmp_path).fingerprint == reader.fingerprint
