"""What does a small transformer learn to generate best? Grids, codebooks and tables of rows, on 30 things.

    python benchmarks/token_study.py --packages packages --work corpus --text-tokenizer work/text.model \
        --features work/lite0.safetensors --tokenizer 12x12=runs/a/model --tokenizer 16x16=runs/b/model

For each image tokenizer: the house drawings of ``--things`` everyday things (chosen by hash, in all their
variants) become token shards, the same transformer learns them for ``--steps`` steps, and the result
generates each bare name. An image counts as right if, among the house drawings of the things, its own is the
nearest in the features of EfficientNet-Lite0 (floor: 1 in 30). With ``--table training`` a drawing's few
variants on the grid of the codes are learnt instead of the free ones of ``rows``. ``examples/pictogram`` says
how packages, tables and tokenizers are made. Results go to ``benchmarks/results/token_study.json``, an entry
for each tokenizer.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from cogview import CogView
from cogview.data.build import Builder, BuildSettings
from cogview.data.shards import Preprocessing
from cogview.evaluation.metrics.lite0 import Lite0
from cogview.tokenizers.loading import read_image_tokenizer
from cogview.tokenizers.text import TextTokenizer

ROOT = Path(__file__).parents[1]
COGVIEW = str(Path(sys.executable).with_name("cogview"))
sys.path.insert(0, str(ROOT / "examples/pictogram"))

from corpus import open_rows  # noqa: E402
from rows_source import RowsSource, render  # noqa: E402
from sources.drawing import fraction  # noqa: E402
from things import load_things  # noqa: E402

RECIPE = {
    "task": "transformer",
    "name": "token-study",
    "seed": 1,
    "precision": "auto",
    "batch_size": 32,
    "mixture": {"style": 0.0, "reworded": 0.5, "empty": 0.06},
    "format": {"kind": "text_to_image", "text_slots": 48, "image_positions": "fixed"},
    "model": {"hidden": 384, "heads": 6, "norm": "sandwich", "norm_relax": "none", "branch_gain": 0.25},
    "softmax": "region",
    "ema": 0.98,
    "optimizer": {
        "kind": "muon", "lr": 0.02, "adam_lr": 2.0e-3, "scale": "spectral", "weight_decay": 0.01,
    },
    "schedule": {"kind": "linear", "warmup": 0.01, "hold": 0.9, "floor": 0.0},
    "intervals": {"log": 10, "evaluate": 0, "sample": 0, "checkpoint": 200, "minutes": 10},
    "keep": 1,
}  # fmt: skip


def chosen_rows(source: RowsSource, things: int) -> tuple[RowsSource, list[str]]:
    """The training rows of some things' house drawings, and the things."""
    names = sorted({row.thing for row in source.rows if row.source == "house"})
    kept = sorted(names, key=lambda name: fraction("token-study", name))[:things]
    rows = [row for row in source.rows if row.source == "house" and row.thing in kept]
    return RowsSource(rows, source.sprites, source.table, source.side), sorted(kept)


def references(source: RowsSource, things: Sequence[str], judge: Lite0) -> torch.Tensor:
    """The features (things, d) of each thing's largest drawing on white."""
    images = []
    for thing in things:
        plain = [
            row
            for row in source.rows
            if row.thing == thing and row.variant.background.kind == "white" and not row.variant.colour
        ]
        row = max(plain, key=lambda row: row.variant.size)
        images.append(render(source.sprites[row.sprite], row))
    return features(judge, images)


@torch.no_grad()
def features(judge: Lite0, images: Sequence[Image.Image]) -> torch.Tensor:
    """Unit features (n, d)."""
    arrays = np.stack([np.asarray(image.convert("RGB").resize((224, 224))) for image in images])
    pixels = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255  # (n, 3, 224, 224)
    found: torch.Tensor = F.normalize(torch.cat([judge(part)[0] for part in pixels.split(16)]), dim=-1)
    return found


def build_tokens(source: RowsSource, tokenizer: Path, text: Path, out: Path) -> int:
    """Token shards; returns how many codes an image has."""
    images = read_image_tokenizer(tokenizer)
    size = images.config.image_size
    settings = BuildSettings(preprocessing=Preprocessing(size=size, resample="box"), batch=64)
    Builder(source, out, images, TextTokenizer.from_file(text), settings).run()
    return images.grid**2


