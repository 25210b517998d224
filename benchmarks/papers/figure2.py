"""Figure 2 of CogView: four ways to train the codebook, same network, data and seed (section 2.2).

    python benchmarks/papers/figure2.py --data work/images-48
    python benchmarks/papers/figure2.py --rehearse

The paper's condition: the codebook starts by Xavier's distribution, nothing is trained without quantisation
first, no code is restarted. `--data` is a picture cache (`cogview data cache PICTURES work/images-48 --size
48`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from experiment import Experiment, Found, Run, bars, curves, main
from PIL import Image
from world import World, combinations, hues

from cogview.cli.app import main as cogview
from cogview.tokenizers.quantizers import METHODS

PALETTE = np.random.default_rng(0).integers(30, 256, (8, 3), dtype=np.uint8)


def measure(run: Run) -> Found:
    """PSNR in decibels and the share of codes in use, of held-out pictures."""
    return {name: run.last(name) for name in ("psnr", "usage")}


def write_pictures(directory: Path, world: World) -> Path:
    """A picture cache of the world's pictures, in colours, for a rehearsal."""
    cache, folder, known = directory / "cache", directory / "pictures", combinations()
    if not cache.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(world.items):
            shown = PALETTE[hues(known[number * 7 % len(known)], world.side)]
            Image.fromarray(shown).resize((48, 48), Image.Resampling.NEAREST).save(folder / f"{number}.png")
        words = ["data", "cache", str(folder), str(cache), "--size", "48", "--validation", "0.1"]
        assert cogview(words) == 0
    return cache


def plot(found: Found, figure: Any) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(2, 1.3))
    curves(found, left, width=2)
    left.set(xlabel="step", ylabel="L2 loss", yscale="log")
    bars(found, right, "psnr")
    values = [own["figures"]["psnr"]["value"] for own in found["arms"].values()]
    right.set(ylabel="PSNR of held-out pictures, dB", ylim=(min(values) - 2, max(values) + 0.5))
    right.tick_params(axis="x", rotation=20)


EXPERIMENT = Experiment(
    name="figure2",
    claim="CogView, figure 2: four methods to train the codebook are basically evenly matched",
    arms={method.replace("_", " "): [f"model.method={method}"] for method in METHODS},
    recipe=Path(__file__).with_name("image_tokenizer.yaml"),
    rehearsal=["steps=6", "batch_size=4", "model.channels=[8,8,8]", "model.codes=32", "model.code_dim=8"],
    measure=measure,
    curve="l2",
    data=write_pictures,
    worlds=(World(items=2048), World(items=64)),
    plot=plot,
)

if __name__ == "__main__":
    main(EXPERIMENT)
