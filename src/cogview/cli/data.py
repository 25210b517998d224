"""``cogview data``: is a data set fit to train on, and making what training reads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.data.check import Report
    from cogview.data.images import Limits
    from cogview.data.shards import Preprocessing
    from cogview.data.sources import Source

data = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Check a data set and build what training reads: picture caches, text tokenizers, token shards.",
)

SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of pictures with .txt captions beside them; a CSV, TSV, JSON, JSONL or Parquet file; "
        "a zip or tar; WebDataset shards; a saved Hugging Face data set.",
        show_default=False,
    ),
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="Which column of a table holds what: image=photo, caption.zh=title, keyword.en=tags, "
        "style.en=look, key=…, source=…, split=…. Usual names are found.",
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--images", help="The folder of a table's pictures (default: its own)."),
]
CaptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--caption",
        metavar="[LANG=]TEXT",
        help='One caption for every picture, instead of its own: "en=An image of ink style".',
    ),
]
TranslateOption = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Add Chinese captions: a command that reads captions, one a line, and writes as many lines.",
    ),
]
BytesOption = Annotated[int | None, typer.Option(help="Refuse larger picture files (default: 64 MiB).")]
PixelsOption = Annotated[
    int | None, typer.Option(help="Refuse larger pictures (default: 64 million pixels).")
]
ValidationOption = Annotated[
    float,
    typer.Option(help='Share of the pictures for the split "val", where no column says it.', min=0, max=1),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
SizeOption = Annotated[int, typer.Option("--size", help="Side of the square pictures, in pixels.", min=1)]
ResampleOption = Annotated[
    str, typer.Option(help="How to resize: bilinear (as CogView did), box, bicubic or lanczos.")
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", help="Write the report, with every rejected record, as JSON."),
]


@data.command("check")
def check_command(
    source: SourceArgument,
    column: ColumnOption = None,
    images: ImagesOption = None,
    caption: CaptionOption = None,
    translate: TranslateOption = None,
    validation: ValidationOption = 0.02,
    max_bytes: BytesOption = None,
    max_pixels: PixelsOption = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every record, count what is good and explain what is not. Exit code 2 if anything was rejected."""
    from cogview.data.check import check

    opened = _open(source, column, images, caption, translate, validation)
    with _progress("checking") as progress:
        found = check(opened, _limits(max_bytes, max_pixels), progress)
    if report:
        _save_report(found, report)
    _show(found, as_json)
    if found.bad:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.rejected.items())
        raise CogViewError(f"{source}: {found.bad:,} of {found.records:,} records cannot be used: {reasons}")


@data.command("build")
def build_command(
    source: SourceArgument,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The directory for the shards.", show_default=False)
    ],
    image_tokenizer: Annotated[
        Path | None,
        typer.Option("--image-tokenizer", help="An image tokenizer's directory.", show_default=False),
    ] = None,
    text_tokenizer: Annotated[
        Path | None,
        typer.Option("--text-tokenizer", help="A text tokenizer's .model file.", show_default=False),
    ] = None,
    tokenizers: Annotated[
        str | None,
        typer.Option("--tokenizers", metavar="FAMILY", help="Both tokenizers of a model, to finetune it."),
    ] = None,
    column: ColumnOption = None,
    images: ImagesOption = None,
    caption: CaptionOption = None,
    translate: TranslateOption = None,
    validation: ValidationOption = 0.02,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            help="Side of the pictures (default: the tokenizer's own; --scale times it to upscale).",
            min=1,
        ),
    ] = None,
    super_resolution: Annotated[
        bool,
        typer.Option("--super-resolution", help="Encode each picture small too, for upscaling."),
    ] = False,
    scale: Annotated[
        int,
        typer.Option("--scale", help="For super-resolution: how many times smaller a side is then.", min=2),
    ] = 2,
    resample: ResampleOption = "bilinear",
    max_bytes: BytesOption = None,
    max_pixels: PixelsOption = None,
    batch: Annotated[int, typer.Option(help="Pictures encoded at once.", min=1)] = 64,
    shard_records: Annotated[int, typer.Option(help="Records of the source to a shard.", min=1)] = 4096,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete an earlier build and begin anew.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Encode pictures and captions into token shards. A build that stopped goes on when run again."""
    from cogview.data.build import Builder, BuildSettings
    from cogview.tokenizers.images import read_image_tokenizer
    from cogview.tokenizers.text import TextTokenizer

    images_at, texts_at = _tokenizers(image_tokenizer, text_tokenizer, tokenizers)
    encoder, pieces = read_image_tokenizer(images_at), TextTokenizer.from_file(texts_at)
    settings = BuildSettings(
        preprocessing=_preprocessing(
            size or encoder.image_size * (scale if super_resolution else 1), resample
        ),
        super_resolution=super_resolution,
        scale=scale,
        limits=_limits(max_bytes, max_pixels),
        shard_records=shard_records,
        batch=batch,
    )
    opened = _open(source, column, images, caption, translate, validation)
    builder = Builder(opened, out, encoder, pieces, settings)
    with _progress("encoding") as progress:
        found = builder.run(restart, progress)
    _show(found, as_json)


@data.command("convert")
def convert_command(
    released: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A flat int32 file or an LMDB of CogView's.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The directory for the shards.", show_default=False)
    ],
    tokenizers: Annotated[
        str,
        typer.Option("--tokenizers", metavar="FAMILY", help="The imported family whose ids the data are."),
    ],
    validation: ValidationOption = 0.02,
) -> None:
    """Turn data that CogView's own tools tokenised into token shards."""
    from cogview.data.convert import Conversion, convert
    from cogview.family import Family

    family = Family.find(tokenizers)
    prints, images = family.config.fingerprints, family.image_tokenizer()
    meaning = Conversion(
        family.config.vocabulary,
        (prints.image_tokenizer, prints.text_tokenizer),
        images.config.factor,
        family.text_tokenizer().encode,
    )
    with _progress("converting") as progress:
        shards = convert(released, out, meaning, validation, progress)
    typer.echo(f"{len(shards):,} pairs in {out}")


