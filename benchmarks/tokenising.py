"""Tokenising (`cogview data build`) against the bare encoder, and how much smaller the shards are.

    python benchmarks/tokenising.py

Pictures are made first: smooth random scenes as JPEG files of ``--side`` pixels. Then, in turns, the image
tokenizer encodes tensors that are ready (*bare*), and a whole build runs over the files: reading, decoding
in ``--workers`` processes, squares, codes, captions, shards. The ratio of their rates is what the pipeline
leaves of the encoder's own speed. Both are given by the wall clock, which other work on the machine distorts,
and in processor time of the main process: what is left to wait for where the workers have their own cores.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cogview.checkpoints.bundle import ModelBundle
from cogview.data.build import Builder, BuildSettings
from cogview.data.encoding import OnDevice, encoding_device
from cogview.data.shards import Preprocessing
from cogview.data.sources import open_source
from cogview.tokenizers.loading import read_image_tokenizer


def scene(number: int, side: int) -> bytes:
    """A JPEG of smooth colours and some edges, about as large as a photograph of that size."""
    rng = np.random.default_rng(number)
    layers = [rng.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (3, 9, 40)]
    images = [
        np.asarray(Image.fromarray(layer).resize((side, side), Image.Resampling.BICUBIC), np.float32)
        for layer in layers
    ]
    mixed = 0.5 * images[0] + 0.3 * images[1] + 0.2 * images[2]
    file = io.BytesIO()
    Image.fromarray(mixed.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_pictures(folder: Path, given: argparse.Namespace) -> None:
    """Files with captions beside them."""
    for number in range(given.pictures):
        (folder / f"{number:05d}.jpg").write_bytes(scene(number, given.side))
        (folder / f"{number:05d}.txt").write_text(f"a scene with the number {number}\n")


def turn(folder: Path, out: Path, family: ModelBundle, given: argparse.Namespace) -> dict[str, Any]:
    """Both rates once, in pictures a second; a build's includes the start of its processes."""
    at = family.directory / family.config.image_tokenizer
    tokenizer = read_image_tokenizer(at)
    encoder = OnDevice(tokenizer, encoding_device(given.device))
    size = tokenizer.image_size
    ready = torch.rand(given.batch, 3, size, size)
    settings = BuildSettings(preprocessing=Preprocessing(size=size), batch=given.batch, workers=given.workers)
    builder = Builder(open_source(folder), out, encoder, family.text_tokenizer(), settings)
    with torch.inference_mode():
        encoder.encode(ready)
        rounds = max(1, given.pictures // given.batch)
        began = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            encoder.encode(ready)
        bare = [given.batch * rounds / (now - then) for now, then in zip(_clocks(), began, strict=True)]
    began = time.perf_counter(), time.process_time()
    report = builder.run().report
    built = [given.pictures / (now - then) for now, then in zip(_clocks(), began, strict=True)]
    assert report is not None and report.good == given.pictures
    shards = sum(file.stat().st_size for file in out.glob("shard-*/*.bin"))
    return {"bare": bare, "build": built, "smaller": report.picture_bytes / shards,
            "bytes_a_picture": report.picture_bytes / report.good}  # fmt: skip


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (
        ("pictures", 512),
        ("side", 256),
        ("workers", 1),
        ("batch", 64),
        ("turns", 3),
        ("threads", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--model", default="pictogram", help="whose tokenizers")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "tokenising.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    family = ModelBundle.find(given.model)
    turns: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "pictures", Path(place) / "tokens"
        folder.mkdir()
        make_pictures(folder, given)
        for _ in range(given.turns):
            turns.append(turn(folder, out, family, given))
            shutil.rmtree(out)
    ratios = {
        clock: statistics.median(found["build"][place] / found["bare"][place] for found in turns)
        for place, clock in enumerate(("wall", "processor"))
    }
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    result = {"settings": settings, **machine, "ratio_of_rates": ratios, "turns": turns}
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    for found in turns:
        rates = [f"{n} {found[n][0]:.0f}/s ({found[n][1]:.0f}/s processor)" for n in ("bare", "build")]
        size = found["bytes_a_picture"] / 1000
        print(f"{', '.join(rates)}; a file {size:.1f} kB, shards {found['smaller']:.1f} times smaller")
    print("build against bare encoder: " + ", ".join(f"{name} {ratio:.0%}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()
