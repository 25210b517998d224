"""Five hundred pictures of one's own: a shipped model finetuned whole and by LoRA, before and after.

python examples/finetuning/run.py --packages PACKAGES --out work/finetuning
python examples/finetuning/run.py --packages PACKAGES --out work/finetuning --rehearse   # small and quick

The pictures are drawings of a style that the default model was not trained on (``STYLES`` in
examples/pictogram/sources/styles.py, *withheld*), with a caption in English and one in Chinese each. PACKAGES
is what ``python examples/pictogram/corpus.py fetch`` unpacks. Both ways are ``cogview train-on --from``. What
is done already is not done again.

OUT/pictures           the folder that is trained on
OUT/whole, OUT/lora    the finetuned models; beside them what they said (.log) and their runs (.work)
OUT/finetuning.json    first losses beside the model's own, the curves, how long each took
OUT/sheet.png          a prompt a row: as the model was, whole, LoRA; none of these things was trained on
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from PIL import Image

import cogview
from cogview.cli.app import main as command_line
from cogview.training.metrics_file import MetricsFile

sys.path.insert(0, str(Path(__file__).parents[1] / "pictogram"))

from sources.drawing import fraction, on_white
from sources.sprites import Sprite, load_sprites

WAYS = {"whole": [], "lora": ["--lora", "8"]}
REHEARSAL = ["transformer.steps=2", "transformer.batch_size=4", "transformer.intervals.log=1"]
SEED = 7


def captions(sprite: Sprite) -> tuple[str, str]:
    """What a drawing is called with its style, in English and in Chinese."""
    name, style = sprite.names[0], sprite.style_words
    return f"{name.en}, {style.en} style", f"{name.zh}，{style.zh}风格"


def drawings(packages: Path, style: str, count: int, kept: int) -> tuple[list[Sprite], list[Sprite]]:
    """``count`` drawings to train on and ``kept`` others to ask for, chosen by a hash of their names."""
    found = [sprite for sprite in load_sprites(packages, sources=("emoji",)) if sprite.style == style]
    found.sort(key=lambda sprite: fraction("finetuning", sprite.key))
    if len(found) < count + kept:
        raise SystemExit(f"{packages}: {len(found)} drawings of {style}, {count + kept} are needed")
    return found[:count], found[count : count + kept]


def write_pictures(chosen: list[Sprite], folder: Path) -> None:
    """The drawings on white, 256 pixels, each with its captions beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, sprite in enumerate(chosen):
        path = folder / f"{number:03}-{sprite.key.rpartition('/')[2]}.png"
        path.with_suffix(".txt").write_text("\n".join(captions(sprite)) + "\n", encoding="utf-8")
        if not path.exists():
            on_white(sprite.image()).save(path)


def finetune(name: str, model: str, out: Path, more: list[str]) -> dict[str, Any]:
    """``cogview train-on``; goes on where it was stopped. What its log and its metrics say."""
    words = ["train-on", str(out / "pictures"), "--out", str(out / name), "--from", model, *WAYS[name], *more]
    log, began = out / f"{name}.log", time.monotonic()
    if not (out / name / "family.json").exists():
        with log.open("a", encoding="utf-8") as said, redirect_stdout(said), redirect_stderr(said):
            code = command_line(words)
            print(f"seconds {time.monotonic() - began:.0f}")
        if code:
            raise SystemExit(f"{log}: train-on ended with {code}")
    text = log.read_text(encoding="utf-8")
    lines = MetricsFile(out / f"{name}.work" / "transformer" / "metrics.jsonl").lines()
    return {
        "command": "cogview " + " ".join(words),
        "first": first_losses(text),
        "seconds": sum(map(int, re.findall(r"^seconds (\d+)$", text, re.MULTILINE))),
        **{
            kind: [[line["step"], round(line["loss"], 4)] for line in lines if line["kind"] == kind]
            for kind in ("train", "evaluate")
        },
    }


def first_losses(log: str) -> dict[str, dict[str, float]]:
    """What training said at its start: each loss in nats a token, and the model's own on the same items."""
    pattern = r"(\w+_loss) ([\d.]+) \(the\s+model\s+in\s+init:\s+([\d.]+)\)"
    return {name: {"start": float(start), "own": float(own)} for name, start, own in re.findall(pattern, log)}


def sheet(prompts: list[str], models: list[str]) -> Image.Image:
    """A row a prompt, an image a model, all of one seed."""
    columns = []
    for name in models:
        made = cogview.from_pretrained(name).generate(prompts, seed=SEED)
        columns.append([one.image for one in made])
    return cogview.contact_sheet([image for row in zip(*columns, strict=True) for image in row], len(models))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="pictogram")
    parser.add_argument("--style", default="noto-v1")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--asked", type=int, default=6, help="prompts on the sheet")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="of train-on")
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args(arguments)
    if given.rehearse:
        given.count, given.asked, given.settings = min(given.count, 5), 2, [*REHEARSAL, *given.settings]
    trained, asked = drawings(given.packages, given.style, given.count, given.asked)
    write_pictures(trained, given.out / "pictures")
    more = [word for setting in given.settings for word in ("--set", setting)]
    found: dict[str, Any] = {
        "model": given.model, "hash": cogview.from_pretrained(given.model).model_hash, "style": given.style,
        "pictures": given.count, "seed": SEED,
        "prompts": [captions(sprite)[number % 2] for number, sprite in enumerate(asked)],
    }  # fmt: skip
    for name in WAYS:
        found[name] = finetune(name, given.model, given.out, more)
        print(f"{name}: first {found[name]['first']}, last {found[name]['train'][-1]}", flush=True)
    (given.out / "finetuning.json").write_text(
        json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    models = [given.model, *(str(given.out / name) for name in WAYS)]
    sheet(found["prompts"], models).save(given.out / "sheet.png")


if __name__ == "__main__":
    main()
