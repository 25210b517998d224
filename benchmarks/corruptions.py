"""Do FID and KID order corruptions by their strength, with the network that is really used?

Pictures of a corpus are split in two halves. The one half is compared with the other as it is, and blurred,
noisy, cut into shuffled patches, each in three strengths; every figure has to rise.

    python benchmarks/corruptions.py --corpus corpus --weights lite0.safetensors
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from cogview.evaluation.metrics.fid import DistributionPlan, compare_pictures, open_extractor
from cogview.evaluation.metrics.image_sets import ImageSet, open_set
from cogview.evaluation.reports import versions

STRENGTHS = (1, 2, 3)
Spoil = Callable[[Image.Image, int, np.random.Generator], Image.Image]


def blur(image: Image.Image, strength: int, chance: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(image.width / 144 * strength))


def noise(image: Image.Image, strength: int, chance: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image) + chance.normal(0, 10 * strength, (image.height, image.width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def shuffle(image: Image.Image, strength: int, chance: np.random.Generator) -> Image.Image:
    """2, 4, 8 patches a side change places."""
    count = 2**strength
    side = image.width // count
    boxes = [(x * side, y * side, (x + 1) * side, (y + 1) * side) for x in range(count) for y in range(count)]
    result = image.copy()
    for box, other in zip(boxes, chance.permutation(len(boxes)).tolist(), strict=True):
        result.paste(image.crop(boxes[other]), box)
    return result


def spoiled(pictures: ImageSet, how: Spoil, strength: int) -> ImageSet:
    """Every picture corrupted, with a seed of its own."""
    entries = []
    for i in range(len(pictures)):
        buffer = io.BytesIO()
        how(pictures.image(i), strength, np.random.default_rng([strength, i])).save(buffer, "PNG")
        entries.append((f"{i:06d}", buffer.getvalue()))
    return ImageSet(f"{how.__name__} {strength}", tuple(entries))


def rising(values: list[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--source", default="emoji")
    parser.add_argument("--count", type=int, default=400, help="pictures of each half")
    parser.add_argument("--work", type=Path, default=Path("runs/corruptions"))
    arguments = parser.parse_args()
    both = open_set(arguments.corpus, "train", arguments.source, 2 * arguments.count)
    real = ImageSet("one half", both.entries[: arguments.count])
    other = ImageSet("the other half", both.entries[arguments.count :])
    extractor, plan = open_extractor(arguments.weights), DistributionPlan(bootstrap=0)
    found: dict[str, dict[str, float]] = {}

    def measure(drawn: ImageSet) -> None:
        report = compare_pictures(real, drawn, plan, extractor, arguments.work, any_size=True)
        assert report is not None
        found[drawn.where] = {name: round(value.value, 5) for name, value in report.figures.items()}
        print(drawn.where, found[drawn.where], file=sys.stderr, flush=True)

    measure(other)
    for how in (blur, noise, shuffle):
        for strength in STRENGTHS:
            measure(spoiled(other, how, strength))
    ordered = {
        f"{name}, {how.__name__}": rising(
            [found[where][name] for where in (other.where, *(f"{how.__name__} {s}" for s in STRENGTHS))]
        )
        for name in found[other.where]
        for how in (blur, noise, shuffle)
    }
    facts = {
        "source": arguments.source,
        "count": arguments.count,
        "reference": real.fingerprint,
        "extractor": extractor.name,
        "extractor_fingerprint": extractor.fingerprint,
    }
    print(json.dumps({**facts, "figures": found, "rising": ordered, **versions()}, indent=2))


if __name__ == "__main__":
    main()