def train(given: argparse.Namespace, tokens: Path, out: Path) -> dict[str, Any]:
    """Train the transformer; returns steps, seconds and the last loss."""
    recipe = RECIPE | {"steps": given.steps, "threads": given.threads}
    recipe["model"] = {**RECIPE["model"], "layers": given.layers}  # type: ignore[dict-item]
    path = out.with_suffix(".yaml")
    path.write_text(json.dumps(recipe))  # JSON is YAML
    started = time.perf_counter()
    command = [COGVIEW, "train", str(path), "--set", f"data={tokens}", "--out", str(out)]
    subprocess.run(command, check=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    return {"steps": given.steps, "seconds": round(time.perf_counter() - started), "loss": losses[-1]}


def judged(
    given: argparse.Namespace, family: Path, things: Sequence[str], judge: Lite0, known: torch.Tensor
) -> dict[str, Any]:
    """Generate every thing's English and Chinese name, look which thing each image is nearest to."""
    words = load_things()
    model = CogView.from_pretrained(family)
    prompts = [text for thing in things for text in (words[thing].en[0], words[thing].zh[0])]
    drawn = model.generate(prompts, n=given.images, seed=0, guidance_scale=2.0, temperature=0.65, top_k=200)
    images = [one.image for one in drawn]
    wanted = torch.arange(len(things)).repeat_interleave(2 * given.images)
    right = (features(judge, images) @ known.T).argmax(-1) == wanted
    sheet(images, 2 * given.images, family.with_suffix(".png"))
    return {"images": len(images), "right": round(float(right.float().mean()), 4)}


def sheet(images: Sequence[Image.Image], columns: int, path: Path) -> None:
    """A contact sheet, one thing a row of ``columns`` images, three things side by side."""
    side, wide = 96, 3 * columns
    page = Image.new("RGB", (wide * side, -(-len(images) // wide) * side), "white")
    for number, image in enumerate(images):
        page.paste(image.convert("RGB").resize((side, side)), (number % wide * side, number // wide * side))
    page.save(path)


def study(name: str, tokenizer: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One tokenizer's entry."""
    torch.set_num_threads(given.threads)
    rows, things = chosen_rows(open_rows(given.packages, given.work, given.table), given.things)
    judge = Lite0.from_file(given.features)
    run, family = given.out / name, given.out / f"{name}-family"
    codes = build_tokens(rows, tokenizer, given.text_tokenizer, given.out / f"{name}-tokens")
    found = train(given, given.out / f"{name}-tokens", run)
    command = [COGVIEW, "assemble", str(family), "--base", str(run)]
    command += ["--image-tokenizer", str(tokenizer), "--text-tokenizer", str(given.text_tokenizer)]
    subprocess.run(command, check=True)
    known = references(rows, things, judge)
    config = read_image_tokenizer(tokenizer).config
    return {
        "codes_an_image": codes,
        "codebook": f"{config.codes} {config.method}",
        "table": given.table,
        "rows": len(rows),
        **found,
        **judged(given, family, things, judge, known),
        "processor": platform.processor() or platform.machine(),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path("packages"))
    parser.add_argument("--work", type=Path, default=Path("corpus"), help="where the tables of rows lie")
    parser.add_argument("--table", default="rows", help="the table of rows that is learnt")
    parser.add_argument("--text-tokenizer", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True, help="what `cogview import lite0` wrote")
    parser.add_argument("--tokenizer", action="append", required=True, metavar="NAME=DIRECTORY")
    parser.add_argument("--out", type=Path, default=Path("runs/token-study"))
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/token_study.json")
    parser.add_argument("--things", type=int, default=30)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--images", type=int, default=4, help="of each name")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for entry in given.tokenizer:
        name, _, directory = entry.partition("=")
        found = study(name, Path(directory), given)
        print(name, json.dumps(found), flush=True)
        kept = json.loads(given.results.read_text()) if given.results.exists() else {}
        given.results.write_text(json.dumps(kept | {name: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