@data.command("cache")
def cache_command(
    source: SourceArgument,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The directory for the cache.", show_default=False)
    ],
    size: SizeOption,
    column: ColumnOption = None,
    images: ImagesOption = None,
    caption: CaptionOption = None,
    translate: TranslateOption = None,
    validation: ValidationOption = 0.02,
    resample: ResampleOption = "bilinear",
    max_bytes: BytesOption = None,
    max_pixels: PixelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decode every picture once into one file, for training an image tokenizer (captions are not needed)."""
    from cogview.data.image_cache import build_image_cache

    preprocessing, limits = _preprocessing(size, resample), _limits(max_bytes, max_pixels)
    opened = _open(source, column, images, caption, translate, validation)
    with _progress("decoding") as progress:
        cache = build_image_cache(opened, out, preprocessing, limits, progress)
    _show(cache.index.report, as_json)


@data.command("text-tokenizer")
def text_tokenizer_command(
    source: SourceArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .model file to write.", show_default=False)],
    pieces: Annotated[int, typer.Option(help="How many pieces to learn.", min=1)] = 8000,
    column: ColumnOption = None,
    images: ImagesOption = None,
    caption: CaptionOption = None,
    translate: TranslateOption = None,
) -> None:
    """Learn a text tokenizer from all captions, those with style phrases and the keywords among them."""
    from cogview.tokenizers.text import TextTokenizer

    records = _open(source, column, images, caption, translate).records()
    texts = (caption.text for record in records for caption in record.captions)
    tokenizer = TextTokenizer.train(texts, pieces)
    out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out)
    typer.echo(f"{tokenizer.pieces:,} pieces in {out}")


def _open(
    source: Path,
    column: list[str] | None,
    images: Path | None,
    caption: list[str] | None,
    translate: str | None,
    validation: float = 0.02,
) -> Source:
    from cogview.data import sources

    opened = sources.open_source(source, sources.Columns.parse(column or []), images, validation)
    if caption:
        opened = sources.CaptionedSource(opened, _captions(caption))
    if translate:
        command = sources.command_translator(translate)
        opened = sources.TranslatedSource(opened, command, name=translate)
    return opened


def _tokenizers(images: Path | None, texts: Path | None, family: str | None) -> tuple[Path, Path]:
    """Where both tokenizers are: as given, else a family's."""
    from cogview.family import Family

    if family:
        found = Family.find(family)
        images = images or found.directory / found.config.image_tokenizer
        texts = texts or found.directory / found.config.text_tokenizer
    if images is None or texts is None:
        missing = "--image-tokenizer" if images is None else "--text-tokenizer"
        raise CogViewError(f"give {missing}, or --tokenizers FAMILY for those of a model")
    return images, texts


def _captions(given: list[str]) -> dict[str, list[str]]:
    """Captions by language; a text without ``LANG=`` has none."""
    found: dict[str, list[str]] = {}
    for text in given:
        language, equals, words = text.partition("=")
        tagged = bool(equals) and language.isascii() and language.isalpha() and len(language) <= 3
        found.setdefault(language if tagged else "", []).append(words.strip() if tagged else text.strip())
    if not all(text for texts in found.values() for text in texts):
        raise CogViewError("--caption: the text is empty; write LANG=TEXT or TEXT")
    return found


def _limits(max_bytes: int | None, max_pixels: int | None) -> Limits:
    from cogview.config import validate
    from cogview.data.images import Limits

    given = {"max_bytes": max_bytes, "max_pixels": max_pixels}
    return validate(Limits, {name: value for name, value in given.items() if value is not None}, "limits")


def _preprocessing(size: int, resample: str) -> Preprocessing:
    from cogview.config import validate
    from cogview.data.shards import Preprocessing

    return validate(Preprocessing, {"size": size, "resample": resample}, "preprocessing")


def _save_report(report: Report, path: Path) -> None:
    try:
        report.save(path)
    except OSError as error:
        raise CogViewError(f"{path} cannot be written: {error.strerror}; give another file") from error


def _show(report: Report, as_json: bool) -> None:
    typer.echo(report.model_dump_json(indent=2) if as_json else "\n".join(report.lines()))


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)
