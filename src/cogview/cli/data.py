"""``cogview data``: is a data set fit to train on, and making what training reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli.arguments import existing, model_name
from cogview.cli.progress import bar
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.data.build import Share
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
    typer.Option("--images", callback=existing, help="The folder of a table's pictures (default: its own)."),
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
TranslationsOption = Annotated[
    Path | None,
    typer.Option(
        "--translations",
        metavar="FOLDER",
        help="Where translations are kept, so that nothing is translated twice (build: OUT/translations).",
        show_default=False,
    ),
]
BytesOption = Annotated[int | None, typer.Option(help="Refuse larger picture files (default: 64 MiB).")]
PixelsOption = Annotated[
    int | None, typer.Option(help="Refuse larger pictures (default: 64 million pixels).")
]
SecondsOption = Annotated[
    float | None, typer.Option(help="Refuse pictures that take longer to decode (default: 30 s).")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that decode pictures (default: one a core but one, at most 8). "
        "0: none, and no limit of time.",
    ),
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
    translations: TranslationsOption = None,
    validation: ValidationOption = 0.02,
    max_bytes: BytesOption = None,
    max_pixels: PixelsOption = None,
    max_seconds: SecondsOption = None,
    workers: WorkersOption = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every record, count what is good and explain what is not.

    Exit code 2 if a picture or a caption cannot be used. Pictures that only lack a caption are counted, too;
    train-on calls them after their files.
    """
    from cogview.data.check import check

    opened = _open(source, column, images, caption, (translate, translations), validation)
    limits, processes = limits_of(max_bytes, max_pixels, max_seconds), _workers(workers, opened)
    with bar("checking", "count") as progress:
        found = check(opened, limits, progress, processes)
    if report:
        _save_report(found, report)
    _show(found, as_json)
    if found.bad == found.nameless > 0:
        told = "build leaves them out, train-on calls them after their files (--unnamed)"
        typer.echo(f"{found.nameless:,} pictures have no caption: {told}", err=True)
    elif found.bad:
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
        typer.Option(
            "--image-tokenizer", callback=existing, help="An image tokenizer's directory.", show_default=False
        ),
    ] = None,
    text_tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--text-tokenizer", callback=existing, help="A text tokenizer's .model file.", show_default=False
        ),
    ] = None,
    tokenizers: Annotated[
        str | None,
        typer.Option(
            "--tokenizers",
            callback=model_name,
            metavar="FAMILY",
            help="Both tokenizers of a model, to finetune it.",
        ),
    ] = None,
    column: ColumnOption = None,
    images: ImagesOption = None,
    caption: CaptionOption = None,
    translate: TranslateOption = None,
    translations: TranslationsOption = None,
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
    max_seconds: SecondsOption = None,
    workers: WorkersOption = None,
    rank: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Which of --ranks this is (default: as torchrun, Slurm or mpirun say).",
            show_default=False,
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many machines or GPUs share the build; each takes its own part.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes the GPU of this rank.")
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Pictures encoded at once.", min=1)] = 64,
    shard_records: Annotated[int, typer.Option(help="Records of the source to a shard.", min=1)] = 4096,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete an earlier build and begin anew.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Encode pictures and captions into token shards. A build that stopped goes on when run again.

    cogview data build pets/ tokens/ --tokenizers pictogram

    On several machines with a shared folder, or with several GPUs:

    torchrun --nproc-per-node 8 --no-python cogview data build pets/ tokens/ --tokenizers pictogram

    cogview data build pets/ tokens/ --tokenizers pictogram --rank 3 --ranks 16
    """
    from cogview.data.shards import TRANSLATIONS

    images_at, texts_at = _tokenizers(image_tokenizer, text_tokenizer, tokenizers)
    kept = translations or out / TRANSLATIONS
    opened = _open(source, column, images, caption, (translate, kept), validation)
    _preprocessing(size or 1, resample)
    from cogview.data.build import Builder, BuildSettings
    from cogview.data.encoding import OnDevice, encoding_device
    from cogview.tokenizers.images import read_image_tokenizer
    from cogview.tokenizers.text import TextTokenizer

    share = _share(rank, ranks)
    encoder, pieces = read_image_tokenizer(images_at), TextTokenizer.from_file(texts_at)
    settings = BuildSettings(
        preprocessing=_preprocessing(
            size or encoder.image_size * (scale if super_resolution else 1), resample
        ),
        super_resolution=super_resolution,
        scale=scale,
        limits=limits_of(max_bytes, max_pixels, max_seconds),
        shard_records=shard_records,
        batch=batch,
        workers=_workers(workers, opened),
    )
    builder = Builder(opened, out, OnDevice(encoder, encoding_device(device)), pieces, settings, share)
    with bar("encoding", "count") as progress:
        found = builder.run(restart, progress)
    if found.report:
        _show(found.report, as_json)
        _say_sizes(found.report, out, as_json)
    else:
        here = (
            f"rank {share.rank} of {share.ranks}: its part is done, {found.done} of {found.blocks} shards are"
        )
        typer.echo(f"{here}; the last rank puts the data set together")


@data.command("convert")
def convert_command(
    released: Annotated[
        Path,
        typer.Argument(
            callback=existing,
            metavar="FILE",
            help="A flat int32 file or an LMDB of CogView's.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The directory for the shards.", show_default=False)
    ],
    tokenizers: Annotated[
        str,
        typer.Option(
            "--tokenizers",
            callback=model_name,
            metavar="FAMILY",
            help="The imported family whose ids the data are.",
        ),
    ],
    validation: ValidationOption = 0.02,
) -> None:
    """Turn data that CogView's own tools tokenised into token shards."""
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.data.convert import Conversion, convert

    family = ModelBundle.find(tokenizers)
    prints, images = family.config.fingerprints, family.image_tokenizer()
    meaning = Conversion(
        family.config.vocabulary,
        (prints.image_tokenizer, prints.text_tokenizer),
        images.config.factor,
        family.text_tokenizer().encode,
    )
    with bar("converting", "count") as progress:
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
    translations: TranslationsOption = None,
    validation: ValidationOption = 0.02,
    resample: ResampleOption = "bilinear",
    max_bytes: BytesOption = None,
    max_pixels: PixelsOption = None,
    max_seconds: SecondsOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decode every picture once into one file, for training an image tokenizer (captions are not needed)."""
    preprocessing, limits = _preprocessing(size, resample), limits_of(max_bytes, max_pixels, max_seconds)
    opened = _open(source, column, images, caption, (translate, translations), validation)
    from cogview.data.image_cache import build_image_cache

    with bar("decoding", "count") as progress:
        processes = _workers(workers, opened)
        cache = build_image_cache(opened, out, preprocessing, limits, progress, processes)
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
    translations: TranslationsOption = None,
) -> None:
    """Learn a text tokenizer from all captions, those with style phrases and the keywords among them."""
    from cogview.tokenizers.text import TextTokenizer

    records = _open(source, column, images, caption, (translate, translations)).records()
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
    translation: tuple[str | None, Path | None],
    validation: float = 0.02,
) -> Source:
    from cogview.data import sources

    opened = sources.open_source(source, sources.Columns.parse(column or []), images, validation)
    if caption:
        opened = sources.CaptionedSource(opened, _captions(caption))
    translate, kept = translation
    if translate:
        command = sources.command_translator(translate)
        opened = sources.TranslatedSource(opened, command, name=translate, cache=kept)
    return opened


def _tokenizers(images: Path | None, texts: Path | None, family: str | None) -> tuple[Path, Path]:
    """Where both tokenizers are: as given, else a family's."""
    from cogview.checkpoints.bundle import ModelBundle

    if family:
        found = ModelBundle.find(family)
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


