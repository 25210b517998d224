"""What is made hostile: tiny real models, pictures, data sets, runs, made once."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cogview1"

CAPTIONS = ("a red circle", "蓝色的方块", "a blue square, pixel style", "红色的圆")


@dataclass(frozen=True)
class Bases:
    """Where everything lies."""

    root: Path

    @property
    def family(self) -> Path:
        """Draws, describes and enlarges."""
        return self.root / "tiny"

    @property
    def editor(self) -> Path:
        """Draws, edits and enlarges, CogView2's way."""
        return self.root / "tiny2"

    @property
    def pictures(self) -> Path:
        """Four pictures with captions beside them."""
        return self.root / "pictures"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def run(self) -> Path:
        """A training run of a few steps."""
        return self.root / "run"

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def study(self) -> Path:
        return self.root / "study"

    @property
    def lmdb(self) -> Path:
        return FIXTURES / "tok.lmdb"

    @property
    def checkpoint(self) -> Path:
        return FIXTURES / "ckpt_b" / "20" / "mp_rank_00_model_states.pt"


def picture(seed: int = 0, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A small picture of noise over a gradient."""
    chance = np.random.default_rng(seed)
    return Image.fromarray(chance.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def make(root: Path) -> Bases:
    """Write everything under ``root``."""
    from cogview.cli.app import main
    from tests.generation import tiny, tiny2
    from tests.study.conftest import write_inputs

    bases = Bases(root)
    shutil.copytree(tiny.write(root / "a", upscaling=True, captioning=True), bases.family)
    shutil.copytree(tiny2.write(root / "b", enlarging=True), bases.editor)
    bases.pictures.mkdir()
    for number, caption in enumerate(CAPTIONS):
        picture(number).save(bases.pictures / f"{number}.png")
        (bases.pictures / f"{number}.txt").write_text(caption, encoding="utf-8")
    build = ["data", "build", str(bases.pictures), str(bases.shards), "--tokenizers", str(bases.family)]
    assert main([*build, "--workers", "0", "--validation", "0.3"]) == 0
    cache = ["data", "cache", str(bases.pictures), str(bases.cache), "--size", "16", "--workers", "0"]
    assert main(cache) == 0
    write_recipe(bases)
    assert main(["train", str(bases.recipe), "--out", str(bases.run)]) == 0
    inputs = write_inputs(root / "study-in", 2, ("one", "two"))
    create = ["study", "create", str(bases.study), "--captions", str(root / "study-in" / "captions.csv")]
    assert main([*create, *(part for name in inputs for part in ("--model", f"{name}={inputs[name]}"))]) == 0
    return bases


def write_recipe(bases: Bases) -> None:
    """A transformer of one layer, two steps."""
    bases.recipe.write_text(
        f"task: transformer\nname: small\ndata: {bases.shards}\n"
        "model: {layers: 1, hidden: 16, heads: 2}\nformat: {text_slots: 16}\n"
        "steps: 2\nbatch_size: 2\nthreads: 1\ndevice: cpu\noptimizer: {lr: 0.001, betas: [0.9, 0.95]}\n"
        "schedule: {warmup: 1}\nclip: 1.0\nprecision: fp32\n"
        "intervals: {log: 1, evaluate: 0, sample: 0, checkpoint: 2}\n",
        encoding="utf-8",
    )


def lpips(seed: int) -> bytes:
    """A pickle of the kind that holds LPIPS weights, small."""
    chance = random.Random(seed)
    body = {
        f"Conv_{i}": {"kernel": np.zeros((3, 3, 1, 2), np.float32), "bias": np.zeros(2, np.float32)}
        for i in range(chance.randint(1, 4))
    }
    return pickle.dumps({"AlexNet_0": body, "NetLinLayer_0": {}}, chance.choice([2, 4, 5]))


def facts(**changes: object) -> str:
    """What a picture says of its making."""
    told = {
        "format": 1, "software": "cogview", "prompt": "a red circle", "seed": 1, "index": 0,
        "model": "tiny", "model_hash": "0" * 64, "settings": {}, **changes,
    }  # fmt: skip
    return json.dumps(told)
