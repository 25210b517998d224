"""Build the bilingual corpus of the pictogram model out of ordinary packages.

    python corpus.py fetch         download the pinned packages (npm, apt-get and dpkg-deb are needed)
    python corpus.py build         draw every picture and write Parquet files
    python corpus.py finish        mark test pictures whose pixels are also in the training part
    python corpus.py attributions  write who made what into NOTICE

A row is one picture (144 x 144, lossless WebP) with its captions, style words, keywords, licence and split;
see README.md. ``build`` depends on nothing but the packages' versions: keys, captions and splits never
change. ``build --size 216 --share 0.1`` draws a tenth of them larger, for super-resolution.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sources.avatars import avatar_drawings
from sources.clipart import clipart_drawings
from sources.drawing import SIZE, Canvas, Drawing, fraction, square
from sources.emoji import emoji_drawings
from sources.flags import flag_drawings
from sources.icons import icon_drawings
from sources.packages import FetchError, attributions, fetch

Row = dict[str, Any]
ROWS_PER_FILE = 8000
LIST_COLUMNS = ("en_kw", "zh_kw", "en_more", "zh_more")
BEGIN, END = "--- pictogram corpus: begin ---", "--- pictogram corpus: end ---"

SOURCES: dict[str, Callable[[Path], Iterator[Drawing]]] = {
    "emoji": emoji_drawings,
    "icon": icon_drawings,
    "flag": flag_drawings,
    "dice": lambda packages: avatar_drawings(),
    "clip": clipart_drawings,
}


class BlankError(Exception):
    """The picture is (almost) of one colour."""


@dataclass
class Writer:
    """Collects rows and writes them to numbered Parquet files."""

    folder: Path
    source: str
    rows: list[Row] = field(default_factory=list)
    parts: int = 0
    written: int = 0

    def add(self, row: Row) -> None:
        """Add one row; a full file is written."""
        self.rows.append(row)
        if len(self.rows) == ROWS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if not self.rows:
            return
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        kinds = {name: arrow.string() for name in self.rows[0]} | {"image": arrow.binary()}
        kinds |= {name: arrow.list_(arrow.string()) for name in LIST_COLUMNS}
        schema = arrow.schema(list(kinds.items()))
        path = self.folder / f"{self.source}-{self.parts:03d}.parquet"
        parquet.write_table(arrow.Table.from_pylist(self.rows, schema=schema), path, compression="zstd")
        self.written += len(self.rows)
        self.parts += 1
        self.rows = []


def pixels(drawing: Drawing) -> Image.Image:
    """The drawing at the corpus's size; raises BlankError where there is nothing to see."""
    image = drawing.draw()
    if image.size != (Canvas.side, Canvas.side):
        image = square(image, margin=0)
    if np.asarray(image).std() < 2:
        raise BlankError("blank")
    return image


def row_of(drawing: Drawing) -> Row:
    """One row of the corpus; draws the picture."""
    image = pixels(drawing)
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True, quality=70, method=2)
    return {
        "key": drawing.key,
        "source": drawing.source,
        "style": drawing.style,
        "style_en": drawing.style_words.en,
        "style_zh": drawing.style_words.zh,
        "concept": drawing.concept,
        "en": drawing.caption.en,
        "zh": drawing.caption.zh,
        "en_kw": drawing.en_keywords,
        "zh_kw": drawing.zh_keywords,
        "en_more": [words.en for words in drawing.wordings],
        "zh_more": [words.zh for words in drawing.wordings],
        "meta": json.dumps(drawing.meta, ensure_ascii=False),
        "licence": drawing.licence,
        "split": drawing.split,
        "sha1": hashlib.sha1(image.tobytes()).hexdigest(),
        "image": file.getvalue(),
    }


def sampled(drawings: Iterator[Drawing], share: float) -> Iterator[Drawing]:
    """About this share of the drawings, always the same ones."""
    return (drawing for drawing in drawings if share >= 1 or fraction("share", drawing.key) < share)


