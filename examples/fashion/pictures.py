"""Pictures of one domain for CogView's section 3.4, at a size for a CPU: clothes, and people who wear them.

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb work/fashion-mnist
    python pictures.py work/fashion-mnist/usr/share/datasets/fashion-mnist --corpus corpus --out PICTURES

Grey photographs of ten kinds of clothes (Fashion-MNIST; Zalando Research, MIT), negated to lie on white,
and the avatars of the pictogram corpus, each with a caption in English and one in Chinese beside it.
"""

from __future__ import annotations

import argparse
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image

SIDE = 72
KINDS = (
    ("a T-shirt", "一件T恤"),
    ("trousers", "一条裤子"),
    ("a pullover", "一件套头衫"),
    ("a dress", "一条连衣裙"),
    ("a coat", "一件外套"),
    ("a sandal", "一只凉鞋"),
    ("a shirt", "一件衬衫"),
    ("a sneaker", "一只运动鞋"),
    ("a bag", "一个包"),
    ("an ankle boot", "一只短靴"),
)
PHOTOGRAPH = ("grey photograph of {}", "{}的黑白照片")

Pair = tuple[str, Image.Image, tuple[str, str]]


def clothes(folder: Path, count: int) -> Iterator[Pair]:
    """The first ``count`` training pictures of Fashion-MNIST, as (name, picture, captions)."""
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    for number in range(min(count, len(pixels))):
        picture = Image.fromarray(255 - np.pad(pixels[number], 2)).convert("RGB")
        english, chinese = (
            template.format(words) for template, words in zip(PHOTOGRAPH, KINDS[labels[number]], strict=True)
        )
        yield (
            f"clothes-{number:05d}",
            picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC),
            (english, chinese),
        )


def avatars(corpus: Path, count: int, style: str) -> Iterator[Pair]:
    """``count`` training avatars of a style, spread over the corpus."""
    found = 0
    for path in sorted(corpus.glob("*.parquet")):
        table = parquet.read_table(path, filters=[("source", "=", "dice"), ("style", "=", style)])
        for row in table.to_pylist():
            if row["split"] != "train":
                continue
            if found == count:
                return
            picture = Image.open(io.BytesIO(row["image"])).convert("RGB")
            yield (
                f"{style}-{found:05d}",
                picture.resize((SIDE, SIDE), Image.Resampling.BOX),
                (row["en"], row["zh"]),
            )
            found += 1


def main() -> None:
    """Write the pictures, a text file beside each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clothes", type=Path, help="the folder with Fashion-MNIST's four files")
    parser.add_argument("--corpus", type=Path, required=True, help="the pictogram corpus")
    parser.add_argument("--style", default="personas", help="of the avatars")
    parser.add_argument("--count", type=int, default=3000, help="of each kind")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pairs = [*clothes(options.clothes, options.count), *avatars(options.corpus, options.count, options.style)]
    for name, picture, captions in pairs:
        picture.save(options.out / f"{name}.png")
        (options.out / f"{name}.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    print(f"{len(pairs):,} pictures in {options.out}")


if __name__ == "__main__":
    main()
