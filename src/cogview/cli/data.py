"""``cogview data``: is a data set fit to train on, and making what training reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import BeforeValidator

from cogview.cli.options import (
    JSON,
    Check,
    Existing,
    MaybeExisting,
    MaybeModelName,
    ModelName,
    check_device,
    grouped,
)
from cogview.cli.output import bar, writing
from cogview.config import Config, option
from cogview.data.images import Limits
from cogview.data.sources import VALIDATION, Source, parse_captions
from cogview.errors import CogViewError
from cogview.types import Resample

if TYPE_CHECKING:
    from cogview.data.build import Share
    from cogview.data.shards import Preprocessing
    from cogview.data.tally import Report

data = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Check a data set and build what training reads: picture caches, text tokenizers, token shards.",
)


class Origin(Config):
    """Where the data are, and how they are read."""

    source: Path = option(
        ...,
        "A folder of pictures with .txt captions beside them; a CSV, TSV, JSON, JSONL or Parquet file; a zip "
        "or tar; WebDataset shards; a saved Hugging Face data set.",
        argument=True,
        metavar="SOURCE",
    )
    column: tuple[str, ...] = option(
        (),
        "Which column of a table holds what: image=photo, caption.zh=title, keyword.en=tags, style.en=look, "
        "key=…, source=…, split=…. Usual names are found.",
        metavar="ROLE=NAME",
        repeated=True,
    )
    images: MaybeExisting = option(None, "The folder of a table's pictures.", shown="its own")
    caption: Annotated[dict[str, tuple[str, ...]], BeforeValidator(parse_captions)] = option(
        {},
        'One caption for every picture, instead of its own: "en=An image of ink style".',
        metavar="[LANG=]TEXT",
        repeated=True,
    )
    translate: str | None = option(
        None,
        "Add Chinese captions: a command that reads captions, one a line, and writes as many lines.",
        metavar="COMMAND",
    )
    translations: Path | None = option(
        None,
        "Where translations are kept, so that nothing is translated twice (build: OUT/translations).",
        metavar="FOLDER",
    )

    def open(self, validation: float = VALIDATION, kept: Path | None = None) -> Source:
        """The source; ``kept``: where translations are kept if nothing is said."""
        from cogview.data import sources

        columns = sources.Columns.parse(list(self.column))
        opened = sources.open_source(self.source, columns, self.images, validation)
        if self.caption:
            opened = sources.CaptionedSource(opened, self.caption)
        if self.translate:
            command, cache = sources.command_translator(self.translate), self.translations or kept
            opened = sources.TranslatedSource(opened, command, name=self.translate, cache=cache)
        return opened


class Decoding(Config):
    """How pictures are decoded, and which are held out."""

    validation: float = option(
        VALIDATION, 'Share of the pictures for the split "val", where no column says it.', ge=0, le=1
    )
    limits: Limits = Limits()
    workers: int | None = option(
        None,
        "Processes that decode pictures; 0: none, and no limit of time.",
        shown="one a core but one, at most 8",
        ge=0,
    )

    def processes(self, source: Source) -> int:
        """How many processes decode; few records need few."""
        from cogview.data.decoding import workers_for

        return self.workers if self.workers is not None else workers_for(source)


class Square(Config):
    """How pictures are made square."""

    resample: Resample = option("bilinear", "How to resize; bilinear as CogView did.")
    crop: Literal["centre", "random"] = option(
        "centre",
        "centre: of the picture made small; random: a square of the picture as it is, at a random place.",
    )

    def of(self, size: int) -> Preprocessing:
        """For pictures of this size in pixels."""
        from cogview.data.shards import Preprocessing

        return Preprocessing(size=size, resample=self.resample, crop=self.crop)


class Checking(Config):
    """What becomes of the report."""

    report: Path | None = option(None, "Write the report, with every rejected record, as JSON.")
    as_json: bool = JSON


@data.command("check")
@grouped()
def check_command(origin: Origin, decoding: Decoding, checking: Checking) -> None:
    """Read every record, count what is good and explain what is not.

    Exit code 2 if a picture or a caption cannot be used; what filters take out is counted, and so are
    pictures that only lack a caption: train-on calls them after their files.
    """
    from cogview.data.check import check

    opened = origin.open(decoding.validation)
    processes = decoding.processes(opened)
    with bar("checking", "count") as progress:
        found = check(opened, decoding.limits, progress, processes)
    if checking.report:
        with writing(checking.report):
            found.save(checking.report)
    _show(found, checking.as_json)
    if found.bad == found.nameless > 0:
        told = "build leaves them out, train-on calls them after their files (--unnamed)"
        typer.echo(f"{found.nameless:,} pictures have no caption: {told}", err=True)
    elif broken := found.bad - found.filtered:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.rejected.items())
        raise CogViewError(
            f"{origin.source}: {broken:,} of {found.records:,} records cannot be used: {reasons}"
        )


class Tokenizers(Config):
    """What encodes pictures and captions."""

    image_tokenizer: MaybeExisting = option(None, "An image tokenizer's directory.")
    text_tokenizer: MaybeExisting = option(None, "A text tokenizer's .model file.")
    tokenizers: MaybeModelName = option(None, "Both tokenizers of a model, to finetune it.", metavar="FAMILY")

    def places(self) -> tuple[Path, Path]:
        """Where both are: as given, else a family's."""
        from cogview.checkpoints.bundle import ModelBundle

        images, texts = self.image_tokenizer, self.text_tokenizer
        if self.tokenizers:
            found = ModelBundle.find(self.tokenizers)
            images = images or found.directory / found.config.image_tokenizer
            texts = texts or found.directory / found.config.text_tokenizer
        if images is None or texts is None:
            missing = "--image-tokenizer" if images is None else "--text-tokenizer"
            raise CogViewError(f"give {missing}, or --tokenizers FAMILY for those of a model")
        return images, texts


