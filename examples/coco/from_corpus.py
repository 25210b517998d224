"""A small set in MS-COCO's format from captioned pictures of one's own, to try the papers' protocol on.

python examples/coco/from_corpus.py CORPUS --split test_comp -n 40 --out coco
cogview eval coco --captions coco/captions.json --images coco/images --model pictogram \
    --weights lite0.safetensors -n 40 --best-of 4 --out coco.json

CORPUS is anything `cogview data` reads. Every picture is a PNG of its own size with all its captions in one
language (`--language`), each an annotation, as COCO's pictures have five.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cogview.data.images import BadImage, decode
from cogview.data.sources import Record, open_source
from cogview.errors import CogViewError
from cogview.evaluation.judges.captioned import texts_of


def choose(args: argparse.Namespace) -> Iterator[tuple[Record, list[str]]]:
    """``-n`` records with captions in the language, in an order that their keys decide."""
    records = [own for own in open_source(args.corpus).records() if args.split in (None, own.split)]
    records.sort(key=lambda own: hashlib.sha256(own.key.encode()).digest())
    left = args.n
    for record in records:
        texts = [text for text, language in texts_of(record, True) if language == args.language]
        if texts and record.image is not None and left:
            left -= 1
            yield record, texts
    if left:
        raise CogViewError(
            f"{args.corpus}: {args.n - left} pictures have captions in {args.language!r}, not {args.n}"
        )


def write(args: argparse.Namespace) -> dict[str, list[dict[str, object]]]:
    """Write the pictures; what ``captions.json`` says of them."""
    images, annotations = list[dict[str, object]](), list[dict[str, object]]()
    folder = args.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (record, texts) in enumerate(choose(args), 1):
        assert record.image is not None
        try:
            picture = decode(record.image).image
        except BadImage as error:
            raise CogViewError(f"{record.place}: the picture is broken: {error}; take it out") from None
        name = f"{number:012d}.png"
        picture.save(folder / name)
        images.append({"id": number, "file_name": name, "width": picture.width, "height": picture.height})
        for text in texts:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "caption": text})
    return {"images": images, "annotations": annotations}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", type=Path, help="pictures with captions, as `cogview data` reads")
    parser.add_argument("--split", default=None, help="only this split")
    parser.add_argument("--language", default="en")
    parser.add_argument("-n", type=int, default=40, help="pictures")
    parser.add_argument("--out", type=Path, default=Path("coco"))
    args = parser.parse_args(words)
    found = write(args)
    (args.out / "captions.json").write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(found['images'])} pictures, {len(found['annotations'])} captions")


if __name__ == "__main__":
    try:
        main()
    except CogViewError as error:
        sys.exit(f"error: {error}")
