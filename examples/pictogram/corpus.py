"""The bilingual corpus of the pictogram model, rendered from ordinary packages.

    python corpus.py fetch         download the pinned packages (npm, apt-get and dpkg-deb are needed)
    python corpus.py plan          measure every drawing and write the tables of rows
    python corpus.py sheet         contact sheets of random rows with their captions, to look at
    python corpus.py cache         render pictures for training the image tokenizer
    python corpus.py build         write rows as Parquet files, for other tools
    python corpus.py attributions  write who made what into NOTICE

A row is one variant of one drawing with its captions; it is rendered when it is read (``tokens.py`` makes
token shards of the rows). See README.md.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from plan import (
    Row,
    measured,
    plan,
    read_rows,
    read_settings,
    tokenizer_rows,
    training_rows,
    write_rows,
)
from rows_source import ChainSource, RowsSource, Sprites, captions_of, render
from sources.drawing import fraction
from sources.packages import FetchError, attributions, fetch
from sources.sprites import SIDE, Sprite, load_sprites
from things import load_rare, load_things

from cogview.data.image_cache import build_image_cache
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError

ROWS_PER_FILE = 8000
SHEET = 24  # rows on a contact sheet
BEGIN, END = "--- pictogram corpus: begin ---", "--- pictogram corpus: end ---"


def sampled(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most ``limit`` rows of all sources, chosen by hash; all where there is no limit."""
    if limit is None or limit >= len(rows):
        return list(rows)
    share = limit / len(rows)
    return [row for row in rows if fraction("limit", row.key) < share][:limit]


def all_sprites(packages: Path) -> list[Sprite]:
    """The drawings of everyday things and of everything else."""
    things = load_things()
    rare = load_rare(things=things)
    return load_sprites(packages, things, [*rare, *(entry.emoji for entry in rare.values())])


def table(work: Path, name: str = "rows") -> Path:
    """Where a table of rows lies."""
    return work / f"{name}.jsonl"


def open_rows(
    packages: Path, work: Path, name: str = "rows", limit: int | None = None, side: int = SIDE
) -> RowsSource:
    """The rows that ``plan`` wrote, as a source of pictures of (at least) ``side`` pixels.

    Raises CogViewError where there are none.
    """
    path = table(work, name)
    if not path.is_file():
        raise CogViewError(f"{path} is not there; run corpus.py plan first")
    return RowsSource(sampled(read_rows(path), limit), Sprites(all_sprites(packages)), path, side)


def write_plan(packages: Path, work: Path, pictures: int, limit: int | None) -> None:
    """Measure the drawings, write the tables and print what they hold.

    ``rows``: drawings in all places, for judges; ``tokenizer``: the image tokenizer's; ``training``: the
    transformer's.
    """
    settings, sprites = read_settings(), all_sprites(packages)
    share = 1.0 if limit is None else min(1.0, limit / len(sprites))
    if share < 1:
        sprites = [sprite for sprite in sprites if fraction("limit", sprite.concept) < share]
        settings = settings.scaled(share)
    facts = measured(sprites, work / "facts.jsonl", settings)
    rows = list(plan(sprites, facts, settings))
    report(rows, write_rows(rows, table(work)))
    chosen = tokenizer_rows(sprites, facts, rows, settings, round(pictures * share))
    write_rows(chosen, table(work, "tokenizer"))
    print(f"{len(chosen):,} pictures for the image tokenizer")
    learnt = list(training_rows(sprites, facts, settings.avatars, settings.withheld))
    print("what a transformer learns:")
    report(learnt, write_rows(learnt, table(work, "training")))


def report(rows: Sequence[Row], counts: Counter[tuple[str, str]]) -> None:
    """Print counts by source and split, and the things with the fewest rows to train on."""
    splits = sorted({split for _, split in counts})
    print("source".ljust(10), *(split.rjust(13) for split in splits))
    for source in dict.fromkeys(row.source for row in rows):
        print(source.ljust(10), *(f"{counts[source, split]:,}".rjust(13) for split in splits))
    print(f"{len(rows):,} rows")
    house = Counter(row.thing for row in rows if row.source == "house" and row.split == "train")
    if house:
        fewest = ", ".join(f"{thing} {count}" for thing, count in house.most_common()[:-6:-1])
        print(f"{len(house):,} things in training, the fewest rows: {fewest}")


def write_cache(rows: RowsSource, options: argparse.Namespace, out: Path) -> None:
    """Pictures for training the image tokenizer: its rows, then scenes."""
    from scenes_source import open_scenes  # which needs this file

    count = options.scenes if options.limit is None else min(options.scenes, options.limit // 5)
    source = ChainSource([rows, open_scenes(options.packages, options.work, count)])
    build_image_cache(source, out, Preprocessing(size=options.size, resample="box"))


def write_sheets(source: RowsSource, out: Path, count: int, seed: int, only: Sequence[str] = ()) -> None:
    """Contact sheets of random rows, 24 each, with some captions."""
    rows = [row for row in source.rows if not only or row.source in only]
    chosen = random.Random(seed).sample(rows, min(count, len(rows)))
    out.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(chosen), SHEET)):
        path = out / f"sheet-{number:02d}.png"
        _sheet(source.sprites, chosen[start : start + SHEET]).save(path)
        print(path)