class Building(Config):
    """Where shards go, and how they are made."""

    out: Path = option(..., "The directory for the shards.", argument=True, metavar="OUT")
    size: int | None = option(
        None, "Side of the pictures.", shown="the tokenizer's own; --scale times it to upscale", ge=1
    )
    super_resolution: bool = option(False, "Encode each picture small too, for upscaling.")
    scale: int = option(2, "For super-resolution: how many times smaller a side is then.", ge=2)
    rank: int | None = option(
        None, "Which of --ranks this is.", shown="as torchrun, Slurm or mpirun say", ge=0
    )
    ranks: int | None = option(
        None, "How many machines or GPUs share the build; each takes its own part.", shown="the same", ge=1
    )
    device: Annotated[str, Check(check_device)] = option(
        "auto", "auto, cpu, cuda, cuda:N or mps; auto takes the GPU of this rank."
    )
    batch: int = option(64, "Pictures encoded at once.", ge=1)
    shard_records: int = option(4096, "Records of the source to a shard.", ge=1)
    restart: bool = option(False, "Delete an earlier build and begin again.")
    as_json: bool = JSON

    def share(self) -> Share:
        """The part of the build that is this process's: as given, else as its launcher says."""
        from cogview.data.build import Share
        from cogview.data.launchers import rank_here

        if (self.rank is None) != (self.ranks is None):
            raise CogViewError("give --rank and --ranks together, or neither")
        if self.rank is not None and self.ranks is not None:
            return Share(self.rank, self.ranks)
        return Share(*rank_here())


@data.command("build")
@grouped()
def build_command(
    origin: Origin, building: Building, tokenizers: Tokenizers, decoding: Decoding, square: Square
) -> None:
    """Encode pictures and captions into token shards. A build that stopped goes on when run again.

    cogview data build pets/ tokens/ --tokenizers pictogram

    On several machines with a shared folder, or with several GPUs:

    torchrun --nproc-per-node 8 --no-python cogview data build pets/ tokens/ --tokenizers pictogram

    cogview data build pets/ tokens/ --tokenizers pictogram --rank 3 --ranks 16
    """
    from cogview.data.shards import TRANSLATIONS

    images_at, texts_at = tokenizers.places()
    out, opened = building.out, origin.open(decoding.validation, building.out / TRANSLATIONS)
    from cogview.data.build import Builder, BuildSettings
    from cogview.data.encoding import OnDevice, encoding_device
    from cogview.tokenizers.loading import read_image_tokenizer
    from cogview.tokenizers.text import TextTokenizer

    share, encoder = building.share(), read_image_tokenizer(images_at)
    times = building.scale if building.super_resolution else 1
    settings = BuildSettings(
        preprocessing=square.of(building.size or encoder.image_size * times),
        super_resolution=building.super_resolution,
        scale=building.scale,
        limits=decoding.limits,
        shard_records=building.shard_records,
        batch=building.batch,
        workers=decoding.processes(opened),
    )
    on_device, text = OnDevice(encoder, encoding_device(building.device)), TextTokenizer.from_file(texts_at)
    builder = Builder(opened, out, on_device, text, settings, share)
    with bar("encoding", "count") as progress:
        found = builder.run(building.restart, progress)
    if found.report:
        _show(found.report, building.as_json)
        _say_sizes(found.report, out, building.as_json)
    else:
        here = (
            f"rank {share.rank} of {share.ranks}: its part is done, {found.done} of {found.blocks} shards are"
        )
        typer.echo(f"{here}; the last rank puts the data set together")


