"""A picture cache of coloured squares with labels and boxes, and an untrained network."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from cogview.data.image_cache import build_image_cache
from cogview.data.shards import Preprocessing
from cogview.data.sources import Record
from cogview.evaluation.judges.drawing_labels import Label, LabelledThing, write_labels
from cogview.evaluation.metrics.lite0 import Lite0

SIDE = 64
COLOURS = {"apple": (220, 30, 30), "leaf": (30, 160, 40)}


class Squares:
    """One square a picture, anywhere; every fourth picture is of split "val" or "test_comp"."""

    def __init__(self, count: int) -> None:
        chance = np.random.default_rng(0)
        self.rows = []
        for i in range(count):
            thing, size = list(COLOURS)[i % 2], int(chance.integers(20, 40))
            left, top = (int(x) for x in chance.integers(2, SIDE - size - 2, 2))
            self.rows.append((f"square/{i}", thing, (left, top, left + size, top + size)))

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return repr(self.rows)

    def records(self, start: int = 0) -> Iterator[Record]:
        for i, (key, thing, box) in enumerate(self.rows[start:], start):
            image = Image.new("RGB", (SIDE, SIDE), "white")
            image.paste(COLOURS[thing], box)
            file = io.BytesIO()
            image.save(file, "PPM")
            split = ("val", "test_comp")[i // 8 % 2] if i % 8 < 2 else "train"
            yield Record(key, file.getvalue(), (), "thing", split, key)


def write_squares(out: Path) -> Path:
    """A cache of 64 pictures of 64 pixels, and its labels."""
    source = Squares(64)
    build_image_cache(source, out, Preprocessing(size=SIDE))
    labels = []
    for key, thing, (left, top, right, bottom) in source.rows:
        box = (left / SIDE, top / SIDE, right / SIDE, bottom / SIDE)
        labels.append(Label(key=key, things=(LabelledThing(thing=thing, box=box),)))
    write_labels(out, labels)
    return out


def write_network(path: Path) -> Path:
    """EfficientNet-Lite0 with random weights."""
    torch.manual_seed(0)
    save_file(Lite0().state_dict(), path)
    return path
