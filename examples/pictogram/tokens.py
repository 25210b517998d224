"""Token shards of the corpus: every row and scene is rendered when it is read, encoded and written.

python tokens.py --image-tokenizer runs/tokenizer/model --text-tokenizer work/text.model --out work/shards

What `cogview data build` does for files; a build that stopped goes on where it was. Several ranks share the
work: ``--rank 0 --ranks 2`` and ``--rank 1 --ranks 2`` at the same time, into the same folder. With
``--super-resolution --size 256`` each picture is encoded at 256 px and at 128, for upscaling.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from corpus import open_rows
from rows_source import ChainSource
from scenes_source import open_scenes

from cogview.data.build import Builder, BuildSettings, Share
from cogview.data.encoding import OnDevice
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.tokenizers.loading import read_image_tokenizer
from cogview.tokenizers.text import TextTokenizer


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make token shards of the pictogram corpus.")
    parser.add_argument("--packages", type=Path, default=Path("packages"), help="where packages are unpacked")
    parser.add_argument("--work", type=Path, default=Path("corpus"), help="where the tables of rows lie")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--image-tokenizer", type=Path, required=True)
    parser.add_argument("--text-tokenizer", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128, help="pixels a side that the image tokenizer reads")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--super-resolution", action="store_true", help="encode at half the size as well")
    parser.add_argument("--half", action="store_true", help="encode in bfloat16; faster where the CPU has it")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=40_000, help="composed scenes, after all rows")
    parser.add_argument("--table", default="training", help="the table of rows that is encoded")
    parser.add_argument("--limit", type=int, help="about so many rows, for a trial")
    parser.add_argument("--restart", action="store_true", help="begin again where another build lies")
    return parser.parse_args()


def main() -> None:
    """Build this rank's shards; the last rank writes the index."""
    options = arguments()
    settings = BuildSettings(
        preprocessing=Preprocessing(size=options.size, resample="box"),
        super_resolution=options.super_resolution,
        batch=options.batch,
    )
    rows = open_rows(options.packages, options.work, options.table, options.limit, options.size)
    count = options.scenes if options.limit is None else min(options.scenes, options.limit // 3)
    builder = Builder(
        ChainSource([rows, open_scenes(options.packages, options.work, count, aligned=True)]),
        options.out,
        OnDevice(read_image_tokenizer(options.image_tokenizer), torch.device("cpu"), options.half),
        TextTokenizer.from_file(options.text_tokenizer),
        settings,
        Share(options.rank, options.ranks),
    )
    found = builder.run(options.restart, lambda done, total: _progress(done, total, options.batch))
    print(f"{found.done} of {found.blocks} shards in {options.out}")
    if found.report:
        print("\n".join(found.report.lines()))


def _progress(done: int, total: int, batch: int) -> None:
    if done % (20 * batch) == 0:
        print(f"{done:,} of {total:,} rows", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (CogViewError, FileNotFoundError) as error:
        sys.exit(f"tokens.py: {error}")