def build_source(source: str, packages: Path, out: Path, limit: int | None, share: float = 1) -> None:
    """Draw one source and write its files; what cannot be drawn is listed in ``SOURCE.bad.json``."""
    writer, bad = Writer(out, source), list[tuple[str, str]]()
    for drawing in itertools.islice(sampled(SOURCES[source](packages), share), limit):
        try:
            writer.add(row_of(drawing))
        except Exception as error:  # the renderer raises many kinds for odd SVG
            bad.append((drawing.key, str(error).splitlines()[0][:100]))
    writer.flush()
    (out / f"{source}.bad.json").write_text(json.dumps(bad, ensure_ascii=False, indent=0), "utf-8")
    print(f"{source}: {writer.written} pictures, {len(bad)} left out", flush=True)


def finish(out: Path) -> None:
    """Mark as ``drop`` every test or validation picture whose very pixels are also in the training part."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    files = sorted(out.glob("*.parquet"))
    facts = [parquet.read_table(file, columns=["sha1", "split"]).to_pylist() for file in files]
    train = {row["sha1"] for rows in facts for row in rows if row["split"] == "train"}
    dropped = 0
    for file, rows in zip(files, facts, strict=True):
        leaks = [row["split"] != "train" and row["sha1"] in train for row in rows]
        splits = ["drop" if leak else row["split"] for leak, row in zip(leaks, rows, strict=True)]
        table = parquet.read_table(file)
        place = table.schema.get_field_index("split")
        table = table.set_column(place, table.schema.field(place), arrow.array(splits))
        parquet.write_table(table, file, compression="zstd")
        dropped += sum(leaks)
    print(f"{dropped} pictures left the test parts: they are in the training part as well")


def write_attributions(notice: Path) -> None:
    """Replace the corpus's section of NOTICE, or append it."""
    section = "\n".join([BEGIN, "", *_section(), "", END])
    text = notice.read_text("utf-8") if notice.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    gap = "" if not before or before.endswith("\n\n") else "\n"
    notice.write_text(before + gap + section + after, "utf-8")


def _section() -> Iterator[str]:
    yield "The pictogram model was trained on pictures and names from the works below. Their pictures were"
    yield "rendered at 144 x 144 pixels on white, some recoloured or mirrored. None is in this package."
    yield "CC BY 4.0: https://creativecommons.org/licenses/by/4.0/. The Apache License 2.0 is in LICENSE."
    yield ""
    yield from attributions()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the pictogram corpus.")
    parser.add_argument("command", choices=["fetch", "build", "finish", "attributions"])
    parser.add_argument(
        "--packages", type=Path, default=Path("packages"), help="where the packages are unpacked"
    )
    parser.add_argument("--out", type=Path, default=Path("corpus"), help="where the Parquet files go")
    parser.add_argument("--notice", type=Path, default=Path(__file__).parents[2] / "NOTICE")
    parser.add_argument("--only", nargs="*", choices=list(SOURCES), default=list(SOURCES), metavar="SOURCE")
    parser.add_argument("--limit", type=int, help="draw only the first few of each source")
    parser.add_argument("--share", type=float, default=1, help="draw about this share of each source")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels a side")
    return parser.parse_args()


def main() -> None:
    """Run one command."""
    options = arguments()
    if options.command == "fetch":
        fetch(options.packages)
    elif options.command == "build":
        options.out.mkdir(parents=True, exist_ok=True)
        Canvas.side = options.size
        for source in options.only:
            build_source(source, options.packages, options.out, options.limit, options.share)
    elif options.command == "finish":
        finish(options.out)
    else:
        write_attributions(options.notice)


if __name__ == "__main__":
    try:
        main()
    except (FetchError, FileNotFoundError) as error:
        sys.exit(f"corpus.py: {error}")