def _share(rank: int | None, ranks: int | None) -> Share:
    """The part of a build that is this process's: as given, else as its launcher says."""
    from cogview.data.build import Share
    from cogview.data.ranks import rank_here

    if (rank is None) != (ranks is None):
        raise CogViewError("give --rank and --ranks together, or neither")
    return Share(rank, ranks) if rank is not None and ranks is not None else Share(*rank_here())


def _workers(given: int | None, source: Source) -> int:
    """How many processes decode; few records need few."""
    from cogview.data.decoding import workers_for

    return given if given is not None else workers_for(source)


def _say_sizes(report: Report, out: Path, as_json: bool) -> None:
    """How much smaller the shards are than the picture files, on stderr where the report is for programs."""
    from cogview.data.shards import read_index

    shards = sum(file.bytes for entry in read_index(out).shards for file in entry.files.values())
    times = report.picture_bytes / max(shards, 1)
    line = (
        f"  picture files {_bytes(report.picture_bytes)}, shards {_bytes(shards)}: {times:.1f} times smaller"
    )
    typer.echo(line, err=as_json)


def _bytes(count: int) -> str:
    """Bytes for people: ``12.3 MB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def limits_of(max_bytes: int | None, max_pixels: int | None, seconds: float | None = None) -> Limits:
    from cogview.config import validate
    from cogview.data.images import Limits

    given = {"max_bytes": max_bytes, "max_pixels": max_pixels, "seconds": seconds}
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