class Released(Config):
    """What is converted."""

    released: Existing = option(
        ..., "A flat int32 file or an LMDB of CogView's.", argument=True, metavar="FILE"
    )
    out: Path = option(..., "The directory for the shards.", argument=True, metavar="OUT")
    tokenizers: ModelName = option(..., "The imported family whose ids the data are.", metavar="FAMILY")
    validation: float = option(VALIDATION, 'Share of the pairs for the split "val".', ge=0, le=1)


@data.command("convert")
@grouped()
def convert_command(given: Released) -> None:
    """Turn data that CogView's own tools tokenised into token shards."""
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.data.convert import Conversion, convert

    family = ModelBundle.find(given.tokenizers)
    prints, images = family.config.fingerprints, family.image_tokenizer()
    meaning = Conversion(
        family.config.vocabulary,
        (prints.image_tokenizer, prints.text_tokenizer),
        images.config.factor,
        family.text_tokenizer().encode,
    )
    with bar("converting", "count") as progress:
        shards = convert(given.released, given.out, meaning, given.validation, progress)
    typer.echo(f"{len(shards):,} pairs in {given.out}")


class Cache(Config):
    """The cache that is made."""

    out: Path = option(..., "The directory for the cache.", argument=True, metavar="OUT")
    size: int = option(..., "Side of the square pictures, in pixels.", ge=1)
    as_json: bool = JSON


@data.command("cache")
@grouped()
def cache_command(origin: Origin, cache: Cache, decoding: Decoding, square: Square) -> None:
    """Decode every picture once into one file, for training an image tokenizer (captions are not needed)."""
    opened = origin.open(decoding.validation)
    from cogview.data.image_cache import build_image_cache

    processes, shape = decoding.processes(opened), square.of(cache.size)
    with bar("decoding", "count") as progress:
        found = build_image_cache(opened, cache.out, shape, decoding.limits, progress, processes)
    _show(found.index.report, cache.as_json)


class Learned(Config):
    """The text tokenizer that is made."""

    out: Path = option(..., "The .model file to write.", argument=True, metavar="OUT")
    pieces: int = option(8000, "How many text tokens to learn.", ge=1)
    algorithm: Literal["unigram", "bpe"] = option("unigram", "unigram, as CogView2's icetk; bpe, as CogView.")
    no_byte_fallback: bool = option(False, "What is not covered is unknown, not spelled in bytes.")
    coverage: float = option(0.9995, "Share of the characters that get a piece.", gt=0.9, le=1)
    classes: bool = option(
        False, "Sort pieces by what they are written in: common, English, Chinese, rare; as icetk."
    )


@data.command("text-tokenizer")
@grouped()
def text_tokenizer_command(origin: Origin, learned: Learned) -> None:
    """Learn a text tokenizer from all captions, those with style phrases and the keywords among them.

    cogview data text-tokenizer pets/ work/text.model --pieces 50000 --algorithm bpe

    cogview data text-tokenizer pets/ work/text.model --pieces 130000 --classes
    """
    records = origin.open().records()
    from cogview.tokenizers.language_classes import class_runs, sorted_by_class
    from cogview.tokenizers.text import TextTokenizer

    texts = (caption.text for record in records for caption in record.captions)
    tokenizer = TextTokenizer.train(
        texts,
        learned.pieces,
        algorithm=learned.algorithm,
        byte_fallback=not learned.no_byte_fallback,
        character_coverage=learned.coverage,
    )
    if learned.classes:
        tokenizer = sorted_by_class(tokenizer)
    with writing(learned.out):
        tokenizer.save(learned.out)
    runs = ", ".join(f"{name} {end - first:,}" for name, first, end in class_runs(tokenizer))
    typer.echo(f"{tokenizer.pieces:,} pieces in {learned.out}{f': {runs}' if runs else ''}")


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


def _show(report: Report, as_json: bool) -> None:
    typer.echo(report.model_dump_json(indent=2) if as_json else "\n".join(report.lines()))