def _sheet(sprites: Sprites, rows: Iterable[Row]) -> Image.Image:
    sheet = Image.new("RGB", (4 * 420, 6 * 150), "white")
    draw, font = ImageDraw.Draw(sheet), _font()
    for place, row in enumerate(rows):
        sprite, left, top = sprites[row.sprite], place % 4 * 420, place // 4 * 150
        sheet.paste(render(sprite, row).resize((140, 140)), (left, top))
        chance = random.Random(row.key)
        said = captions_of(sprite, row)
        lines = [f"{row.key} · {row.split}"]
        for language in ("en", "zh"):
            texts = [caption.text for caption in said if caption.language == language]
            lines += chance.sample(texts, min(4, len(texts)))
        for number, text in enumerate(lines):
            draw.text((left + 146, top + 15 * number), text[:52], fill="black", font=font)
    return sheet


def _font() -> Any:
    """A font with Chinese characters, where the system has one that Pillow finds."""
    for name in (
        "NotoSansCJK-Regular.ttc",
        "NotoSansSC-Regular.otf",
        "wqy-microhei.ttc",
        "DroidSansFallbackFull.ttf",
    ):
        try:
            return ImageFont.truetype(name, 11)
        except OSError:
            continue
    return ImageFont.load_default(11)


def build(source: RowsSource, out: Path) -> None:
    """Write rows as Parquet files that ``cogview data check`` and other tools read."""
    out.mkdir(parents=True, exist_ok=True)
    for part, start in enumerate(range(0, len(source), ROWS_PER_FILE)):
        rows = source.rows[start : start + ROWS_PER_FILE]
        _write_parquet([_columns(source.sprites, row) for row in rows], out / f"rows-{part:03d}.parquet")
    print(f"{len(source):,} rows in {out}")


def _columns(sprites: Sprites, row: Row) -> dict[str, Any]:
    sprite = sprites[row.sprite]
    file = io.BytesIO()
    render(sprite, row).save(file, "WEBP", lossless=True, quality=70, method=2)
    texts = {
        language: [one.text for one in captions_of(sprite, row) if one.language == language]
        for language in ("en", "zh")
    }
    return {
        "key": row.key,
        "source": row.source,
        "style": row.style,
        "thing": row.thing,
        "concept": sprite.concept,
        **{language: said[0] for language, said in texts.items()},
        **{f"{language}_more": said[1:] for language, said in texts.items()},
        "meta": json.dumps(dict(sprite.meta), ensure_ascii=False),
        "variant": json.dumps(row.variant.as_json()),
        "licence": row.licence,
        "split": row.split,
        "image": file.getvalue(),
    }


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    kinds = {
        name: arrow.list_(arrow.string()) if isinstance(value, list) else arrow.string()
        for name, value in rows[0].items()
    }
    schema = arrow.schema(list((kinds | {"image": arrow.binary()}).items()))
    parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def write_attributions(notice: Path) -> None:
    """Replace the corpus's section of NOTICE, or append it."""
    section = "\n".join([BEGIN, "", *_section(), "", END])
    text = notice.read_text("utf-8") if notice.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    gap = "" if not before or before.endswith("\n\n") else "\n"
    notice.write_text(before + gap + section + after, "utf-8")


def _section() -> Iterator[str]:
    yield "The pictogram models were trained on pictures and names from the works below. Their pictures were"
    yield "rendered at up to 256 x 256 pixels, many recoloured, mirrored or placed on other backgrounds."
    yield "None is in this package."
    yield "CC BY 3.0: https://creativecommons.org/licenses/by/3.0/."
    yield "CC BY 4.0: https://creativecommons.org/licenses/by/4.0/. The Apache License 2.0 is in LICENSE."
    yield ""
    yield from attributions()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the pictogram corpus.")
    parser.add_argument("command", choices=["fetch", "plan", "sheet", "cache", "build", "attributions"])
    parser.add_argument("--packages", type=Path, default=Path("packages"), help="where packages are unpacked")
    parser.add_argument("--work", type=Path, default=Path("corpus"), help="where the tables of rows lie")
    parser.add_argument("--out", type=Path, help="where sheets, the picture cache or Parquet files go")
    parser.add_argument("--notice", type=Path, default=Path(__file__).parents[2] / "NOTICE")
    parser.add_argument("--only", nargs="*", default=[], metavar="SOURCE", help="sources to show on sheets")
    parser.add_argument("--count", type=int, default=48, help="rows to show on sheets")
    parser.add_argument("--pictures", type=int, default=60_000, help="pictures for the image tokenizer")
    parser.add_argument("--scenes", type=int, default=12_000, help="composed scenes for the image tokenizer")
    parser.add_argument("--size", type=int, default=SIDE, help="pixels a side of cached pictures")
    parser.add_argument("--seed", type=int, default=0, help="which rows to show")
    parser.add_argument("--limit", type=int, help="about so many drawings (plan) or rows, for a trial")
    return parser.parse_args()


def main() -> None:
    """Run one command."""
    options = arguments()
    out = options.out or options.work / options.command
    if options.command == "fetch":
        fetch(options.packages)
    elif options.command == "plan":
        write_plan(options.packages, options.work, options.pictures, options.limit)
    elif options.command == "attributions":
        write_attributions(options.notice)
    else:
        name = "tokenizer" if options.command == "cache" else "rows"
        source = open_rows(options.packages, options.work, name, options.limit, options.size)
        if options.command == "sheet":
            write_sheets(source, out, options.count, options.seed, options.only)
        elif options.command == "cache":
            write_cache(source, options, out)
        else:
            build(source, out)


if __name__ == "__main__":
    try:
        main()
    except (CogViewError, FetchError, FileNotFoundError) as error:
        sys.exit(f"corpus.py: {error}")
